"""Reading memory's log."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from sqlalchemy import TextClause, bindparam, text

from cluster.database import Database
from cluster.errors import DataError
from memory.embed import Vectors
from memory.records import Origin, Record

_PART: Final = 500
_SELECT: Final = (
    "SELECT id, seq, tenant, recorded_at, superseded_at, body, digest FROM memory_records"
)
# Fields of a record that columns or the id hold already.
_OUTSIDE: Final = ("id", "recorded_at", "superseded_at")


def _with_ids(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("ids", expanding=True))


_GET = _with_ids(f"{_SELECT} WHERE tenant = :t AND id IN :ids")
_KNOWN = _with_ids("SELECT id FROM memory_records WHERE id IN :ids")
_ANY = _with_ids(f"{_SELECT} WHERE id IN :ids")
_CHILDREN = _with_ids("SELECT child, parent FROM memory_parents WHERE parent IN :ids")
_MEMBERS = _with_ids(
    "SELECT id FROM memory_records WHERE tenant = :t AND superseded_at IS NULL AND document IN :ids"
)
_PAGE = text(
    f"{_SELECT} WHERE tenant = :t AND id > :after AND (:subject = '' OR subject = :subject)"
    " AND (:session = '' OR session = :session) AND (:kind = '' OR kind = :kind)"
    " AND (:tier = '' OR tier = :tier) AND (expires_at IS NULL OR expires_at > :now)"
    " AND superseded_at IS NULL ORDER BY id LIMIT :n"
)
_SUBJECT = text(f"{_SELECT} WHERE tenant = :t AND subject = :s")
_EXPIRED = text(f"{_SELECT} WHERE expires_at <= :now ORDER BY expires_at LIMIT :n")
_PASSAGES = text(
    f"{_SELECT} WHERE tenant = :t AND document = :d AND number BETWEEN :first AND :last"
    " AND number > 0 AND superseded_at IS NULL ORDER BY number, id"
)
_UNEMBEDDED = text(
    f"{_SELECT} r WHERE seq > :after AND NOT EXISTS (SELECT 1 FROM memory_vectors v"
    " WHERE v.id = r.id AND v.space = :space) ORDER BY seq LIMIT :n"
)
_TIERS = text("SELECT tier, count(*) AS total FROM memory_records GROUP BY tier")
_SEQS = text("SELECT id, seq FROM memory_records ORDER BY seq")
_LIVING = text(f"{_SELECT} WHERE tenant = :t AND superseded_at IS NULL")
_INGESTED = text(
    "SELECT document, place, digest, ids FROM memory_documents WHERE tenant = :t AND place = :p"
    " AND (:d = '' OR document = :d)"
)
_HELD = text("SELECT * FROM memory_holds WHERE tenant = :t ORDER BY subject")
_HISTORY = text(
    "SELECT at, what, made_by, why FROM memory_events WHERE tenant = :t AND id = :i ORDER BY seq"
)
_NEWEST = text("SELECT recorded_at FROM memory_records ORDER BY seq DESC LIMIT 1")
_FEED = _with_ids(
    "SELECT r.id, r.seq, r.tenant, r.recorded_at, r.superseded_at, r.body, r.digest, v.vector"
    " FROM memory_records r JOIN memory_vectors v ON v.id = r.id AND v.space = :space"
    " WHERE r.id IN :ids"
)


@dataclass(frozen=True, slots=True)
class Logged:
    """A record with its vector and the number of the event that last changed it."""

    record: Record
    vector: Vectors
    seq: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing about the subject is erased: who says so, why, and since when."""

    subject: str
    by: str
    why: str
    at: float


def columns(record: Record) -> dict[str, Any]:
    """The record as a row of memory_records, but for `seq`."""
    fields = {k: v for k, v in asdict(record).items() if k not in _OUTSIDE}
    body = json.dumps(fields, ensure_ascii=False)
    return {
        "id": record.id, "tenant": record.tenant, "tier": record.tier, "kind": record.kind,
        "document": record.document, "number": record.number, "subject": record.subject,
        "session": record.session, "expires_at": record.expires_at,
        "recorded_at": record.recorded_at, "superseded_at": record.superseded_at,
        "body": body, "digest": _digest(body),
    }  # fmt: skip


