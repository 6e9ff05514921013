"""A memory with an encoder of words, for tests: real log, an index in memory or in Milvus Lite."""

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.chat import Chat
from agents.workflows.conversation import Parts
from cluster.settings import MemorySection
from memory.embed import DIMENSION, MINILM, Embedder, Space, Vectors
from memory.log import Log
from memory.records import Record
from memory.scope import Filter
from memory.service import Memory
from memory.store import Row, VectorStore
from memory.summaries import POLICY, Policy
from memory.tail import Tail
from memory.tiers import Ephemeral

START = 1_767_000_000.0


class Words:
    """Texts that share words are near: a bag of words, hashed."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.largest = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        self.largest = max(self.largest, len(texts))
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                row[zlib.crc32(word.encode()) % DIMENSION] += 1
            row /= np.linalg.norm(row)
        return rows


class Ticking:
    """A clock that stands until it is set; durations run on."""

    def __init__(self) -> None:
        self.time = START
        self.passed = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.passed


class Shelf(Tail):
    """An index in memory that outlives the Memory which uses it, and counts its flushes."""

    def __init__(self, space: Space = MINILM) -> None:
        super().__init__(space)
        self.flushes: list[int] = []
        self.drops = 0

    def flush(self) -> None:
        self.flushes.append(len(self))

    def drop(self) -> None:
        self.drops += 1
        super().drop()

    def close(self) -> None:
        """Its rows stay."""

    def rows(self) -> dict[str, Row]:
        return {row.record.id: row for row in self.oldest(1 << 31)}


class Desk:
    """A memory with its parts at hand. `again` opens the same folder anew."""

    def __init__(
        self, folder: Path, section: MemorySection, shelf: VectorStore | None,
        embedder: Embedder | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.section, self.shelf = folder, section, shelf
        self.words, self.clock = Words(), Ticking()
        self.embedder = embedder or self.words
        self.memory = self._opened()

    def _opened(self) -> Memory:
        return Memory(self.section, self.folder, self.embedder, self.clock, self.shelf)

    async def again(self) -> Memory:
        await self.memory.close()
        self.memory = self._opened()
        return self.memory

    async def killed(self) -> Memory:
        """As `again`, but nothing that waits is moved, and nobody says goodbye."""
        old = self.memory
        current = asyncio.current_task()
        for task in asyncio.all_tasks() - {current}:
            if task.get_coro().__qualname__.startswith(("Index.", "Filler.", "Memory.")):  # type: ignore[union-attr]
                task.cancel()
        await asyncio.sleep(0.05)
        old._log.close()
        old._owner.release()
        self.memory = self._opened()
        return self.memory

    def talk(self, chat: Chat, policy: Policy = POLICY) -> Parts:
        """What the workflow `conversation` works with, over this memory."""
        own = Ephemeral(self.embedder, self.clock)
        return Parts(chat, self.memory, own, self.clock, 5.0, policy)

    @property
    def log(self) -> Log:
        return self.memory._log


def said(text: str, session: str = "s1", tenant: str = "shop", **more: object) -> Record:
    """A line of a conversation."""
    fields = {"tier": "session", "session": session, **more}
    return Record(tenant, "turn", f"chat:{session}", text, START, **fields)  # type: ignore[arg-type]


def everything(tenant: str) -> Filter:
    return Filter(tenant, now=0.0)
