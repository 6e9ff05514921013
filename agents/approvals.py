"""A person decides: questions that a step waits for, and their answers.

A question is bound to the hash of the step's canonical arguments and expires; its answer is used
once, by a decision that names it in the same transaction as the start of the effect. Who answers
may allow less than was asked for, never more. The truth is in each run's chain; the table beside it
finds open questions and counts answers. Everything here works on the journal alone, so the command
line can do it while no stack runs.

Not covered: that `by` is who it says; over HTTP the key's account stands before it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import text

from agents.digests import digest
from agents.events import ApprovalAnswered, ApprovalAsked, ApprovalReminded, WaitBegun, WaitEnded
from agents.journal import require_line, require_name
from agents.journal_sql import SqlJournal
from agents.policy import Decision
from agents.state import Approval, RunState, fold
from agents.tools import TOOLS
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import Clock
from cluster.settings import ApprovalsSection

OPEN: Final = "open"
_TRIES: Final = 5
_COLUMNS: Final = (
    "a.approval, a.tenant, a.run_id, a.step, a.workflow, a.agent, a.tool, a.asked_at,"
    " a.expires_at, a.cents, a.answer, a.answered_by, a.answered_at, a.at_most"
)
_ASK = text(
    "INSERT INTO approvals VALUES (:id, :t, :r, :s, :w, :a, :tool, :at, :exp, :c, 'open', '',"
    " NULL, NULL) ON CONFLICT (approval) DO NOTHING"
)
_ANSWER = text(
    "UPDATE approvals SET answer = :answer, answered_by = :by, answered_at = :at, at_most = :most"
    " WHERE approval = :id"
)
_ONE = text(f"SELECT {_COLUMNS} FROM approvals a WHERE a.approval = :id")
# A run that has ended, or goes on without it, waits for no answer any more.
_LISTED = text(
    f"SELECT {_COLUMNS} FROM approvals a JOIN runs r ON r.run_id = a.run_id"
    " WHERE a.tenant = :t AND (:all = 1 OR (a.answer = 'open' AND a.expires_at > :now"
    " AND r.status IN ('waiting', 'paused'))) ORDER BY a.asked_at DESC, a.approval LIMIT :n"
)
_WAITING = text(
    "SELECT count(*) FROM approvals a JOIN runs r ON r.run_id = a.run_id WHERE a.answer = 'open'"
    " AND a.expires_at > :now AND r.status IN ('waiting', 'paused')"
)
_COUNTED = text(
    "SELECT workflow, answer, count(*) FROM approvals WHERE tenant = :t AND asked_at >= :since"
    " GROUP BY 1, 2 ORDER BY 1, 2"
)


@dataclass(frozen=True)
class ApprovalRow:
    """A question as listed; `answer` is open, approved, narrowed or denied. Times are seconds
    since the epoch, amounts cents."""

    id: str
    tenant: str
    run_id: str
    step: str
    workflow: str
    agent: str
    tool: str
    asked_at: float
    expires_at: float
    cents: int | None
    answer: str = OPEN
    answered_by: str = ""
    answered_at: float | None = None
    at_most: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a person says to a question. `at_most` (cents) allows no more than that.

    InvalidInput for nobody's word, what is too long, and a limit that is none or goes with a no."""

    approved: bool
    by: str
    note: str = ""
    at_most: int | None = None

    def __post_init__(self) -> None:
        require_name("by", self.by)
        require_line("note", self.note)
        if self.at_most is not None and (self.at_most <= 0 or not self.approved):
            raise InvalidInput("at_most", self.at_most, "a positive amount, with an approval alone")