def record_of(row: Any) -> Record:
    """The row as a record. DataError when it is not as it was written."""
    return _read(*_parts(row))


def _parts(row: Any) -> tuple[str, str, str, str, float, float | None]:
    return row.id, row.tenant, row.body, row.digest, row.recorded_at, row.superseded_at


def _read(
    id: str, tenant: str, body: str, digest: str, recorded_at: float, superseded_at: float | None
) -> Record:
    where = f"memory record {id}"
    if _digest(body) != digest:
        raise DataError(where, "its content does not match its checksum")
    fields = json.loads(body)
    fields["origin"] = Origin(**fields["origin"])
    for name in ("labels", "parents"):
        fields[name] = tuple(fields[name])
    record = Record(**fields, recorded_at=recorded_at, superseded_at=superseded_at)
    if record.id != id or record.tenant != tenant:
        raise DataError(where, "its content does not match its id")
    return record


# What is recalled is recalled again. A row that changed is another key.
_read_before = lru_cache(maxsize=1_024)(_read)


def forget_what_was_read() -> None:
    """Keep no record in this process that the log has no more."""
    _read_before.cache_clear()


def _digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


class LogRows:
    """What can be read from the log; expired and superseded records included unless it says not."""

    _database: Database

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are there, whoever's they are."""
        return {row.id for row in self._listed(_KNOWN, ids)}

    def get(self, tenant: str, ids: Sequence[str]) -> dict[str, Record]:
        """The tenant's records among the ids."""
        rows = self._listed(_GET, ids, t=tenant)
        return {row.id: _read_before(*_parts(row)) for row in rows}

    def page(
        self,
        tenant: str,
        now: float,
        after: str = "",
        limit: int = 100,
        *,
        subject: str = "",
        session: str = "",
        kind: str = "",
        tier: str = "",
    ) -> list[Record]:
        """The tenant's living records by id, those behind `after`; "" leaves a field open."""
        return self._rows(
            _PAGE, t=tenant, now=now, after=after, n=limit, subject=subject, session=session,
            kind=kind, tier=tier,
        )  # fmt: skip

    def about(self, tenant: str, subject: str) -> list[Record]:
        """Every record about the subject."""
        return self._rows(_SUBJECT, t=tenant, s=subject)

    def expired(self, now: float, limit: int) -> list[Record]:
        """Records of all tenants whose time is over, the oldest first."""
        return self._rows(_EXPIRED, now=now, n=limit)

    def passages(self, tenant: str, document: str, first: int, last: int) -> list[Record]:
        """The living parts of the document that are numbered from `first` to `last`."""
        return self._rows(_PASSAGES, t=tenant, d=document, first=first, last=last)

    def members(self, tenant: str, documents: Sequence[str]) -> set[str]:
        """Ids of the tenant's living records that are parts of the documents."""
        return {row.id for row in self._listed(_MEMBERS, documents, t=tenant)}

    def descendants(self, ids: Sequence[str]) -> list[Record]:
        """Every record derived from these, over any number of steps, without these."""
        found: dict[str, None] = {}
        step = list(ids)
        while step:
            children = [row.child for row in self._listed(_CHILDREN, step)]
            step = [c for c in dict.fromkeys(children) if c not in found and c not in ids]
            found.update(dict.fromkeys(step))
        return self._records(_ANY, list(found))

    def orphans(self, tenant: str) -> int:
        """How many of the tenant's records name a parent that is not there."""
        return int(
            self._one(
                "SELECT count(DISTINCT child) FROM memory_parents JOIN memory_records r"
                " ON r.id = child WHERE r.tenant = :t"
                " AND parent NOT IN (SELECT id FROM memory_records)",
                t=tenant,
            )
        )

    def overdue(self, tenant: str, now: float) -> int:
        """How many of the tenant's records have expired and are still there."""
        return int(
            self._one(
                "SELECT count(*) FROM memory_records WHERE tenant = :t AND expires_at <= :now",
                t=tenant,
                now=now,
            )
        )

    def count(self, tenant: str | None = None) -> int:
        """How many records there are, of one tenant or of all."""
        if tenant is None:
            return int(self._one("SELECT count(*) FROM memory_records"))
        return int(self._one("SELECT count(*) FROM memory_records WHERE tenant = :t", t=tenant))

    def tiers(self) -> dict[str, int]:
        """How many records each tier has, all tenants together."""
        return {row.tier: int(row.total) for row in self._all(_TIERS)}

    def tenants(self) -> list[str]:
        """Whoever has records."""
        statement = "SELECT DISTINCT tenant FROM memory_records ORDER BY tenant"
        with self._database.reading() as connection:
            return [row.tenant for row in connection.execute(text(statement))]

    def newest(self) -> float | None:
        """When something was last remembered, None when there is nothing."""
        with self._database.reading() as connection:
            found = connection.execute(_NEWEST).scalar()
        return None if found is None else float(found)

    def seqs(self) -> dict[str, int]:
        """Every record's id, with the number of its last event, oldest first."""
        return {row.id: int(row.seq) for row in self._all(_SEQS)}

    def marked(self, space: str) -> int:
        """The event up to which the space's index has everything; 0 when none was marked."""
        found = self._one("SELECT max(seq) FROM memory_marks WHERE space = :s", s=space)
        return int(found or 0)

    def logged(self, ids: Sequence[str], space: str) -> Iterator[Logged]:
        """The records of the ids that have a vector in the space, with it."""
        for row in self._listed(_FEED, ids, space=space):
            vector = np.frombuffer(bytes(row.vector), np.float32)
            yield Logged(record_of(row), vector, int(row.seq))

    def unembedded(self, space: str, limit: int, after: int = 0) -> list[tuple[int, Record]]:
        """Records of all tenants that have no vector in the space, and the number of their last
        event, which lies behind `after`; the oldest first."""
        rows = self._all(_UNEMBEDDED, space=space, n=limit, after=after)
        return [(int(row.seq), record_of(row)) for row in rows]

    def texts(self, tenant: str) -> Iterator[str]:
        """The text of each of the tenant's living records."""
        for row in self._all(_LIVING, t=tenant):
            yield record_of(row).text

    def ingested(
        self, tenant: str, place: str, document: str = ""
    ) -> list[tuple[str, str, str, tuple[str, ...]]]:
        """Document, place, digest and record ids of what was read from a place; of one document
        alone, if named."""
        rows = self._all(_INGESTED, t=tenant, p=place, d=document)
        return [(r.document, r.place, r.digest, tuple(json.loads(r.ids))) for r in rows]

    def held(self, tenant: str) -> list[Hold]:
        """The holds that stand, by subject."""
        rows = self._all(_HELD, t=tenant)
        return [Hold(row.subject, row.placed_by, row.why, row.at) for row in rows]

    def history(self, tenant: str, id: str) -> list[dict[str, Any]]:
        """The events of a record, or of a receipt, in order: at, what, by, why."""
        rows = self._all(_HISTORY, t=tenant, i=id)
        return [{"at": r.at, "what": r.what, "by": r.made_by, "why": r.why} for r in rows]

    def _one(self, statement: str, **values: object) -> Any:
        with self._database.reading() as connection:
            return connection.execute(text(statement), values).scalar()

    def _rows(self, statement: TextClause, **values: object) -> list[Record]:
        return [record_of(row) for row in self._all(statement, **values)]

    def _records(self, statement: TextClause, ids: Sequence[str], **values: object) -> list[Record]:
        return [record_of(row) for row in self._listed(statement, ids, **values)]

    def _listed(self, statement: TextClause, ids: Sequence[str], **values: object) -> Iterator[Any]:
        for start in range(0, len(ids), _PART):
            part = list(ids[start : start + _PART])
            yield from self._all(statement, **values, ids=part)

    def _all(self, statement: TextClause, **values: object) -> Sequence[Any]:
        # beside the writers: a question does not wait for the disk behind what they write
        with self._database.reading() as connection:
            return connection.execute(statement, values).all()
