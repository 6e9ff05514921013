"""The journal on SQLite or PostgreSQL."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from agents.events import Event, RunClaimed, RunEnded, RunStarted, parse
from agents.journal import Feedback, Judgement, RunRow
from cluster.database import Database
from cluster.errors import Conflict, DataError, MainspringError, NotFound, StaleEpoch
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
)

_GENESIS = "0" * 64

# Built once: what SQLAlchemy makes of a text costs more than the database's own work on it.
_FIND = text("SELECT run_id FROM runs WHERE tenant = :t AND idempotency_key = :k")
_CREATE = text("INSERT INTO runs VALUES (:r, :t, :k, :w, :a, 'open', 0, 0, :h, :now)")
_HEAD = text("SELECT status, epoch, last_seq, last_hash FROM runs WHERE run_id = :r")
# SQLite's writers take turns already; on PostgreSQL two owners of one run must.
_LOCKED_HEAD = text(f"{_HEAD.text} FOR UPDATE")
_CLAIM = text("UPDATE runs SET epoch = :e WHERE run_id = :r")
_ADD = text("INSERT INTO events VALUES (:r, :s, :e, :at, :p, :h)")
_ADVANCE = text("UPDATE runs SET last_seq = :s, last_hash = :h, status = :st WHERE run_id = :r")
_EVENTS = text("SELECT seq, epoch, at, payload, hash FROM events WHERE run_id = :r ORDER BY seq")
_JUDGE = text("INSERT INTO feedback VALUES (:r, :s, :at, :v, :b, :n, :c)")
_JUDGEMENTS = text(
    "SELECT seq, at, verdict, judge, note, corrected FROM feedback WHERE run_id = :r ORDER BY seq"
)


class _Shared(threading.local):
    connection: Connection | None = None


class SqlJournal:
    def __init__(self, url: str, data_dir: Path, clock: Clock, ids: Ids) -> None:
        self._database = Database(url, "journal", MIGRATIONS, data_dir)
        self._clock = clock
        self._ids = ids
        self._shared = _Shared()

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        with self._database.transaction() as connection:
            self._shared.connection = connection
            try:
                return [_answer(call) for call in work]
            finally:
                self._shared.connection = None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """The transaction that this thread's work belongs to, or a new one."""
        if self._shared.connection is not None:
            yield self._shared.connection
        else:
            with self._database.transaction() as connection:
                yield connection

    def create(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any]
    ) -> tuple[str, bool]:
        with self._transaction() as connection:
            row = connection.execute(_FIND, {"t": tenant, "k": key}).first()
            if row:
                return str(row[0]), False
            run_id = self._ids.new("run")
            connection.execute(
                _CREATE,
                {
                    "r": run_id, "t": tenant, "k": key, "w": workflow, "a": agent,
                    "h": _GENESIS, "now": self._clock.now(),
                },
            )  # fmt: skip
            started = RunStarted(workflow=workflow, agent=agent, input=given)
            self._insert(connection, run_id, 0, 0, _GENESIS, [started])
            return run_id, True

    def claim(self, run_id: str, reason: str) -> int:
        with self._transaction() as connection:
            status, epoch, seq, last = self._head(connection, run_id, lock=True)
            if status == "ended":
                raise Conflict(f"run {run_id}", "it has ended")
            claimed = RunClaimed(epoch=epoch + 1, reason=reason)
            connection.execute(_CLAIM, {"e": epoch + 1, "r": run_id})
            self._insert(connection, run_id, epoch + 1, seq, last, [claimed])
            return epoch + 1

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        with self._transaction() as connection:
            status, current, seq, last = self._head(connection, run_id, lock=True)
            if epoch != current:
                raise StaleEpoch(f"run {run_id}", f"epoch {epoch} was overtaken by {current}")
            if status == "ended":
                raise Conflict(f"run {run_id}", "it has ended")
            if after not in (None, seq):
                raise Conflict(f"run {run_id}", f"event {after} is no longer its last: {seq} is")
            return self._insert(connection, run_id, epoch, seq, last, payloads)

    def read(self, run_id: str) -> list[Event]:
        with self._transaction() as connection:
            self._head(connection, run_id)
            rows = connection.execute(_EVENTS, {"r": run_id}).all()
        return [
            Event(run_id=run_id, seq=s, epoch=e, at=at, hash=h, payload=parse(p))
            for s, e, at, p, h in rows
        ]

    def runs(
        self, tenant: str | None = None, status: str | None = None, agent: str | None = None
    ) -> list[RunRow]:
        wanted = {"tenant": tenant, "status": status, "agent": agent}
        given = {k: v for k, v in wanted.items() if v is not None}
        where = " AND ".join(f"{name} = :{name}" for name in given) or "1 = 1"
        query = (
            "SELECT run_id, tenant, workflow, agent, status, epoch, created_at FROM runs"
            f" WHERE {where} ORDER BY created_at, run_id"
        )
        with self._transaction() as connection:
            return [RunRow(*row) for row in connection.execute(text(query), given).all()]

    def verify(self, run_id: str) -> int:
        with self._transaction() as connection:
            _, _, last_seq, last_hash = self._head(connection, run_id)
            rows = connection.execute(_EVENTS, {"r": run_id}).all()
        previous = _GENESIS
        for expected, (seq, epoch, at, payload, digest) in enumerate(rows, start=1):
            if seq != expected or _hash(previous, run_id, seq, epoch, at, payload) != digest:
                raise DataError(f"run {run_id}", f"event {expected} was changed or removed")
            previous = digest
        if len(rows) != last_seq or previous != last_hash:
            raise DataError(f"run {run_id}", f"events after {len(rows)} were removed")
        return len(rows)

    def judge(self, run_id: str, feedback: Feedback) -> Judgement:
        with self._transaction() as connection:
            # The run's row is locked, so that two judges of one run take turns.
            status, *_ = self._head(connection, run_id, lock=True)
            if status != "ended":
                raise Conflict(f"run {run_id}", "it has not ended, so nobody can judge it yet")
            seq = len(self._judgements(connection, run_id)) + 1
            judgement = Judgement(run_id, seq, self._clock.now(), feedback)
            connection.execute(
                _JUDGE,
                {
                    "r": run_id, "s": seq, "at": judgement.at, "v": feedback.verdict,
                    "b": feedback.by, "n": feedback.note, "c": feedback.text,
                },
            )  # fmt: skip
            return judgement

    def judgements(self, run_id: str) -> list[Judgement]:
        with self._transaction() as connection:
            self._head(connection, run_id)
            return self._judgements(connection, run_id)

    def close(self) -> None:
        self._database.close()

    def _judgements(self, connection: Connection, run_id: str) -> list[Judgement]:
        rows = connection.execute(_JUDGEMENTS, {"r": run_id}).all()
        return [Judgement(run_id, s, at, Feedback(*said)) for s, at, *said in rows]

    def _head(
        self, connection: Connection, run_id: str, lock: bool = False
    ) -> tuple[str, int, int, str]:
        query = _LOCKED_HEAD if lock and connection.dialect.name == "postgresql" else _HEAD
        row = connection.execute(query, {"r": run_id}).first()
        if row is None:
            raise NotFound("run", run_id)
        return str(row[0]), int(row[1]), int(row[2]), str(row[3])

    def _insert(
        self, connection: Connection, run_id: str, epoch: int, seq: int, last: str,
        payloads: Sequence[Any],
    ) -> list[Event]:  # fmt: skip
        events: list[Event] = []
        rows: list[dict[str, Any]] = []
        at = self._clock.now()
        for payload in payloads:
            seq += 1
            data = payload.model_dump_json()
            last = _hash(last, run_id, seq, epoch, at, data)
            rows.append({"r": run_id, "s": seq, "e": epoch, "at": at, "p": data, "h": last})
            # Read back what was written, so that a live state is what a recovered one will be.
            events.append(
                Event(run_id=run_id, seq=seq, epoch=epoch, at=at, hash=last, payload=parse(data))
            )
        status = "ended" if any(isinstance(p, RunEnded) for p in payloads) else "open"
        if rows:
            connection.execute(_ADD, rows)
        connection.execute(_ADVANCE, {"s": seq, "h": last, "st": status, "r": run_id})
        return events


def _answer(call: Callable[[], Any]) -> Any:
    # No savepoint around it: a method that raises a MainspringError has written nothing yet.
    try:
        return call()
    except MainspringError as error:
        return error


def _hash(previous: str, run_id: str, seq: int, epoch: int, at: float, payload: str) -> str:
    material = json.dumps([previous, run_id, seq, epoch, repr(at), payload])
    return hashlib.sha256(material.encode()).hexdigest()
