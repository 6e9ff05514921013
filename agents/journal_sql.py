"""The journal on SQLite or PostgreSQL.

What a transaction adds is collected and written by its last two statements. Where many runs' work
is one transaction, their heads are taken from memory: the last statement moves a head only from
where it was believed to be, and if one was elsewhere, all is done again with heads from the
database.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from agents import chain
from agents import journal_schema as schema
from agents.chain import START, Head, Line
from agents.events import Event, RunClaimed, RunOptions, RunStarted
from agents.journal import Feedback, Judgement, RunRow
from cluster.database import Database
from cluster.errors import (
    Conflict,
    MainspringError,
    NotFound,
    StaleEpoch,
)
from cluster.ids import Clock, Ids

_KEPT_HEADS: Final = 20_000
_ALL: Final = 1 << 31


class _Work:
    """What one transaction has read and is about to write."""

    def __init__(self, connection: Connection, heads: dict[str, Head]) -> None:
        self.connection = connection
        self.heads = heads
        self.believed: dict[str, Head] = {}
        self.added: list[dict[str, Any]] = []
        self.ended: list[str] = []

    def put(self, run_id: str, head: Head, epoch: int, lines: Sequence[Line]) -> None:
        """Take note of what stands behind `head` from now on."""
        now = chain.moved(head, epoch, [event for event, _ in lines])
        self.added += [
            {"r": run_id, "s": event.seq, "e": epoch, "at": event.at, "p": data, "h": event.hash}
            for event, data in lines
        ]
        self.believed.setdefault(run_id, head)
        self.heads[run_id] = now
        if now.status == "ended":
            self.ended.append(run_id)

    def flush(self) -> None:
        """Write what is collected. StaleEpoch when a head was not where it was believed to be."""
        moves = [
            {
                "r": run_id, "e": now.epoch, "s": now.seq, "h": now.hash, "st": now.status,
                "u": now.wait_until, "e0": was.epoch, "s0": was.seq,
            }
            for run_id, was in self.believed.items()
            if (now := self.heads[run_id]) is not was
        ]  # fmt: skip
        if moves and self.connection.execute(schema.MOVE, moves).rowcount != len(moves):
            raise StaleEpoch("journal", "a run was moved on by another owner meanwhile")
        # Only now: behind a head that is elsewhere there are events of these numbers already.
        if self.added:
            self.connection.execute(schema.ADD, self.added)
        self.added, self.believed = [], {}


class _Shared(threading.local):
    work: _Work | None = None


class SqlJournal:
    """`agents.journal.Journal`; each object may be used from several threads."""

    def __init__(self, url: str, data_dir: Path, clock: Clock, ids: Ids) -> None:
        self._database = Database(url, "journal", schema.MIGRATIONS, data_dir)
        self._clock = clock
        self._ids = ids
        self._shared = _Shared()
        self._heads: dict[str, Head] = {}

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        # Taken away for as long as it is not known whether they are still true.
        heads, self._heads = self._heads, {}
        if 0 < len(heads) <= _KEPT_HEADS:
            try:
                return self._together(work, heads, _unless_doubtful)
            except (StaleEpoch, _Doubtful):
                pass
        return self._together(work, {}, _answer)

    def _together(
        self,
        work: Sequence[Callable[[], Any]],
        heads: dict[str, Head],
        answer: Callable[[Callable[[], Any]], Any],
    ) -> list[Any]:
        with self._begun(heads) as mine:
            results = [answer(call) for call in work]
        for run_id in mine.ended:
            del heads[run_id]
        self._heads = heads
        return results

    @contextmanager
    def _work(self) -> Iterator[_Work]:
        """The transaction that this thread's work belongs to, or a new one."""
        if self._shared.work is not None:
            yield self._shared.work
            return
        with self._begun({}) as work:
            yield work

    @contextmanager
    def _begun(self, heads: dict[str, Head]) -> Iterator[_Work]:
        """A new transaction, to which all work of this thread belongs."""
        with self._database.transaction() as connection:
            self._shared.work = work = _Work(connection, heads)
            try:
                yield work
                work.flush()
            finally:
                self._shared.work = None

    def create(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any],
        options: RunOptions | None = None, history: Sequence[Any] = (),
    ) -> tuple[str, bool]:  # fmt: skip
        options = options or RunOptions()
        with self._work() as work:
            row = work.connection.execute(schema.FIND, {"t": tenant, "k": key}).first()
            if row:
                return str(row[0]), False
            started = RunStarted(workflow=workflow, agent=agent, input=given, options=options)
            run_id = self._ids.new("run")
            at = self._clock.now()
            lines = chain.lines(run_id, START, 0, at, [started, *history])
            work.connection.execute(
                schema.CREATE,
                {
                    "r": run_id, "t": tenant, "k": key, "w": workflow, "a": agent,
                    "h": START.hash, "now": at, "p": options.priority,
                    "of": options.parent, "d": options.deadline_at,
                },
            )  # fmt: skip
            work.put(run_id, START, 0, lines)
            return run_id, True

    def claim(self, run_id: str, reason: str) -> int:
        with self._work() as work:
            head = self._head(work, run_id)
            _require_open(run_id, head)
            epoch = head.epoch + 1
            self._add(work, run_id, head, epoch, [RunClaimed(epoch=epoch, reason=reason)])
            return epoch

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        with self._work() as work:
            head = self._head(work, run_id)
            if epoch != head.epoch:
                raise StaleEpoch(f"run {run_id}", f"epoch {epoch} was overtaken by {head.epoch}")
            _require_open(run_id, head)
            if after not in (None, head.seq):
                raise Conflict(
                    f"run {run_id}", f"event {after} is no longer its last: {head.seq} is"
                )
            return self._add(work, run_id, head, epoch, payloads)

    def read(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Event]:
        _, rows = self._rows(run_id, after, limit)
        return [chain.event(run_id, row) for row in rows]

    def runs(
        self,
        tenant: str | None = None,
        status: str | None = None,
        agent: str | None = None,
        parent: str | None = None,
        limit: int | None = None,
    ) -> list[RunRow]:
        wanted = {"tenant": tenant, "status": status, "agent": agent, "parent": parent}
        given: dict[str, Any] = {k: v for k, v in wanted.items() if v is not None}
        where = " AND ".join(f"{name} = :{name}" for name in given) or "1 = 1"
        newest = self._listed(
            f"WHERE {where} ORDER BY created_at DESC, run_id DESC LIMIT :n",
            {**given, "n": limit or _ALL},
        )
        return newest[::-1]

    def open_runs(self) -> list[RunRow]:
        return self._listed("WHERE status <> 'ended' ORDER BY created_at, run_id", {})

    def row(self, run_id: str) -> RunRow:
        found = self._listed("WHERE run_id = :r", {"r": run_id})
        if not found:
            raise NotFound("run", run_id)
        return found[0]

    def counts(self) -> dict[str, int]:
        with self._work() as work:
            work.flush()
            rows = work.connection.execute(schema.COUNTS)
            return {str(status): int(count) for status, count in rows}

    def verified(self, run_id: str) -> list[Event]:
        head, rows = self._rows(run_id)
        return chain.whole(run_id, head, rows)

    def verify(self, run_id: str) -> int:
        return len(self.verified(run_id))

    def judge(self, run_id: str, feedback: Feedback) -> Judgement:
        with self._work() as work:
            # The run's row is locked, so that two judges of one run take turns.
            if self._head(work, run_id).status != "ended":
                raise Conflict(f"run {run_id}", "it has not ended, so nobody can judge it yet")
            seq = len(self._judgements(work.connection, run_id)) + 1
            judgement = Judgement(run_id, seq, self._clock.now(), feedback)
            work.connection.execute(
                schema.JUDGE,
                {
                    "r": run_id, "s": seq, "at": judgement.at, "v": feedback.verdict,
                    "b": feedback.by, "n": feedback.note, "c": feedback.text,
                },
            )  # fmt: skip
            return judgement

    def judgements(self, run_id: str) -> list[Judgement]:
        with self._work() as work:
            self._read_head(work, run_id)
            return self._judgements(work.connection, run_id)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """The transaction for what stands beside the runs: agents, schedules."""
        with self._work() as work:
            work.flush()
            yield work.connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only looks at what is on disk, beside whoever writes."""
        with self._database.reading() as connection:
            yield connection

    def close(self) -> None:
        self._database.close()

    def _listed(self, where: str, given: dict[str, Any]) -> list[RunRow]:
        with self._work() as work:
            work.flush()
            rows = work.connection.execute(text(f"{schema.ROW} {where}"), given).all()
        return [RunRow(*row) for row in rows]

    def _rows(
        self, run_id: str, after: int = 0, limit: int | None = None
    ) -> tuple[Head, list[Any]]:
        with self._work() as work:
            head = self._read_head(work, run_id)
            given = {"r": run_id, "after": after, "n": limit or _ALL}
            return head, list(work.connection.execute(schema.EVENTS, given).all())

    def _judgements(self, connection: Connection, run_id: str) -> list[Judgement]:
        rows = connection.execute(schema.JUDGEMENTS, {"r": run_id}).all()
        return [Judgement(run_id, s, at, Feedback(*said)) for s, at, *said in rows]

    def _head(self, work: _Work, run_id: str) -> Head:
        """The head for a write: as this transaction left it, or locked."""
        if run_id in work.heads:
            return work.heads[run_id]
        postgres = work.connection.dialect.name == "postgresql"
        return self._read_head(work, run_id, schema.LOCKED_HEAD if postgres else schema.HEAD)

    def _read_head(self, work: _Work, run_id: str, query: TextClause = schema.HEAD) -> Head:
        work.flush()
        row = work.connection.execute(query, {"r": run_id}).first()
        if row is None:
            raise NotFound("run", run_id)
        return Head(*row)

    def _add(
        self, work: _Work, run_id: str, head: Head, epoch: int, payloads: Sequence[Any]
    ) -> list[Event]:
        lines = chain.lines(run_id, head, epoch, self._clock.now(), payloads)
        work.put(run_id, head, epoch, lines)
        return [event for event, _ in lines]


def _require_open(run_id: str, head: Head) -> None:
    if head.status == "ended":
        raise Conflict(f"run {run_id}", "it has ended")


class _Doubtful(Exception):
    """A call was refused by what memory said; the database may know better."""


def _answer(call: Callable[[], Any]) -> Any:
    # No savepoint around it: a method that raises a MainspringError has written nothing yet.
    try:
        return call()
    except MainspringError as error:
        return error


def _unless_doubtful(call: Callable[[], Any]) -> Any:
    answer = _answer(call)
    if isinstance(answer, Conflict):
        raise _Doubtful
    return answer
