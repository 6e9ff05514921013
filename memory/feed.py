"""The index as readers see it: what is on disk together with what is still on its way there.

Rows wait in a Tail, where they are found at once, and move to the store by number or by time, each
move ending in a flush: the store never holds rows that are dear to search. The log says which
rows there should be; `align` brings the index in step with it, from nothing if need be.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cluster.errors import MainspringError, Overloaded
from cluster.ids import Clock, jittered
from cluster.telemetry import logger
from memory.embed import Space, Vectors
from memory.log import Log
from memory.scope import Filter
from memory.store import Keywords, Match, Row, VectorStore
from memory.tail import Tail

log = logger("memory")

_MOVED_AT_ONCE: Final = 500
_LONGEST_PAUSE_S: Final = 30.0
_ROOM_TIMEOUT_S: Final = 30.0

Progress = Callable[[int, int], None]
"""Told how many rows are done, of how many."""
Rows = Callable[[Sequence[str], str], list[Row]]
"""Reads the rows of a space from the log, blocking; those that have no vector are left out."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """So many rows wait for the store at most, and for so many seconds; at `most` of them writers
    wait too."""

    rows: int
    seconds: float
    most: int


class Index:
    """Searches and fills a store. For one event loop; blocking calls run beside it.

    `space` is the embedding space of its vectors.
    """

    def __init__(
        self, log: Log, store: VectorStore, clock: Clock, space: Space, bounds: Bounds
    ) -> None:
        self._log, self._store, self._clock = log, store, clock
        self.space, self._bounds = space, bounds
        self._tail = Tail(space)
        self._gone: set[str] = set()
        self._since = 0.0
        self._upto = 0
        self._refilling = 0
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._moving = asyncio.Lock()
        self._mover: asyncio.Task[None] | None = None
        self.trouble = ""

    @property
    def waiting(self) -> int:
        """How many rows the store does not have yet, or still has though they are gone."""
        return len(self._tail) + len(self._gone)

    @property
    def lag_s(self) -> float:
        """For how many seconds the oldest of them has waited."""
        return self._clock.monotonic() - self._since if self.waiting else 0.0

    def put(self, rows: Sequence[Row], upto: int) -> None:
        """Take rows in; they are found from now on. With them comes everything up to event
        `upto` of the log."""
        self._begin_waiting()
        self._tail.upsert(rows)
        self._gone -= {row.record.id for row in rows}
        self._upto = upto
        self._wake.set()

    def remove(self, ids: Sequence[str], upto: int) -> None:
        """Rows of these ids are not found from now on."""
        self._begin_waiting()
        self._tail.delete(ids)
        self._gone |= set(ids)
        self._upto = upto
        self._wake.set()

    async def room(self) -> None:
        """Wait until rows may come. Overloaded when the store does not keep up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROOM_TIMEOUT_S):
                # rows that come from the log again are no writer's fault
                while len(self._tail) >= self._bounds.most + self._refilling:
                    self._moved.clear()
                    await self._moved.wait()
                return
        raise Overloaded("memory index", f"{len(self._tail)} rows wait for it: {self.trouble}", 5.0)

    async def nearest(self, vector: Vectors, scope: Filter, limit: int) -> list[Match]:
        """See VectorStore."""
        here, newer = self._tail.nearest(vector, scope, limit), self._known()
        there = await asyncio.to_thread(self._store.nearest, vector, scope, limit)
        return self._merged(here, newer, there, limit)

    async def matching(self, keywords: Keywords, scope: Filter, limit: int) -> list[Match]:
        """See VectorStore."""
        if not keywords:
            return []
        here, newer = self._tail.matching(keywords, scope, limit), self._known()
        there = await asyncio.to_thread(self._store.matching, keywords, scope, limit)
        return self._merged(here, newer, there, limit)

    def _known(self) -> set[str]:
        return self._tail.ids() | self._gone

    def _merged(
        self, here: list[Match], newer: set[str], there: list[Match], limit: int
    ) -> list[Match]:
        # What waited is newer than what the store says of the same record. What has begun to wait
        # since `here` was looked up is not in it: there the store's word is all that there is.
        older = [m for m in there if m.id not in newer and m.id not in self._gone]
        both = here + older
        return sorted(both, key=lambda m: (-m.score, m.id))[:limit]

    async def align(self, rows: Rows) -> int:
        """Take what the store lacks into the tail and what it has too much out. Returns how many
        rows that were."""
        here = await asyncio.to_thread(self._log.seqs)
        there = await asyncio.to_thread(self._store.ids)
        marked = await asyncio.to_thread(self._log.marked, self.space.name)
        missing = [id for id, seq in here.items() if seq > marked or id not in there]
        extra = there - here.keys()
        self._upto = max(here.values(), default=0)
        await self._take(missing, rows)
        if extra:
            self.remove(sorted(extra), self._upto)
        return len(missing) + len(extra)

    async def rebuild(self, rows: Rows, progress: Progress | None = None) -> int:
        """Drop the store and fill it again from the log; searches and writes go on meanwhile.
        Returns the number of rows."""
        async with self._moving:
            await asyncio.to_thread(self._log.mark, self.space.name, 0)
            here = await asyncio.to_thread(self._log.seqs)
            await self._take([id for id in here if id not in self._tail], rows)
            await asyncio.to_thread(self._store.drop)
            self._gone.clear()
            total = len(self._tail)
            while len(self._tail):
                await self._move()
                if progress is not None:
                    progress(max(total - len(self._tail), 0), total)
            await asyncio.to_thread(self._log.mark, self.space.name, self._upto)
        return total

    async def _take(self, ids: list[str], rows: Rows) -> None:
        for start in range(0, len(ids), _MOVED_AT_ONCE):
            part = await asyncio.to_thread(
                rows, ids[start : start + _MOVED_AT_ONCE], self.space.name
            )
            self._begin_waiting()
            # what was put or removed meanwhile is newer than what was read
            self._tail.upsert([row for row in part if not self._knows(row.record.id)])
        self._refilling = len(self._tail)
        self._wake.set()

    def _knows(self, id: str) -> bool:
        return id in self._tail or id in self._gone

    async def settle(self) -> None:
        """Move everything now."""
        async with self._moving:
            while self.waiting:
                await self._move()

    async def indexed(self) -> int:
        """How many rows the store has, of all tenants."""
        return await asyncio.to_thread(self._store.count)

    async def serve(self) -> None:
        """Show who looks at the store from outside that this is the index that serves."""
        await asyncio.to_thread(self._store.serve)

    async def close(self) -> None:
        """Move what waits and let go of the store."""
        await self._stop()
        try:
            await self.settle()
        finally:
            await asyncio.to_thread(self._store.close)

    async def discard(self) -> None:
        """Let go of the store and leave nothing of it."""
        await self._stop()
        async with self._moving:
            await asyncio.to_thread(self._store.discard)
            await asyncio.to_thread(self._store.close)

    async def _stop(self) -> None:
        if self._mover is not None:
            self._mover.cancel()
            await asyncio.gather(self._mover, return_exceptions=True)

    def start(self) -> None:
        """Move rows in the background from now on."""
        if self._mover is None or self._mover.done():
            self._mover = asyncio.create_task(self._run())

    def _begin_waiting(self) -> None:
        if not self.waiting:
            self._since = self._clock.monotonic()

    async def _run(self) -> None:
        pause = 0.0
        while True:
            await self._due()
            try:
                async with self._moving:
                    await self._move()
                pause, self.trouble = 0.0, ""
            except MainspringError as error:
                # the rows stay in the tail, where they are found; the log has them anyway
                self.trouble = str(error)
                log.warning("memory index: %s", error)
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE_S)
                await asyncio.sleep(jittered(pause))

    async def _due(self) -> None:
        while self.waiting < self._bounds.rows:
            left: float | None = None
            if self.waiting:
                left = self._bounds.seconds - (self._clock.monotonic() - self._since)
                if left <= 0:
                    return
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _move(self) -> None:
        rows, gone, upto = self._tail.oldest(_MOVED_AT_ONCE), sorted(self._gone), self._upto
        whole = len(rows) == len(self._tail)
        self._since = self._clock.monotonic()
        await asyncio.to_thread(self._write, rows, gone, upto if whole else None)
        self._tail.settle(rows)
        self._gone -= {id for id in gone if id not in self._tail}
        self._refilling = min(self._refilling, len(self._tail))
        self._moved.set()

    def _write(self, rows: list[Row], gone: list[str], upto: int | None) -> None:
        if gone:
            self._store.delete(gone)
        if rows:
            self._store.upsert(rows)
        self._store.flush()
        if upto is not None:
            self._log.mark(self.space.name, upto)
