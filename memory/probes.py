"""Frozen questions of a tenant, by which its memory is measured again and again.

A probe is a question with the records that answer it, or with none. A set is made from the tenant's
own records (half of the words of a record ask for that record: known-item search) with questions
that no shop's memory answers beside them, or comes from a file. Frozen means stored, with a hash
over the questions: what was measured for one hash may be compared. A probe that asks for an erased
record is erased with it, and how many were is said.

Not covered: that people ask in other words than a record uses. Bring a file for that.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import bindparam, text

from cluster.database import Database
from cluster.errors import InvalidInput
from cluster.ids import Clock
from memory.provenance import said
from memory.records import Query, Record
from memory.words import terms

MOST: Final = 2_000
_WORDS: Final = (3, 12)  # fewest and most in a question made from a record
_STRAYS: Final = (
    "how many moons does Neptune have", "who painted the ceiling of the Sistine Chapel",
    "the boiling point of gallium in kelvin", "rules of the Sicilian defence in chess",
    "which glacier feeds the river Rhone", "how do cicadas count seventeen years",
    "the author of the Tale of Genji", "what distinguishes a fugue from a canon",
    "when was the treaty of Westphalia signed", "the half-life of caesium 137",
    "how does a cuttlefish change its colour", "which key is the Goldberg aria in",
    "what caused the eruption of Krakatoa", "the wingspan of a wandering albatross",
    "who proved the irrationality of pi", "why does sourdough rise without yeast",
    "the longest bone in a giraffe's neck", "what is a perihelion precession",
    "how were Viking longships caulked", "which orchid smells of chocolate",
)  # fmt: skip
_SET = text("SELECT * FROM memory_probe_sets WHERE tenant = :t")
_PROBES = text("SELECT id, question FROM memory_probes WHERE tenant = :t ORDER BY id")
_WANTS = text("SELECT probe, record FROM memory_probe_wants WHERE tenant = :t ORDER BY record")
_KEEP_SET = text("INSERT INTO memory_probe_sets VALUES (:t, :h, :n, :o, :at)")
_KEEP = text("INSERT INTO memory_probes VALUES (:t, :id, :q)")
_KEEP_WANT = text("INSERT INTO memory_probe_wants VALUES (:t, :p, :r)")

FORGET: Final = tuple(
    text(statement).bindparams(bindparam("ids", expanding=True))
    for statement in (
        "DELETE FROM memory_probes WHERE (tenant, id) IN"
        " (SELECT tenant, probe FROM memory_probe_wants WHERE record IN :ids)",
        "DELETE FROM memory_probe_wants WHERE record IN :ids",
    )
)
"""Removes what asks for records that go: a question made from one holds its words."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question, and the ids of the records of which each answers it; none for a question that
    nothing should answer."""

    question: str
    wanted: tuple[str, ...]

    @property
    def id(self) -> str:
        """The same for the same question and answers."""
        content = json.dumps([self.question, sorted(self.wanted)], ensure_ascii=False)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """A frozen set: its hash, where it is from, when it was made, and of `count` probes those
    whose records are still there."""

    hash: str
    origin: str
    at: float
    count: int
    probes: tuple[Probe, ...]

    @property
    def erased(self) -> int:
        """How many probes went with their records."""
        return self.count - len(self.probes)


def made_from(records: Iterable[Record], count: int) -> list[Probe]:
    """Probes for so many of the records, chosen by their ids, and strays: always the same ones."""
    saying: dict[str, list[Record]] = {}
    known: set[str] = set()
    for record in records:
        known.update(terms(record.text))
        saying.setdefault(said(record.text), []).append(record)
    probes: list[Probe] = []
    groups = [sorted(same, key=lambda record: record.id) for same in saying.values()]
    for same in sorted(groups, key=lambda same: _chance(same[0].id)):
        if len(probes) == count:
            break
        if question := _question(same[0]):
            probes.append(Probe(question, tuple(sorted(record.id for record in same))))
    strays = [s for s in _STRAYS if not known & set(terms(s))]
    return probes + [Probe(stray, ()) for stray in strays]


def _question(record: Record) -> str:
    """About half of the record's distinct words, of a short one all; none when it has too few."""
    words = [word for word in dict.fromkeys(record.text.split()) if terms(word)]
    half = [w for w in words if int(_chance(record.id + w), 16) % 2]
    fewest, most = _WORDS
    asked = half if len(half) > fewest else words
    return " ".join(asked[:most]) if len(asked) >= fewest else ""


def _chance(value: str) -> str:
    return hashlib.blake2b(value.encode("utf-8"), digest_size=8).hexdigest()


