"""Vectors for records that have none in a space: at first all of them, then what comes anew.

What is done is in the log, so that a killed process goes on where it was. A space that is filled
keeps no writer waiting: what was remembered is acknowledged with a vector of the space that serves,
and has its other one a moment later.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from cluster.errors import InvalidInput, MainspringError
from cluster.ids import jittered
from cluster.telemetry import logger
from memory.embed import Embedder, Vectors
from memory.feed import Index
from memory.log import Log
from memory.records import Record
from memory.store import checked
from memory.writer import Writer

log = logger("memory")

AT_ONCE: Final = 32  # texts in one call: a question never waits behind a long list
_READ_AT_ONCE: Final = 256
KEEPS_UP_S: Final = 0.1
"""Between two looks for records that lack a vector of a space beside the serving one."""
SERVES_S: Final = 5.0
"""The same of the serving one, whose records come with theirs."""
_LONGEST_PAUSE_S: Final = 30.0


async def embedded(embedder: Embedder, texts: Sequence[str], dimension: int) -> Vectors:
    """A vector for each text, in short calls."""
    parts = [
        await embedder.embed(texts[start : start + AT_ONCE])
        for start in range(0, len(texts), AT_ONCE)
    ]
    found = np.concatenate(parts) if parts else np.empty((0, dimension), np.float32)
    return checked(found, len(texts), dimension)


class Filler:
    """Fills one space. `trouble` says why it does not get on, `refused` holds the ids of records
    whose texts its embedder does not take."""

    def __init__(self, log: Log, writer: Writer, index: Index, embedder: Embedder) -> None:
        self._log, self._writer, self._index, self._embedder = log, writer, index, embedder
        self._after = 0
        self._task: asyncio.Task[None] | None = None
        self.pause_s = KEEPS_UP_S
        self.trouble = ""
        self.refused: set[str] = set()

    def start(self) -> None:
        """Fill in the background from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Fill no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def fill_some(self, most: int = _READ_AT_ONCE, alone: bool = False) -> int:
        """Give some of what lacks a vector one, and say how many lacked it. `alone` is for who
        keeps other writers out already."""
        name = self._index.space.name
        found = await asyncio.to_thread(self._log.unembedded, name, most, self._after)
        for start in range(0, len(found), AT_ONCE):
            part = found[start : start + AT_ONCE]
            await self._fill([record for _, record in part], alone)
            self._after = part[-1][0]
        return len(found)

    async def fill_rest(self) -> None:
        """Fill until nothing lacks a vector, for who keeps other writers out."""
        while await self.fill_some(alone=True):
            continue

    async def _fill(self, records: list[Record], alone: bool) -> None:
        await self._index.room()
        write = self._writer.embedded if alone else self._writer.embed
        dimension = self._index.space.dimension
        try:
            vectors = await embedded(self._embedder, [r.text for r in records], dimension)
        except InvalidInput as error:
            if len(records) == 1:
                self.refused.add(records[0].id)
                log.warning("memory space %s: record %s: %s", self._name, records[0].id, error)
                return
            for record in records:
                await self._fill([record], alone)
            return
        await write(records, vectors, self._index.space.name)

    @property
    def _name(self) -> str:
        return self._index.space.name

    async def _run(self) -> None:
        pause = 0.0
        while True:
            try:
                idle = not await self.fill_some()
                pause, self.trouble = 0.0, ""
            except (MainspringError, TimeoutError) as error:
                idle = False
                self.trouble = str(error)
                pause = min(max(2 * pause, 0.5), _LONGEST_PAUSE_S)
                log.warning("memory space %s: %s", self._name, error)
            if idle or pause:
                await asyncio.sleep(jittered(pause) if pause else self.pause_s)
