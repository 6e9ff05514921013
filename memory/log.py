"""The record of memory: every change as an event, and the records as they are now.

Events are appended and never changed; each carries the hash of the one before it, so that a
missing or altered event shows. An event holds no text: what is forgotten leaves the records table,
and its events say only that an id was there. A vector is kept with its record, so that the index
can be made anew without computing anything.

A call that returned is on disk (cluster/database.py). One process writes: the numbers of events are
counted here. Not covered: that somebody who may write the database rewrites all of its chain.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from sqlalchemy import Connection, bindparam, text

from cluster.database import Database
from cluster.errors import DataError, InvalidInput, NotFound
from cluster.ids import Clock
from memory.embed import SPACE, Vectors
from memory.log_rows import LogRows, columns, forget_what_was_read
from memory.log_tables import MIGRATIONS, TABLES
from memory.probes import FORGET, MeasureRows, ProbeRows
from memory.records import Record
from memory.space_rows import SpaceRows

What = Literal[
    "remembered", "superseded", "promoted", "forgotten", "expired", "held", "released", "erased"
]
_GENESIS: Final = "0" * 64
_LAST = text("SELECT seq, hash FROM memory_events ORDER BY seq DESC LIMIT 1")
_ENDING = text("SELECT * FROM memory_events ORDER BY seq DESC LIMIT 2")
_APPEND = text("INSERT INTO memory_events VALUES (:seq, :at, :t, :what, :id, :by, :why, :d, :h)")
_CHAIN = text("SELECT * FROM memory_events WHERE seq > :s ORDER BY seq LIMIT 5000")
_KNOWN = text("SELECT id FROM memory_records WHERE id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)
_ADD = text(
    "INSERT INTO memory_records (id, seq, tenant, tier, kind, document, number, subject, session,"
    " expires_at, recorded_at, superseded_at, body, digest) VALUES (:id, :seq, :tenant, :tier,"
    " :kind, :document, :number, :subject, :session, :expires_at, :recorded_at, :superseded_at,"
    " :body, :digest)"
)
_SET = text(
    "UPDATE memory_records SET seq = :seq, tier = :tier, superseded_at = :superseded_at,"
    " expires_at = :expires_at, body = :body, digest = :digest WHERE id = :id"
)
_VECTOR = text("INSERT INTO memory_vectors VALUES (:id, :space, :v)")
_VECTOR_AGAIN = text(
    "INSERT INTO memory_vectors VALUES (:id, :space, :v) ON CONFLICT (id, space) DO NOTHING"
)
_PARENT = text("INSERT INTO memory_parents VALUES (:child, :parent)")
_REMOVE = tuple(
    text(f"DELETE FROM {table} WHERE {key} IN :ids").bindparams(bindparam("ids", expanding=True))
    for table, key in (
        ("memory_records", "id"),
        ("memory_vectors", "id"),
        ("memory_parents", "child"),
    )
)
_MARK = text(
    "INSERT INTO memory_marks VALUES (:space, :seq) ON CONFLICT (space) DO UPDATE SET seq = :seq"
)
_NOTE = text("INSERT INTO memory_documents VALUES (:t, :d, :p, :h, :ids)")
_UNNOTE = text("DELETE FROM memory_documents WHERE tenant = :t AND document = :d")
_HOLD = text(
    "INSERT INTO memory_holds VALUES (:t, :s, :by, :why, :at) ON CONFLICT (tenant, subject)"
    " DO UPDATE SET placed_by = :by, why = :why, at = :at"
)
_RELEASE = text("DELETE FROM memory_holds WHERE tenant = :t AND subject = :s")
_PART: Final = 500


@dataclass(frozen=True, slots=True)
class Note:
    """Who had a change made, and why; both go into its event."""

    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that come together, with a vector for each in the embedding space of that name."""

    records: Sequence[Record]
    vectors: Vectors
    note: Note = Note()
    space: str = SPACE


@dataclass(frozen=True, slots=True)
class _Change:
    tenant: str
    what: What
    id: str
    digest: str = ""


