"""Which embedding spaces there are, and which one serves: rows of memory's log.

The row decides what is searched; a change of it is one transaction. What the index calls its alias
follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from sqlalchemy import text

from cluster.database import Database
from cluster.ids import Clock
from memory.embed import Space, Vectors

State = Literal["serving", "shadow", "former", "leaving"]
"""Answers; is being made or waits to be switched to; served until the last switch; is being taken
away."""
_AT_ONCE: Final = 5_000
_ALL = text("SELECT * FROM memory_spaces ORDER BY at, name")
_ADD = text("INSERT INTO memory_spaces VALUES (:n, :e, :d, :f, :c, :s, :at)")
_SET = text("UPDATE memory_spaces SET state = :s, at = :at WHERE name = :n")
_VECTORS = text("SELECT count(*) FROM memory_vectors WHERE space = :s")
_DROP_SOME = text(
    "DELETE FROM memory_vectors WHERE space = :s AND id IN"
    " (SELECT id FROM memory_vectors WHERE space = :s LIMIT :n)"
)


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """A space: the embedder of the settings that makes its vectors, what it was made from (of
    weights their hash), what a fixed sentence became in it, and since when it is in its state."""

    space: Space
    embedder: str
    fingerprint: str
    canary: Vectors
    state: State
    at: float = 0.0


class SpaceRows:
    """The rows of a log's database. Calls block."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def all(self) -> list[SpaceRow]:
        """Every space, the one that came into its state first in front."""
        with self._database.reading() as connection:
            return [_row(row) for row in connection.execute(_ALL)]

    def serving(self) -> SpaceRow | None:
        """The one that serves, None while nothing was ever remembered here."""
        return next((row for row in self.all() if row.state == "serving"), None)

    def add(self, row: SpaceRow) -> None:
        """Keep a new space."""
        values = {
            "n": row.space.name, "d": row.space.dimension, "e": row.embedder, "f": row.fingerprint,
            "c": row.canary.astype(np.float32).tobytes(), "s": row.state, "at": self._now(),
        }  # fmt: skip
        with self._database.transaction() as connection:
            connection.execute(_ADD, values)

    def set(self, states: Sequence[tuple[str, State]]) -> None:
        """Give spaces their states, all at once."""
        with self._database.transaction() as connection:
            for name, state in states:
                connection.execute(_SET, {"n": name, "s": state, "at": self._now()})

    def vectors(self, space: str) -> int:
        """How many records have a vector in the space."""
        with self._database.reading() as connection:
            return int(connection.execute(_VECTORS, {"s": space}).scalar() or 0)

    def drop_vectors(self, space: str) -> int:
        """Remove some of the space's vectors; returns how many."""
        with self._database.transaction() as connection:
            return connection.execute(_DROP_SOME, {"s": space, "n": _AT_ONCE}).rowcount

    def remove(self, space: str) -> None:
        """Forget a space."""
        with self._database.transaction() as connection:
            for table, column in (("spaces", "name"), ("marks", "space")):
                connection.execute(
                    text(f"DELETE FROM memory_{table} WHERE {column} = :s"), {"s": space}
                )

    def _now(self) -> float:
        return round(self._clock.now(), 3)


def _row(row: Any) -> SpaceRow:
    canary = np.frombuffer(bytes(row.canary), np.float32)
    return SpaceRow(
        Space(row.name, int(row.dimension)), row.embedder, row.fingerprint, canary, row.state,
        row.at,
    )  # fmt: skip
