"""Memory: records go in, hits come out. The one owner of its store.

A plain class; at the rim it becomes a Ray actor, which is what makes it the one owner of a Milvus
Lite file. Its methods are coroutines; the store's blocking calls run beside the event loop.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from cluster.errors import InvalidInput
from cluster.ids import Clock
from cluster.settings import MemorySection
from memory import ingest as files
from memory import recall as ranking
from memory.embed import Embedder, Vectors
from memory.ingest import IngestReport, Reading
from memory.milvus import MilvusStore
from memory.records import Hit, Query, Record
from memory.store import VectorStore

_EMBEDDED_AT_ONCE: Final = 32  # texts in one call: a question never waits behind a long list
_WRITTEN_AT_ONCE: Final = 2000  # each round ends in a flush, which costs a third of a second


def opened_store(section: MemorySection, data_dir: Path) -> VectorStore:
    """The store of the settings: a server's URI as it is, else a Lite file below `data_dir`."""
    uri = section.uri if "://" in section.uri else str((data_dir / section.uri).resolve())
    return MilvusStore(uri, section.token)


class Memory:
    """Remembers and recalls for every tenant; no call sees another tenant's records.

    A record that `remember` has acknowledged is found by the next `recall` and survives the
    process. `store` replaces the store of the settings.
    """

    def __init__(
        self,
        section: MemorySection,
        data_dir: Path,
        embedder: Embedder,
        clock: Clock,
        store: VectorStore | None = None,
    ) -> None:
        self._section = section
        self._embedder = embedder
        self._clock = clock
        self._store = store if store is not None else opened_store(section, data_dir)
        self._writing = asyncio.Lock()
        self._unflushed = 0
        self._oldest_unflushed = 0.0
        self._flusher: asyncio.Task[None] | None = None

    async def remember(self, records: Sequence[Record]) -> int:
        """Keep the records and say how many were new; the same record again changes nothing.

        Raises InvalidInput when a vector can't be stored, Unavailable when a part is down; what
        was written before the error stays, and repeating the call completes it.
        """
        for number, record in enumerate(records):
            if not isinstance(record, Record):
                raise InvalidInput(f"records[{number}]", record, "a Record")
        distinct = list({record.id: record for record in records}.values())
        added = 0
        async with self._writing:
            for start in range(0, len(distinct), _WRITTEN_AT_ONCE):
                added += await self._write(distinct[start : start + _WRITTEN_AT_ONCE])
        return added

    async def _write(self, records: list[Record]) -> int:
        known = await self._known(records)
        new = [record for record in records if record.id not in known]
        if not new:
            return 0
        vectors = await self._embedded([record.text for record in new])
        await asyncio.to_thread(self._store.upsert, new, vectors)
        if not self._unflushed:
            self._oldest_unflushed = self._clock.monotonic()
        self._unflushed += len(new)
        await self._flush_when_due()
        return len(new)

    async def _known(self, records: list[Record]) -> set[str]:
        known: set[str] = set()
        for tenant in {record.tenant for record in records}:
            ids = [record.id for record in records if record.tenant == tenant]
            known |= await asyncio.to_thread(self._store.known, tenant, ids)
        return known

    async def _embedded(self, texts: list[str]) -> Vectors:
        parts = [
            await self._embedder.embed(texts[start : start + _EMBEDDED_AT_ONCE])
            for start in range(0, len(texts), _EMBEDDED_AT_ONCE)
        ]
        return np.concatenate(parts)

    async def _flush_when_due(self) -> None:
        """Flush by number; what stays behind is flushed by time, so that no row waits long."""
        if self._unflushed >= self._section.flush_rows:
            await self._flush()
        elif self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_later())

    async def _flush(self) -> None:
        await asyncio.to_thread(self._store.flush)
        self._unflushed = 0

    async def _flush_later(self) -> None:
        while self._unflushed:
            waited = self._clock.monotonic() - self._oldest_unflushed
            if waited < self._section.flush_seconds:
                await asyncio.sleep(self._section.flush_seconds - waited)
                continue
            async with self._writing:
                if self._unflushed:
                    await self._flush()

    async def recall(self, query: Query) -> list[Hit]:
        """The most relevant records, best first; none when nothing is relevant enough."""
        (vector,) = await self._embedder.embed([query.text])
        limit = ranking.candidates_wanted(query)
        # one search a kind: ten thousand tickets must not keep four policies out of sight
        groups: list[tuple[str, ...]] = [(kind,) for kind in dict.fromkeys(query.kinds)] or [()]
        found = await asyncio.gather(
            *(
                asyncio.to_thread(self._store.search, vector, query.tenant, kinds, limit)
                for kinds in groups
            )
        )
        return ranking.rank([scored for part in found for scored in part], query)

    async def ingest(self, tenant: str, path: str, kind: str) -> IngestReport:
        """Remember a folder's or a file's texts; documents read again replace their old passages.

        Raises NotFound for a path that is not there; a file that can't be read is reported.
        """
        reading = await asyncio.to_thread(files.read, Path(path), tenant, kind)
        added = await self.remember(reading.records)
        removed = await self._forget_old_passages(tenant, reading)
        return IngestReport(
            files=reading.files,
            added=added,
            known=len({record.id for record in reading.records}) - added,
            removed=removed,
            problems=tuple(reading.problems),
        )

    async def _forget_old_passages(self, tenant: str, reading: Reading) -> int:
        async with self._writing:
            there = await asyncio.to_thread(self._store.members, tenant, sorted(reading.documents))
            old = sorted(there - {record.id for record in reading.records})
            if old:
                await asyncio.to_thread(self._store.delete, tenant, old)
        return len(old)

    async def forget(self, tenant: str, ids: Sequence[str]) -> None:
        """Make the records unfindable. Their bytes stay on disk until the store compacts."""
        async with self._writing:
            await asyncio.to_thread(self._store.delete, tenant, list(ids))

    async def count(self, tenant: str) -> int:
        """How many records the tenant has."""
        return await asyncio.to_thread(self._store.count, tenant)

    async def close(self) -> None:
        """Flush and let go of the store; a second call does nothing."""
        async with self._writing:
            if self._unflushed:
                await self._flush()
            await asyncio.to_thread(self._store.close)
            # it can only be asleep or waiting for this lock, with nothing left to do
            if self._flusher is not None:
                self._flusher.cancel()
