"""The journal on SQLite or PostgreSQL.

What a transaction adds is collected and written by its last two statements. Where many runs' work
is one transaction, their heads are taken from memory: the last statement moves a head only from
where it was believed to be, and if one was elsewhere, all is done again with heads from the
database.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from agents.events import (
    CancelAsked,
    EffectParked,
    EffectResolved,
    Event,
    RunClaimed,
    RunEnded,
    RunOptions,
    RunPaused,
    RunResumed,
    RunStarted,
    WaitBegun,
    WaitEnded,
    parse,
)
from agents.journal import MAX_PAYLOAD, Feedback, Judgement, RunRow
from cluster.database import Database
from cluster.errors import (
    Conflict,
    DataError,
    InvalidInput,
    MainspringError,
    NotFound,
    StaleEpoch,
)
from cluster.ids import Clock, Ids

MIGRATIONS = (
    """
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, idempotency_key TEXT NOT NULL,
        workflow TEXT NOT NULL, agent TEXT NOT NULL, status TEXT NOT NULL,
        epoch BIGINT NOT NULL, last_seq BIGINT NOT NULL, last_hash TEXT NOT NULL,
        created_at DOUBLE PRECISION NOT NULL,
        UNIQUE (tenant, idempotency_key)
    );
    CREATE INDEX runs_by_status ON runs (status, created_at);
    CREATE INDEX runs_by_agent ON runs (tenant, agent, created_at);
    CREATE TABLE events (
        run_id TEXT NOT NULL, seq BIGINT NOT NULL, epoch BIGINT NOT NULL,
        at DOUBLE PRECISION NOT NULL, payload TEXT NOT NULL, hash TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    )
    """,
    """
    CREATE TABLE feedback (
        run_id TEXT NOT NULL, seq BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL,
        verdict TEXT NOT NULL, judge TEXT NOT NULL, note TEXT NOT NULL, corrected TEXT NOT NULL,
        PRIMARY KEY (run_id, seq)
    )
    """,
    """
    ALTER TABLE runs ADD COLUMN priority TEXT NOT NULL DEFAULT 'interactive';
    ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT '';
    ALTER TABLE runs ADD COLUMN deadline_at DOUBLE PRECISION;
    ALTER TABLE runs ADD COLUMN wait_until DOUBLE PRECISION;
    CREATE INDEX runs_by_parent ON runs (parent);
    CREATE TABLE agents (
        tenant TEXT NOT NULL, agent TEXT NOT NULL, workflow TEXT NOT NULL, status TEXT NOT NULL,
        spec TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, agent)
    );
    CREATE TABLE snapshots (
        tenant TEXT NOT NULL, agent TEXT NOT NULL, version BIGINT NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (tenant, agent)
    );
    CREATE TABLE schedules (
        tenant TEXT NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL,
        next_at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, name)
    )
    """,
)

_GENESIS: Final = "0" * 64
_KEPT_HEADS: Final = 20_000
_ALL: Final = 1 << 31
# What a run's status is after an event; the others leave it as it is.
_STATUS: Final = {
    WaitBegun: "waiting", WaitEnded: "open", EffectParked: "parked",
    EffectResolved: "open", RunPaused: "paused", RunResumed: "open", CancelAsked: "open",
    RunEnded: "ended",
}  # fmt: skip

# Built once: what SQLAlchemy makes of a text costs more than the database's own work on it.
_FIND = text("SELECT run_id FROM runs WHERE tenant = :t AND idempotency_key = :k")
_CREATE = text(
    "INSERT INTO runs (run_id, tenant, idempotency_key, workflow, agent, status, epoch, last_seq,"
    " last_hash, created_at, priority, parent, deadline_at)"
    " VALUES (:r, :t, :k, :w, :a, 'open', 0, 0, :h, :now, :p, :of, :d)"
)
_HEAD = text("SELECT status, epoch, last_seq, last_hash, wait_until FROM runs WHERE run_id = :r")
# SQLite's writers take turns already; on PostgreSQL two owners of one run must.
_LOCKED_HEAD = text(f"{_HEAD.text} FOR UPDATE")
_ADD = text("INSERT INTO events VALUES (:r, :s, :e, :at, :p, :h)")
_MOVE = text(
    "UPDATE runs SET epoch = :e, last_seq = :s, last_hash = :h, status = :st, wait_until = :u"
    " WHERE run_id = :r AND epoch = :e0 AND last_seq = :s0 AND status <> 'ended'"
)
_EVENTS = text(
    "SELECT seq, epoch, at, payload, hash FROM events WHERE run_id = :r AND seq > :after"
    " ORDER BY seq LIMIT :n"
)
_ROW = (
    "SELECT run_id, tenant, workflow, agent, status, epoch, created_at, priority, parent,"
    " deadline_at, wait_until FROM runs"
)
_JUDGE = text("INSERT INTO feedback VALUES (:r, :s, :at, :v, :b, :n, :c)")
_JUDGEMENTS = text(
    "SELECT seq, at, verdict, judge, note, corrected FROM feedback WHERE run_id = :r ORDER BY seq"
)


@dataclass(frozen=True)
class _Head:
    """The end of a run's chain."""

    status: str
    epoch: int
    seq: int
    hash: str
    wait_until: float | None


