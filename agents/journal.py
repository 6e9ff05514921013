"""What a journal promises; `journal_sql.py` keeps the promise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args

from agents.events import Event, Priority, RunOptions
from cluster.errors import InvalidInput

Verdict = Literal["accepted", "rejected", "corrected"]
VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)
MAX_TEXT: Final = 20_000
MAX_LINE: Final = 2_000
MAX_PAYLOAD: Final = 1_000_000


@dataclass(frozen=True)
class RunRow:
    """A run as listed. `status` is `agents.state.Status`; a run that waits does so at most until
    `wait_until` (seconds since the epoch), and `deadline_at` ends it."""

    run_id: str
    tenant: str
    workflow: str
    agent: str
    status: str
    epoch: int
    created_at: float
    priority: Priority = "interactive"
    parent: str = ""
    deadline_at: float | None = None
    wait_until: float | None = None


def require_name(field: str, value: str) -> None:
    """InvalidInput unless `value` is somebody's name that fits into a line."""
    require_line(field, value)
    if not value.strip():
        raise InvalidInput(field, value, "the name of who says so")


def require_line(field: str, value: str, most: int = MAX_LINE) -> None:
    """InvalidInput for a text that no line of the journal takes."""
    if len(value) > most or "\0" in value:
        raise InvalidInput(field, value, f"at most {most} characters, none of them NUL")


@dataclass(frozen=True)
class Feedback:
    """What a person says of an ended run: whether its outcome was right. `by` names the person;
    `text` is the reply as it should have been, without personal data, and only for `corrected`.

    InvalidInput for an unknown verdict, nobody's feedback, a correction without its text, a text
    with another verdict, and what is too long (text MAX_TEXT, the others MAX_LINE characters).
    """

    verdict: Verdict
    by: str
    note: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InvalidInput("verdict", self.verdict, f"one of {list(VERDICTS)}")
        require_name("by", self.by)
        require_line("note", self.note)
        require_line("text", self.text, MAX_TEXT)
        if (self.verdict == "corrected") != bool(self.text.strip()):
            raise InvalidInput("text", self.text, "the corrected reply with `corrected` alone")


@dataclass(frozen=True)
class Judgement:
    """Feedback at its place: `seq` counts from 1 within its run, `at` is seconds since the
    epoch."""

    run_id: str
    seq: int
    at: float
    feedback: Feedback


class Journal(Protocol):
    """Append-only events by run; every method is one transaction, on disk when it returns."""

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Calls of this journal's other methods, in order, as one transaction: the result of each,
        or the MainspringError that it raised, which undoes that call alone. Unavailable when the
        database fails; then none of them was done."""

    def create(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any],
        options: RunOptions | None = None, history: Sequence[Any] = (),
    ) -> tuple[str, bool]:  # fmt: skip
        """The run of (tenant, key) and whether it is new. Asking twice makes one run. `history` is
        what a fork knows from the run that it was made of."""

    def claim(self, run_id: str, reason: str) -> int:
        """Take the run over: the new epoch, higher than any before. NotFound, or Conflict when
        it has ended."""

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        """Add events after the last one, which is number `after` when that is given. StaleEpoch
        when a later claim was made; Conflict when the run has ended, or has got another last event;
        InvalidInput for an event of more than MAX_PAYLOAD bytes. Adding RunEnded ends the run in
        the same transaction."""

    def read(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Event]:
        """A run's events in order, at most `limit`, from the one behind number `after` on. NotFound
        when there is no such run."""

    def verified(self, run_id: str) -> list[Event]:
        """All events of a run; DataError at the first broken link of its hash chain."""

    def verify(self, run_id: str) -> int:
        """How many events the run's hash chain holds; DataError as for `verified`."""

    def row(self, run_id: str) -> RunRow:
        """One run as listed; NotFound when there is none."""

    def runs(
        self, tenant: str | None = None, status: str | None = None, agent: str | None = None,
        parent: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:  # fmt: skip
        """Runs by tenant, status, agent and parent, oldest first; of many the newest `limit`."""

    def open_runs(self) -> list[RunRow]:
        """All runs that have not ended, oldest first."""

    def counts(self) -> dict[str, int]:
        """How many runs there are in each status."""

    def judge(self, run_id: str, feedback: Feedback) -> Judgement:
        """Add feedback on an ended run; it stands beside the run's chain, which stays as it is.
        NotFound when there is no such run, Conflict when it has not ended."""

    def judgements(self, run_id: str) -> list[Judgement]:
        """All feedback on a run in order; the last one counts. NotFound for an unknown run."""
