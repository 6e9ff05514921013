"""The one way into the log: changes take turns, and writers that wait share a transaction.

The index hears of each change before the next one begins, so that what a caller was told is so is
what the next search finds. A change that has begun ends even if its caller goes away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from cluster.errors import Conflict, MainspringError
from memory import provenance
from memory.embed import SPACE, Vectors
from memory.feed import Index
from memory.lexicon import Lexicon
from memory.log import Batch, Log, What
from memory.log import Note as Note
from memory.records import Record

T = TypeVar("T")


class Moved(Conflict):
    """The vectors are of a space that does not serve any more; new ones are needed."""


_TOGETHER: Final = 2_000  # records in one transaction


@dataclass(eq=False)
class _Waiting:
    batch: Batch
    added: asyncio.Future[list[Record]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Writer:
    """Adds and removes records, and tells each of `indexes`. `space` names the one that serves, of
    which new records' vectors must be. For one event loop."""

    def __init__(self, log: Log, indexes: list[Index], lexicon: Lexicon) -> None:
        self._log, self._indexes, self._lexicon = log, indexes, lexicon
        self.space = SPACE
        self._turn = asyncio.Lock()
        self._waiting: list[_Waiting] = []
        self._running: set[asyncio.Task[object]] = set()

    async def add(self, batch: Batch) -> list[Record]:
        """Keep the batch and return those of its records that were new, as they are kept. When
        this returns they are on disk and are found. Raises Moved before anything is kept."""
        one = _Waiting(batch)
        self._waiting.append(one)
        await self.alone(self._drain)
        return await one.added

    async def alone(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something while no other change is made."""

        async def done() -> T:
            async with self._turn:
                return await work()

        task = asyncio.create_task(done())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def supersede(self, old: Record, batch: Batch) -> Record:
        """Keep the one record of the batch as the version after `old`."""

        async def work() -> Record:
            (stamped,) = await self._stamped(batch)
            after = replace(batch, records=[stamped])
            past, added = await asyncio.to_thread(self._log.supersede, old, after)
            await asyncio.to_thread(self._lexicon.unlearn, [past])
            await self._tell([past, added])
            return added

        return await self.alone(work)

    async def promote(self, record: Record, note: Note) -> Record:
        """Move the record to the long-term tier."""

        async def work() -> Record:
            promoted = await asyncio.to_thread(self._log.promote, record, note)
            await self._tell([promoted], learn=False)
            return promoted

        return await self.alone(work)

    async def embed(self, records: list[Record], vectors: Vectors, space: str) -> None:
        """Keep vectors for records that have none in the space; from now on they are found."""
        await self.alone(lambda: self.embedded(records, vectors, space))

    async def embedded(self, records: list[Record], vectors: Vectors, space: str) -> None:
        """The same for who is `alone` already."""
        await asyncio.to_thread(self._log.embed, records, vectors, space)
        # the other spaces' rows are as they were, and so are the neighbours
        upto = await asyncio.to_thread(self._log.end)
        await self._put([record.id for record in records], upto, space)

    async def remove(self, records: list[Record], what: What, note: Note) -> None:
        """Take records out of the log; from now on nothing finds them."""
        if records:
            await self.alone(lambda: self._remove(records, what, note))

    async def close(self) -> None:
        """Wait for the changes that have begun."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _remove(self, records: list[Record], what: What, note: Note) -> None:
        await asyncio.to_thread(self._log.remove, records, what, note)
        await asyncio.to_thread(self._lexicon.unlearn, records)
        gone = {record.id for record in records}
        upto = await asyncio.to_thread(self._log.end)
        for index in self._indexes:
            index.remove(sorted(gone), upto)
        touched = await asyncio.to_thread(self._lexicon.touched, records)
        await self._put([id for id in touched if id not in gone], upto)

    async def _drain(self) -> None:
        taken: list[_Waiting] = []
        while self._waiting and sum(len(w.batch.records) for w in taken) < _TOGETHER:
            taken.append(self._waiting.pop(0))
        ready: list[tuple[_Waiting, Batch]] = []
        for one in taken:
            try:
                ready.append((one, replace(one.batch, records=await self._stamped(one.batch))))
            except MainspringError as error:
                _fail(one, error)
        if not ready:
            return
        try:
            added = await asyncio.to_thread(self._log.add, [batch for _, batch in ready])
            await self._tell([record for part in added for record in part])
        except Exception as error:
            for one, _ in ready:
                _fail(one, error)
            return
        for (one, _), part in zip(ready, added, strict=True):
            if not one.added.done():
                one.added.set_result(part)

    async def _stamped(self, batch: Batch) -> list[Record]:
        if batch.space != self.space:
            raise Moved(f"space {batch.space}", f"{self.space} serves now")
        stamped: list[Record] = []
        wanted = {(r.tenant, parent) for r in batch.records for parent in r.parents}
        known: dict[str, dict[str, Record]] = {}
        for tenant in sorted({tenant for tenant, _ in wanted}):
            ids = sorted({parent for owner, parent in wanted if owner == tenant})
            known[tenant] = await asyncio.to_thread(self._log.get, tenant, ids)
        for record in batch.records:
            stamped.append(provenance.stamped(record, known.get(record.tenant, {})))
        return stamped

    async def _tell(self, records: list[Record], learn: bool = True) -> None:
        """Put what changed before the index, with the neighbours that it changes."""
        if not records:
            return
        if learn:
            new = [r for r in records if r.superseded_at is None]
            await asyncio.to_thread(self._lexicon.learn, new)
        ids = await asyncio.to_thread(self._lexicon.touched, records)
        await self._put(ids, await asyncio.to_thread(self._log.end))

    async def _put(self, ids: list[str], upto: int, space: str = "") -> None:
        for index in [i for i in self._indexes if space in ("", i.space.name)]:
            index.put(await asyncio.to_thread(self._lexicon.rows, ids, index.space.name), upto)


def _fail(one: _Waiting, error: Exception) -> None:
    if not one.added.done():
        one.added.set_exception(error)