class _Work:
    """What one transaction has read and is about to write."""

    def __init__(self, connection: Connection, heads: dict[str, _Head]) -> None:
        self.connection = connection
        self.heads = heads
        self.believed: dict[str, _Head] = {}
        self.added: list[dict[str, Any]] = []
        self.ended: list[str] = []

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
        if moves and self.connection.execute(_MOVE, moves).rowcount != len(moves):
            raise StaleEpoch("journal", "a run was moved on by another owner meanwhile")
        # Only now: behind a head that is elsewhere there are events of these numbers already.
        if self.added:
            self.connection.execute(_ADD, self.added)
        self.added, self.believed = [], {}


class _Shared(threading.local):
    work: _Work | None = None


class SqlJournal:
    """`agents.journal.Journal`; each object may be used from several threads."""

    def __init__(self, url: str, data_dir: Path, clock: Clock, ids: Ids) -> None:
        self._database = Database(url, "journal", MIGRATIONS, data_dir)
        self._clock = clock
        self._ids = ids
        self._shared = _Shared()
        self._heads: dict[str, _Head] = {}

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
        heads: dict[str, _Head],
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
    def _begun(self, heads: dict[str, _Head]) -> Iterator[_Work]:
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
            row = work.connection.execute(_FIND, {"t": tenant, "k": key}).first()
            if row:
                return str(row[0]), False
            started = RunStarted(workflow=workflow, agent=agent, input=given, options=options)
            run_id = self._ids.new("run")
            lines = self._lines(run_id, 0, 0, _GENESIS, [started, *history])
            work.connection.execute(
                _CREATE,
                {
                    "r": run_id, "t": tenant, "k": key, "w": workflow, "a": agent,
                    "h": _GENESIS, "now": self._clock.now(), "p": options.priority,
                    "of": options.parent, "d": options.deadline_at,
                },
            )  # fmt: skip
            self._put(work, run_id, _Head("open", 0, 0, _GENESIS, None), 0, lines)
            return run_id, True

    def claim(self, run_id: str, reason: str) -> int:
        with self._work() as work:
            head = self._head(work, run_id)
            if head.status == "ended":
                raise Conflict(f"run {run_id}", "it has ended")
            epoch = head.epoch + 1
            claimed = RunClaimed(epoch=epoch, reason=reason)
            lines = self._lines(run_id, epoch, head.seq, head.hash, [claimed])
            self._put(work, run_id, head, epoch, lines)
            return epoch

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        with self._work() as work:
            head = self._head(work, run_id)
            if epoch != head.epoch:
                raise StaleEpoch(f"run {run_id}", f"epoch {epoch} was overtaken by {head.epoch}")
            if head.status == "ended":
                raise Conflict(f"run {run_id}", "it has ended")
            if after not in (None, head.seq):
                raise Conflict(
                    f"run {run_id}", f"event {after} is no longer its last: {head.seq} is"
                )
            lines = self._lines(run_id, epoch, head.seq, head.hash, payloads)
            self._put(work, run_id, head, epoch, lines)
            return [event for event, _ in lines]

    def read(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Event]:
        _, rows = self._rows(run_id, after, limit)
        return [_event(run_id, row) for row in rows]

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
            rows = work.connection.execute(text("SELECT status, count(*) FROM runs GROUP BY 1"))
            return {str(status): int(count) for status, count in rows}

    def verified(self, run_id: str) -> list[Event]:
        head, rows = self._rows(run_id)
        previous = _GENESIS
        for expected, (seq, epoch, at, payload, digest) in enumerate(rows, start=1):
            if seq != expected or _hash(previous, run_id, seq, epoch, at, payload) != digest:
                raise DataError(f"run {run_id}", f"event {expected} was changed or removed")
            previous = digest
        if len(rows) != head.seq or previous != head.hash:
            raise DataError(f"run {run_id}", f"events after {len(rows)} were removed")
        return [_event(run_id, row) for row in rows]

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
                _JUDGE,
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

    def close(self) -> None:
        self._database.close()

    def _listed(self, where: str, given: dict[str, Any]) -> list[RunRow]:
        with self._work() as work:
            work.flush()
            rows = work.connection.execute(text(f"{_ROW} {where}"), given).all()
        return [RunRow(*row) for row in rows]

    def _rows(
        self, run_id: str, after: int = 0, limit: int | None = None
    ) -> tuple[_Head, list[Any]]:
        with self._work() as work:
            head = self._read_head(work, run_id)
            given = {"r": run_id, "after": after, "n": limit or _ALL}
            return head, list(work.connection.execute(_EVENTS, given).all())

    def _judgements(self, connection: Connection, run_id: str) -> list[Judgement]:
        rows = connection.execute(_JUDGEMENTS, {"r": run_id}).all()
        return [Judgement(run_id, s, at, Feedback(*said)) for s, at, *said in rows]

    def _head(self, work: _Work, run_id: str) -> _Head:
        """The head for a write: as this transaction left it, or locked."""
        if run_id in work.heads:
            return work.heads[run_id]
        postgres = work.connection.dialect.name == "postgresql"
        return self._read_head(work, run_id, _LOCKED_HEAD if postgres else _HEAD)

    def _read_head(self, work: _Work, run_id: str, query: TextClause = _HEAD) -> _Head:
        work.flush()
        row = work.connection.execute(query, {"r": run_id}).first()
        if row is None:
            raise NotFound("run", run_id)
        return _Head(*row)

    def _lines(
        self, run_id: str, epoch: int, seq: int, last: str, payloads: Sequence[Any]
    ) -> list[tuple[Event, str]]:
        """The events that these payloads become, with their text. InvalidInput for one that is
        too large to be one."""
        lines = []
        at = self._clock.now()
        for payload in payloads:
            seq += 1
            data = payload.model_dump_json()
            if len(data) > MAX_PAYLOAD:
                what = getattr(payload, "step", "") or getattr(payload, "phase", payload.kind)
                raise InvalidInput(
                    f"result of {what}", f"{len(data)} bytes of JSON",
                    f"at most {MAX_PAYLOAD}; keep it in a file and journal where it is",
                )  # fmt: skip
            last = _hash(last, run_id, seq, epoch, at, data)
            # Read back what is written, so that a live state is what a recovered one will be.
            event = Event(
                run_id=run_id, seq=seq, epoch=epoch, at=at, hash=last, payload=parse(data)
            )
            lines.append((event, data))
        return lines

    def _put(
        self, work: _Work, run_id: str, head: _Head, epoch: int, lines: list[tuple[Event, str]]
    ) -> None:
        now = replace(head, epoch=epoch)
        for event, data in lines:
            payload = event.payload
            status = _STATUS.get(type(payload), now.status)
            until = payload.until if isinstance(payload, WaitBegun) else now.wait_until
            now = _Head(
                status, epoch, event.seq, event.hash, until if status == "waiting" else None
            )
            work.added.append(
                {
                    "r": run_id, "s": event.seq, "e": epoch, "at": event.at, "p": data,
                    "h": event.hash,
                }
            )  # fmt: skip
        work.believed.setdefault(run_id, head)
        work.heads[run_id] = now
        if now.status == "ended":
            work.ended.append(run_id)


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


def _event(run_id: str, row: Any) -> Event:
    seq, epoch, at, payload, digest = row
    return Event(run_id=run_id, seq=seq, epoch=epoch, at=at, hash=digest, payload=parse(payload))


def _hash(previous: str, run_id: str, seq: int, epoch: int, at: float, payload: str) -> str:
    material = json.dumps([previous, run_id, seq, epoch, repr(at), payload])
    return hashlib.sha256(material.encode()).hexdigest()
