"""An embedding space in use, and what of it is shown."""

from dataclasses import dataclass, field

from memory.embed import Embedder, Space
from memory.embedders import Pinned
from memory.feed import Index
from memory.filling import Filler
from memory.space_rows import SpaceRow, State


@dataclass(eq=False)
class Live:
    """A space in use: what makes its vectors, the index that holds them, what fills it; and how
    many questions are being answered from it."""

    row: SpaceRow
    embedder: Embedder
    index: Index
    filler: Filler
    asked: int = field(default=0)

    @property
    def space(self) -> Space:
        return self.row.space

    async def stop(self) -> None:
        """Compute no more."""
        await self.filler.stop()
        if isinstance(self.embedder, Pinned):
            await self.embedder.close()


@dataclass(frozen=True, slots=True)
class SpaceState:
    """A space to look at: of `records`, `vectors` have one in it, `waiting` of those are not in
    the index yet; `refused` texts its embedder does not take. `trouble` is why it does not get
    on."""

    name: str
    embedder: str
    dimension: int
    state: State
    since: float
    records: int
    vectors: int
    waiting: int
    refused: int
    trouble: str

    @property
    def complete(self) -> bool:
        """Whether every record has its vector."""
        return self.vectors >= self.records