class Approvals:
    """The questions of all runs. Every method is one transaction, or part of the journal's."""

    def __init__(self, journal: SqlJournal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock

    def row(self, id: str, tenant: str | None = None) -> ApprovalRow:
        """A question; NotFound when there is none, or it is another tenant's."""
        with self._journal.connection() as connection:
            found = connection.execute(_ONE, {"id": id}).first()
        if found is None or tenant not in (None, found[1]):
            raise NotFound("approval", id)
        return ApprovalRow(*found)

    def listed(self, tenant: str, everything: bool = False, limit: int = 100) -> list[ApprovalRow]:
        """A tenant's open questions, or all of them, the newest first."""
        now = self._clock.now()
        given = {"t": tenant, "all": int(everything), "now": now, "n": limit}
        with self._journal.connection() as connection:
            return [ApprovalRow(*row) for row in connection.execute(_LISTED, given)]

    def waiting(self) -> int:
        """How many questions of all tenants wait for a person."""
        with self._journal.connection() as connection:
            found = connection.execute(_WAITING, {"now": self._clock.now()})
            return int(found.scalar_one())

    def counted(self, tenant: str, since: float = 0.0) -> dict[str, dict[str, int]]:
        """How many questions a tenant's workflows have asked since then, by answer."""
        counts: dict[str, dict[str, int]] = {}
        given = {"t": tenant, "since": since}
        with self._journal.connection() as connection:
            for workflow, answer, count in connection.execute(_COUNTED, given):
                counts.setdefault(str(workflow), {})[str(answer)] = int(count)
        return counts

    def found(self, id: str, tenant: str | None = None) -> tuple[ApprovalRow, RunState]:
        """A question and its run, whose events are the evidence."""
        row = self.row(id, tenant)
        return row, fold(row.run_id, self._journal.read(row.run_id))

    def answer(self, id: str, said: Answer, tenant: str | None = None) -> ApprovalRow:
        """Answer a question; what it is then. Conflict when somebody was first, it has expired, or
        its run no longer waits for it; InvalidInput for a limit on a tool that spends nothing."""
        for left in reversed(range(_TRIES)):
            row, state = self.found(id, tenant)
            self._require_open(row, state, state.approvals[row.step])
            if said.at_most is not None and row.cents is None:
                raise InvalidInput("at_most", said.at_most, f"none: {row.tool} spends nothing")
            try:
                self._write(row, state, said)
                break
            except Conflict:
                # The run has moved on since it was read: by another answer, or a reminder.
                if not left:
                    raise
        return self.row(id)

    def opened(self, state: RunState, asked: ApprovalAsked) -> Callable[[], None]:
        """What writes the question down, within the transaction that asks it."""
        given = {
            "id": asked.approval, "t": state.tenant, "r": state.run_id, "s": asked.step,
            "w": state.workflow, "a": state.agent, "tool": asked.tool, "at": self._clock.now(),
            "exp": asked.expires_at, "c": asked.cents,
        }  # fmt: skip

        def write() -> None:
            with self._journal.connection() as connection:
                connection.execute(_ASK, given)

        return write

    def _require_open(self, row: ApprovalRow, state: RunState, approval: Approval) -> None:
        what, done = f"approval {row.id}", approval.answered
        if done is not None and approval.asked.approval == row.id:
            said = "approved" if done.approved else "denied"
            raise Conflict(what, f"{done.by} has {said} it first, {_when(approval.answered_at)}")
        if approval.asked.approval != row.id or state.ended is not None or state.cancelled:
            raise Conflict(what, "its run no longer waits for it")
        if self._clock.now() >= approval.asked.expires_at:
            raise Conflict(what, f"it has expired, {_when(approval.asked.expires_at)}")

    def _write(self, row: ApprovalRow, state: RunState, said: Answer) -> None:
        answered = ApprovalAnswered(step=row.step, approval=row.id, **vars(said))
        payloads: list[Any] = [answered]
        wait = state.waiting
        # A paused run stays paused; its wait ends when it is resumed.
        if state.status == "waiting" and wait is not None and wait.signal == row.id:
            told = {"approved": said.approved, "by": said.by}
            payloads.append(WaitEnded(step=wait.step, value=told))
        given = {
            "id": row.id, "by": said.by, "at": self._clock.now(), "most": said.at_most,
            "answer": _word(said, row),
        }  # fmt: skip
        with self._journal.connection() as connection:
            self._journal.append(state.run_id, state.epoch, payloads, after=state.seq)
            connection.execute(_ANSWER, given)


class Asking:
    """How steps ask: whom, for how long, and with which reminders."""

    def __init__(self, section: ApprovalsSection, clock: Clock) -> None:
        self._section, self._clock = section, clock

    def wanted(self, state: RunState) -> bool:
        """Whether a question of this run waits for a person."""
        return (state.options.asks or self._section.asks) == "wait"

    def question(
        self, state: RunState, step: str, tool: str, args: dict[str, Any], decision: Decision
    ) -> tuple[ApprovalAsked, WaitBegun]:
        """What to journal to ask whether `step` may do `tool` with `args`."""
        now, bound = self._clock.now(), digest(tool, args)
        named = "/".join((state.run_id, step, bound, str(state.seq)))
        asked = ApprovalAsked(
            step=step, approval=f"appr_{hashlib.sha256(named.encode()).hexdigest()[:20]}",
            tool=tool, digest=bound, rules=decision.rules, reason=decision.reason,
            expires_at=now + self._section.expires_s, to=self._section.chain[0],
            cents=_cents(tool, args), changed=decision.changed,
        )  # fmt: skip
        return asked, self._wait(asked, now)

    def reminder(self, state: RunState, now: float) -> list[Any]:
        """What to journal because nobody has answered yet; nothing while there is time."""
        wait = state.waiting
        if wait is None or wait.awaited != "approval" or (wait.until or now) > now:
            return []
        for approval in state.approvals.values():
            if approval.asked.approval == wait.signal and approval.answered is None:
                number, chain = approval.reminders + 1, self._section.chain
                told = ApprovalReminded(
                    step=approval.asked.step, approval=wait.signal, number=number,
                    to=chain[min(number, len(chain) - 1)],
                )  # fmt: skip
                return [told, self._wait(approval.asked, now)]
        return []

    def _wait(self, asked: ApprovalAsked, now: float) -> WaitBegun:
        until = min(asked.expires_at, now + self._section.remind_s)
        return WaitBegun(
            step=f"approval:{asked.step}", awaited="approval", signal=asked.approval, until=until
        )


def narrowed(tool: str, args: dict[str, Any], approval: Approval) -> dict[str, Any]:
    """The arguments of a step that policy, and then the answer, cut down. Conflict when the
    question was about others."""
    changed = approval.asked.changed
    args = {**args, **changed}
    if digest(tool, args) != approval.asked.digest:
        raise Conflict(f"approval {approval.asked.approval}", "it is for other arguments")
    most = approval.answered.at_most if approval.answered is not None else None
    cents = _cents(tool, args)
    if most is None or cents is None or cents <= most:
        return changed
    return {**changed, TOOLS[tool].amount: most}


def _cents(tool: str, args: dict[str, Any]) -> int | None:
    name = TOOLS[tool].amount if tool in TOOLS else ""
    return int(args[name]) if name and name in args else None


def _word(said: Answer, row: ApprovalRow) -> str:
    if not said.approved:
        return "denied"
    less = said.at_most is not None and row.cents is not None and said.at_most < row.cents
    return "narrowed" if less else "approved"


def _when(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at or 0.0, UTC):%Y-%m-%d %H:%M:%S} UTC"