class Log(LogRows):
    """The database of memory, as its one writer. Calls block; writes must not overlap.

    Raises what `Database` raises, and DataError when the last event does not match its hash.
    """

    def __init__(self, url: str, data_dir: Path, clock: Clock) -> None:
        self._database = Database(url, "memory", MIGRATIONS, data_dir)
        self._clock = clock
        self.spaces = SpaceRows(self._database, clock)
        self.probes = ProbeRows(self._database, clock)
        self.measures = MeasureRows(self._database, clock)
        self._check_end()

    def add(self, batches: Sequence[Batch]) -> list[list[Record]]:
        """Keep the batches' records, all of them or none. Returns for each batch those that were
        new, stamped; a record whose id is there changes nothing."""
        with self._database.transaction() as connection:
            known = _known(connection, [r.id for batch in batches for r in batch.records])
            added: list[list[Record]] = []
            for batch in batches:
                pairs = zip(batch.records, batch.vectors, strict=True)
                fresh = {r.id: (r, v) for r, v in pairs if r.id not in known}
                known |= fresh.keys()
                added.append(self._insert(connection, list(fresh.values()), batch))
            return added

    def end(self) -> int:
        """The number of the last event, 0 when there is none."""
        with self._database.transaction() as connection:
            return _end(connection)[0]

    def embed(self, records: Sequence[Record], vectors: Vectors, space: str) -> None:
        """Give records that were remembered in another space their vectors in this one."""
        with self._database.transaction() as connection:
            known = _known(connection, [record.id for record in records])
            pairs = zip(records, vectors, strict=True)
            rows = [_vector(r, v, space) for r, v in pairs if r.id in known]
            if rows:
                connection.execute(_VECTOR_AGAIN, rows)

    def supersede(self, old: Record, batch: Batch) -> list[Record]:
        """Keep the batch's one record as the version after `old`. Returns both as they are now."""
        (new,) = batch.records
        with self._database.transaction() as connection:
            if _known(connection, [new.id]):
                raise InvalidInput("text", new.text, "another text than a version that is there")
            added = self._insert(connection, [(new, batch.vectors[0])], batch)
            past = replace(old, superseded_at=added[0].recorded_at)
            self._rewrite(connection, past, "superseded", batch.note)
            return [past, *added]

    def promote(self, record: Record, note: Note) -> Record:
        """Make a session record a long-term one."""
        with self._database.transaction() as connection:
            promoted = replace(record, tier="long_term", expires_at=None)
            self._rewrite(connection, promoted, "promoted", note)
            return promoted

    def note(self, tenant: str, records: Sequence[Record], what: What, note: Note) -> None:
        """Write an event about records without changing them."""
        with self._database.transaction() as connection:
            changes = [_Change(tenant, what, r.id) for r in records]
            self._append(connection, changes, note)

    def remove(self, records: Sequence[Record], what: What, note: Note) -> None:
        """Take the records out, with their vectors and their links to parents."""
        with self._database.transaction() as connection:
            for start in range(0, len(records), _PART):
                part = records[start : start + _PART]
                for statement in (*FORGET, *_REMOVE):
                    connection.execute(statement, {"ids": [r.id for r in part]})
                # a document that lost a part is read again in full when it comes again
                lost = {(r.tenant, r.document) for r in part}
                connection.execute(_UNNOTE, [{"t": t, "d": d} for t, d in sorted(lost)])
                self._append(connection, [_Change(r.tenant, what, r.id) for r in part], note)
        forget_what_was_read()

    def hold(self, tenant: str, subject: str, note: Note) -> None:
        """Nothing about the subject is removed until the hold is lifted."""
        with self._database.transaction() as connection:
            at = round(self._clock.now(), 3)
            row = {"t": tenant, "s": subject, "by": note.by, "why": note.why, "at": at}
            connection.execute(_HOLD, row)
            self._append(connection, [_Change(tenant, "held", hold_id(subject))], note)

    def release(self, tenant: str, subject: str, note: Note) -> None:
        """Lift a hold. NotFound when there is none."""
        with self._database.transaction() as connection:
            if not connection.execute(_RELEASE, {"t": tenant, "s": subject}).rowcount:
                raise NotFound("hold on", subject)
            self._append(connection, [_Change(tenant, "released", hold_id(subject))], note)

    def receipt(self, tenant: str, id: str, body: str) -> None:
        """Keep a receipt of an erasure as an event."""
        with self._database.transaction() as connection:
            self._append(connection, [_Change(tenant, "erased", id)], Note("", body))

    def note_document(
        self, tenant: str, document: str, place: str, digest: str, ids: Sequence[str]
    ) -> None:
        """Note what a document gave when it was last read; an empty digest takes the note away."""
        row = {"t": tenant, "d": document, "p": place, "h": digest, "ids": json.dumps(list(ids))}
        with self._database.transaction() as connection:
            connection.execute(_UNNOTE, row)
            if digest:
                connection.execute(_NOTE, row)

    def mark(self, space: str, seq: int) -> None:
        """Say that the space's index has everything up to event `seq`."""
        with self._database.transaction() as connection:
            connection.execute(_MARK, {"space": space, "seq": seq})

    def scrub(self) -> bool:
        """Rewrite the files without what was removed; see `Database.compact`."""
        return self._database.compact(TABLES)

    def verify(self) -> int:
        """How many events there are. DataError where the chain is broken."""
        hash, count, seq = _GENESIS, 0, 0
        while True:
            with self._database.transaction() as connection:
                rows = connection.execute(_CHAIN, {"s": seq}).all()
            for row in rows:
                if row.seq != seq + 1 or row.hash != _hashed(hash, row[:-1]):
                    raise DataError(f"memory log, event {row.seq}", "it is not as it was written")
                hash, seq, count = row.hash, row.seq, count + 1
            if not rows:
                return count

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _check_end(self) -> None:
        with self._database.transaction() as connection:
            rows = connection.execute(_ENDING).all()
        if len(rows) == 2 and rows[0].hash != _hashed(rows[1].hash, rows[0][:-1]):
            raise DataError(f"memory log, event {rows[0].seq}", "it is not as it was written")

    def _insert(
        self, connection: Connection, new: list[tuple[Record, Vectors]], batch: Batch
    ) -> list[Record]:
        if not new:
            return []
        at = round(self._clock.now(), 3)
        stamped = [replace(record, recorded_at=at) for record, _ in new]
        rows = [columns(record) for record in stamped]
        changes = [_Change(r["tenant"], "remembered", r["id"], r["digest"]) for r in rows]
        for row, seq in zip(rows, self._append(connection, changes, batch.note), strict=True):
            row["seq"] = seq
        connection.execute(_ADD, rows)
        connection.execute(_VECTOR, [_vector(record, v, batch.space) for record, v in new])
        links = [{"child": r.id, "parent": p} for r in stamped for p in dict.fromkeys(r.parents)]
        if links:
            connection.execute(_PARENT, links)
        return stamped

    def _rewrite(self, connection: Connection, record: Record, what: What, note: Note) -> None:
        row = columns(record)
        change = _Change(record.tenant, what, record.id, row["digest"])
        (row["seq"],) = self._append(connection, [change], note)
        if connection.execute(_SET, row).rowcount != 1:
            raise NotFound("memory record", record.id)

    def _append(self, connection: Connection, changes: Iterable[_Change], note: Note) -> list[int]:
        """Chain the changes; the end of the chain moves on only when the transaction does."""
        at = round(self._clock.now(), 3)
        rows: list[dict[str, Any]] = []
        seq, hash = _end(connection)
        for c in changes:
            seq += 1
            values = (seq, at, c.tenant, c.what, c.id, note.by, note.why, c.digest)
            hash = _hashed(hash, values)
            names = ("seq", "at", "t", "what", "id", "by", "why", "d")
            rows.append(dict(zip(names, values, strict=True)) | {"h": hash})
        if rows:
            connection.execute(_APPEND, rows)
        return [row["seq"] for row in rows]


def _vector(record: Record, vector: Vectors, space: str) -> dict[str, Any]:
    return {"id": record.id, "space": space, "v": np.asarray(vector, np.float32).tobytes()}


def hold_id(subject: str) -> str:
    """Under which id the events of a subject's holds stand; no name is in them."""
    return "hold_" + hashlib.blake2b(subject.encode(), digest_size=16).hexdigest()


def _end(connection: Connection) -> tuple[int, str]:
    row = connection.execute(_LAST).first()
    return (int(row.seq), str(row.hash)) if row else (0, _GENESIS)


def _known(connection: Connection, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _PART):
        rows = connection.execute(_KNOWN, {"ids": list(ids[start : start + _PART])})
        found.update(row.id for row in rows)
    return found


def _hashed(before: str, values: Iterable[object]) -> str:
    written = json.dumps(list(values), ensure_ascii=False)
    return hashlib.sha256((before + written).encode()).hexdigest()
