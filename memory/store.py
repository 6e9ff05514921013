"""The part that keeps vectors and finds the nearest."""

from collections.abc import Sequence
from typing import Protocol

from memory.embed import Vectors
from memory.records import Record, Scored


class VectorStore(Protocol):
    """Records with one vector each.

    Every call names a tenant or carries it in its records, and touches no other tenant's rows.
    What `upsert` acknowledged is found by the next `search`, and survives the end of the process.
    All calls block; all raise Unavailable when the store can't be reached, and InvalidInput for
    a vector that is not finite, is zero or has the wrong length. One writer at a time; readers
    may come beside it.
    """

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        """Keep each record with the vector of its row; a record of the same id is replaced."""

    def known(self, tenant: str, ids: Sequence[str]) -> set[str]:
        """Those of the ids that the tenant has."""

    def members(self, tenant: str, documents: Sequence[str]) -> set[str]:
        """Ids of the tenant's records that are parts of the documents."""

    def search(
        self, vector: Vectors, tenant: str, kinds: Sequence[str], limit: int
    ) -> list[Scored]:
        """The tenant's nearest records of the kinds (all kinds when empty), nearest first."""

    def delete(self, tenant: str, ids: Sequence[str]) -> None:
        """Forget the records; ids that are not there are ignored."""

    def count(self, tenant: str) -> int:
        """How many records the tenant has."""

    def flush(self) -> None:
        """Move acknowledged rows to where searching them is cheap."""

    def close(self) -> None:
        """Let go of the store; a second call does nothing."""
