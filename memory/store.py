"""The index: the part that keeps vectors and keyword weights and finds the nearest.

It is derived. The log (memory/log.py) holds what is remembered; the index holds no text, may be
dropped at any time, and is made anew from the log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cluster.errors import InvalidInput
from memory.embed import DIMENSION, Space, Vectors
from memory.records import Record
from memory.scope import Filter

Keywords = Mapping[int, float]
"""Weights by term number: a sparse vector. What the numbers mean is words.py's to say."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the index keeps of a record: its id and the columns of a Filter, its vector of shape
    (dimension,), and its keyword weights (empty where it has none)."""

    record: Record
    vector: Vectors
    keywords: Keywords = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A found record's id and its score: the cosine, or the keywords' inner product. Higher is
    nearer in both."""

    id: str
    score: float


def checked(vectors: Vectors, count: int, dimension: int = DIMENSION) -> Vectors:
    """The vectors as float32. Raises InvalidInput unless each is finite, not zero and fits."""
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.shape != (count, dimension):
        raise InvalidInput("vectors", rows.shape, f"the shape ({count}, {dimension})")
    lengths = np.linalg.norm(rows, axis=1) if count else np.ones(1)
    if not np.isfinite(lengths).all():
        raise InvalidInput("vectors", "NaN or infinity", "finite numbers")
    if lengths.min() < 1e-6:
        raise InvalidInput("vectors", "a zero vector", "vectors with a direction")
    return rows


class Old(Protocol):
    """A collection of an earlier version."""

    name: str

    def pages(self) -> Iterator[list[dict[str, Any]]]:
        """Its rows, whole, page by page."""

    def drop(self) -> None:
        """Remove it with its bytes."""


class VectorStore(Protocol):
    """Rows, found by vector or by keywords within a Filter.

    What `upsert` acknowledged is found by the next search and survives the end of the process;
    `flush` makes finding it cheap. A search gives only rows that its Filter admits, at most
    `limit`, best first. All calls block; all raise Unavailable when the index can't be reached,
    and `upsert` and `nearest` raise InvalidInput for a vector that is not finite, is zero or has
    the wrong length, before anything is written. One writer at a time; readers may come beside it.
    """

    def upsert(self, rows: Sequence[Row]) -> None:
        """Keep the rows; a row of the same record is replaced whole."""

    def delete(self, ids: Sequence[str]) -> None:
        """Forget the rows, whoever's they are; ids that are not there are ignored."""

    def nearest(self, vector: Vectors, scope: Filter, limit: int) -> list[Match]:
        """The rows with the greatest cosine to a vector of shape (dimension,)."""

    def matching(self, keywords: Keywords, scope: Filter, limit: int) -> list[Match]:
        """The rows with the greatest inner product of keyword weights, above 0 only."""

    def ids(self) -> set[str]:
        """Every row's id, of all tenants; what the log is compared with."""

    def count(self) -> int:
        """How many rows there are, of all tenants."""

    def flush(self) -> None:
        """Move acknowledged rows to where searching them is cheap."""

    def drop(self) -> None:
        """Remove every row and its bytes on disk, and go on empty."""

    def beside(self, space: Space) -> "VectorStore":
        """The rows of another embedding space in the same place; itself for its own. Each is closed
        by itself."""

    def serve(self) -> None:
        """Show who looks from outside that it is these rows that are searched."""

    def left_behind(self, spaces: Sequence[Space]) -> Sequence[Old]:
        """What earlier versions left in the place; `spaces` are those that are in use."""

    def discard(self) -> None:
        """Remove every row, its bytes, and what held them. Only `close` may follow."""

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