def read_file(path: Path, tenant: str, ids_of: Callable[[str], Sequence[str]]) -> list[Probe]:
    """The probes of a JSON lines file: `question`, and `wanted` (record ids), or `sources` (such as
    `policy:returns.md#1`, looked up by `ids_of`), or neither for a question without an answer.

    Raises InvalidInput, with the line, for what is no probe.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("probes", str(path), f"a readable file ({error})") from None
    probes = {
        probe.id: probe
        for number, line in enumerate(lines, 1)
        if line.strip()
        for probe in [_probe(line, f"probes, line {number}", tenant, ids_of)]
    }
    if not 1 <= len(probes) <= MOST:
        raise InvalidInput("probes", f"{len(probes)} questions", f"1 to {MOST}")
    return list(probes.values())


def _probe(line: str, where: str, tenant: str, ids_of: Callable[[str], Sequence[str]]) -> Probe:
    expected = '{"question": "...", "wanted": [ids]} or {"question": "...", "sources": [...]}'
    try:
        row = json.loads(line)
    except ValueError:
        raise InvalidInput(where, line, expected) from None
    if not isinstance(row, dict) or set(row) - {"question", "wanted", "sources"}:
        raise InvalidInput(where, line, expected)
    wanted, sources = row.get("wanted", []), row.get("sources", [])
    if not all(
        isinstance(v, list) and all(isinstance(i, str) for i in v) for v in (wanted, sources)
    ):
        raise InvalidInput(where, line, expected)
    Query(tenant, row.get("question", ""))
    for source in sources:
        if not (found := ids_of(source)):
            raise InvalidInput(where, source, "the source of a record that is there")
        wanted = [*wanted, *found]
    return Probe(row["question"], tuple(sorted(set(wanted))))


class ProbeRows:
    """The frozen sets in memory's database, one a tenant. Calls block."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def freeze(self, tenant: str, probes: Sequence[Probe], origin: str) -> ProbeSet:
        """Keep a set in place of the tenant's last one. InvalidInput without a probe that has an
        answer."""
        distinct = {probe.id: probe for probe in probes}
        if not any(probe.wanted for probe in distinct.values()):
            raise InvalidInput("probes", "none", "records of three words at least to ask for")
        joined = "".join(sorted(distinct))
        hash = hashlib.sha256(joined.encode()).hexdigest()[:16]
        at = round(self._clock.now(), 3)
        keep = {"t": tenant, "h": hash, "n": len(distinct), "o": origin, "at": at}
        with self._database.transaction() as connection:
            for table in ("sets", "wants", ""):
                name = f"memory_probe_{table}" if table else "memory_probes"
                connection.execute(text(f"DELETE FROM {name} WHERE tenant = :t"), {"t": tenant})
            connection.execute(_KEEP_SET, keep)
            for id, probe in distinct.items():
                connection.execute(_KEEP, {"t": tenant, "id": id, "q": probe.question})
                for record in probe.wanted:
                    connection.execute(_KEEP_WANT, {"t": tenant, "p": id, "r": record})
        return ProbeSet(hash, origin, at, len(distinct), tuple(distinct.values()))

    def frozen(self, tenant: str) -> ProbeSet | None:
        """The tenant's set, None when there is none."""
        with self._database.reading() as connection:
            row = connection.execute(_SET, {"t": tenant}).first()
            probes = connection.execute(_PROBES, {"t": tenant}).all()
            wants = connection.execute(_WANTS, {"t": tenant}).all()
        if row is None:
            return None
        wanted: dict[str, list[str]] = {}
        for want in wants:
            wanted.setdefault(want.probe, []).append(want.record)
        kept = tuple(Probe(p.question, tuple(wanted.get(p.id, ()))) for p in probes)
        return ProbeSet(row.hash, row.origin, row.at, int(row.total), kept)


class MeasureRows:
    """What was measured, by release and space. Calls block."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def keep(self, tenant: str, release: str, space: str, probes: str, figures: Any) -> None:
        """Keep the figures of a measurement, as JSON."""
        values = {
            "t": tenant, "at": round(self._clock.now(), 3), "r": release, "s": space, "p": probes,
            "f": json.dumps(figures),
        }  # fmt: skip
        statement = (
            "INSERT INTO memory_measures VALUES (:t, :at, :r, :s, :p, :f)"
            " ON CONFLICT (tenant, at, space) DO UPDATE SET figures = :f, probes = :p"
        )
        with self._database.transaction() as connection:
            connection.execute(text(statement), values)

    def latest(self) -> dict[tuple[str, ...], float]:
        """The last hit rate of each tenant and space."""
        statement = "SELECT tenant, space, figures FROM memory_measures ORDER BY at"
        with self._database.reading() as connection:
            rows = connection.execute(text(statement)).all()
        return {(row.tenant, row.space): json.loads(row.figures)["hit_rate"] for row in rows}

    def listed(self, tenant: str) -> list[dict[str, Any]]:
        """What was measured for the tenant, the newest first, at most 100."""
        statement = (
            "SELECT at, release, space, probes, figures FROM memory_measures WHERE tenant = :t"
            " ORDER BY at DESC, space LIMIT 100"
        )
        with self._database.reading() as connection:
            rows = connection.execute(text(statement), {"t": tenant}).all()
        return [
            {"at": r.at, "release": r.release, "space": r.space, "probes": r.probes}
            | json.loads(r.figures)
            for r in rows
        ]
