"""Embedding spaces: the one that serves, and another one beside it while the embedder is changed.

    prepare    makes a shadow of the whole memory in the background and keeps it in step
    measure    compares both on the frozen probes (measuring.py)
    switch     lets the shadow serve; the former space goes on being kept in step
    rollback   lets the former space serve again, at once
    drop       takes the one that does not serve away

Which space serves is a row of the log's database, changed in one transaction; a question is
embedded and searched in the space that served when it began, so no answer mixes two of them, and
none waits. After a kill at any point the rows say what to go on with: a shadow is filled further
from the log, one that was being taken away is taken away.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from cluster.errors import Conflict, MainspringError, NotFound, Unavailable
from cluster.ids import Clock
from cluster.settings import MemorySection
from cluster.telemetry import logger
from memory.embed import MINILM, Embedder
from memory.embedders import BUILT_IN, described, opened
from memory.feed import Bounds, Index
from memory.filling import KEEPS_UP_S, SERVES_S, Filler
from memory.legacy import take_over
from memory.lexicon import Lexicon
from memory.live import Live, SpaceState
from memory.log import Log
from memory.space_rows import SpaceRow, State
from memory.store import VectorStore
from memory.writer import Writer

log = logger("memory")

_NEARLY: Final = 64  # records without a vector that a switch embeds while writers wait
_ROUNDS: Final = 100
_BACK_WITHIN_S: Final = 5.0
_LEAVES_WITHIN_S: Final = 60.0


class Spaces:
    """The spaces of one memory. `feeds` is the writer's list of indexes, kept up to date here;
    `root` is the store that the spaces' own ones lie beside. For one event loop."""

    def __init__(
        self,
        section: MemorySection,
        log: Log,
        writer: Writer,
        lexicon: Lexicon,
        feeds: list[Index],
        root: VectorStore,
        clock: Clock,
        built_in: Embedder,
        bounds: Bounds,
    ) -> None:
        self._section, self._log, self._writer, self._lexicon = section, log, writer, lexicon
        self._feeds, self._root, self._clock = feeds, root, clock
        self._built_in, self._bounds = built_in, bounds
        self._changing = asyncio.Lock()
        self._serving: Live | None = None
        self._other: Live | None = None

    @property
    def serving(self) -> Live:
        """The one that answers."""
        if self._serving is None:
            raise Unavailable("memory", "it is not open yet")
        return self._serving

    @property
    def other(self) -> Live | None:
        """The one beside it, if there is one."""
        return self._other

    async def open(self) -> int:
        """Take up what the rows say. Returns how many rows the serving index lacked or had too
        much."""
        rows = await asyncio.to_thread(self._log.spaces.all)
        serving = next((row for row in rows if row.state == "serving"), None)
        serving = serving or await self._first()
        self._feeds.clear()
        live = await self._opened(serving)
        changed = await self._started(live)
        self._serving = live
        self._roles()
        await self._point()
        for row in (row for row in rows if row.state != "serving"):
            # without another space memory still answers: what is wrong with it is said and waits
            try:
                await (self._take_away if row.state == "leaving" else self._take_up)(row)
            except MainspringError as error:
                log.warning("memory space %s is left as it is: %s", row.space.name, error)
        await self._take_over()
        return changed

    async def _take_over(self) -> None:
        lives = [live for live in (self._serving, self._other) if live is not None]
        spaces, live = [live.space for live in lives], self.serving
        try:
            old = await asyncio.to_thread(self._root.left_behind, spaces)
            await take_over(old, self._log, self._writer, live.space, live.embedder)
        except MainspringError as error:
            log.error("memory: what an earlier version left is still there: %s", error)

    async def _take_up(self, row: SpaceRow) -> None:
        other = await self._opened(row)
        await self._started(other)
        self._other = other

    def _roles(self) -> None:
        self._writer.space = self.serving.space.name
        self.serving.filler.pause_s = SERVES_S
        if self._other is not None:
            self._other.filler.pause_s = KEEPS_UP_S

    async def _first(self) -> SpaceRow:
        # what an earlier version remembered has MiniLM's vectors, whatever is set now
        there = await asyncio.to_thread(self._log.spaces.vectors, MINILM.name)
        name = BUILT_IN if there else self._section.embedder
        row = await described(self._section, name, "serving")
        await asyncio.to_thread(self._log.spaces.add, row)
        return row

    async def _opened(self, row: SpaceRow) -> Live:
        embedder = await asyncio.to_thread(opened, self._section, row, self._built_in)
        store = await asyncio.to_thread(self._root.beside, row.space)
        index = Index(self._log, store, self._clock, row.space, self._bounds)
        return Live(row, embedder, index, Filler(self._log, self._writer, index, embedder))

    async def _started(self, live: Live) -> int:
        changed = await live.index.align(self._lexicon.rows)
        live.index.start()
        self._feeds.append(live.index)
        live.filler.start()
        return changed

    async def _point(self) -> None:
        """The alias follows the row; what looks at it is outside, and not worth a failure."""
        try:
            await self.serving.index.serve()
        except MainspringError as error:
            log.warning("memory: the alias stays behind: %s", error)

    @contextlib.asynccontextmanager
    async def asking(self, live: Live | None = None) -> AsyncIterator[Live]:
        """The space to answer a question from; it does not go while the block runs."""
        live = live or self.serving
        live.asked += 1
        try:
            yield live
        finally:
            live.asked -= 1

    async def listed(self) -> list[SpaceState]:
        """Every space, the serving one first."""
        rows = await asyncio.to_thread(self._log.spaces.all)
        records = await asyncio.to_thread(self._log.count)
        rows.sort(key=lambda row: (row.state != "serving", row.at))
        return [await self._state(row, records) for row in rows]

    async def _state(self, row: SpaceRow, records: int) -> SpaceState:
        live = next((s for s in (self._serving, self._other) if s and s.space == row.space), None)
        vectors = await asyncio.to_thread(self._log.spaces.vectors, row.space.name)
        trouble = "it is not open; see the log" if live is None else ""
        if live is not None:
            trouble = live.filler.trouble or live.index.trouble
        return SpaceState(
            name=row.space.name, embedder=row.embedder, dimension=row.space.dimension,
            state=row.state, since=row.at, records=records, vectors=vectors,
            waiting=live.index.waiting if live else 0,
            refused=len(live.filler.refused) if live else 0, trouble=trouble,
        )  # fmt: skip

    async def prepare(self, embedder: str) -> SpaceState:
        """Begin to make a shadow by an embedder of the settings; that goes on in the background,
        over restarts, while memory answers and is written to. Again, it says how far that is.

        Raises Conflict while there is another space beside the serving one; and what
        `embedders.described` raises, before anything is kept.
        """
        async with self._changing:
            row = await described(self._section, embedder, "shadow")
            rows = await asyncio.to_thread(self._log.spaces.all)
            there = {r.space.name: r for r in rows}
            name = row.space.name
            if name in there and there[name].state == "serving":
                raise Conflict(f"space {name}", "it serves already")
            if others := [n for n in there if n != name and there[n].state != "serving"]:
                raise Conflict(f"space {name}", f"{others[0]} is there: drop it first")
            if name not in there:
                await asyncio.to_thread(self._log.spaces.add, row)
            if self._other is None:
                await self._take_up(row)
            records = await asyncio.to_thread(self._log.count)
            return await self._state(there.get(name, row), records)

    async def switch(self, name: str) -> SpaceState:
        """Let the space beside the serving one serve. Conflict unless every record has its vector
        in it; nothing is changed then."""
        async with self._changing:
            other = self._beside(name)
            await self._require_complete(other)
            await self._caught_up(other)
            async with self._paused(other):
                await self._writer.alone(lambda: self._exchange(other, "former"))
            return await self._told()

    async def rollback(self) -> SpaceState:
        """Let the former space serve again. It was kept in step; what it still lacks after five
        seconds, as when its embedder is away, is found once it has it."""
        async with self._changing:
            other = self._other
            if other is None or other.row.state != "former":
                raise NotFound("former space", "to roll back to")
            async with self._at_most_briefly():
                await self._caught_up(other)
            async with self._paused(other):
                await self._writer.alone(lambda: self._exchange(other, "shadow", complete=False))
            return await self._told()

    async def drop(self, name: str) -> None:
        """Take a space that does not serve away, with its vectors and its index."""
        async with self._changing:
            rows = await asyncio.to_thread(self._log.spaces.all)
            row = next((row for row in rows if row.space.name == name), None)
            if row is None:
                raise NotFound("space", name)
            if row.state == "serving":
                raise Conflict(f"space {name}", "it serves: switch to another one first")
            await asyncio.to_thread(self._log.spaces.set, [(name, "leaving")])
            live, self._other = self._other, None
            await self._take_away(row, live)

    async def renew(self) -> None:
        """Make every space's files anew."""
        for live in (self._serving, self._other):
            if live is not None:
                await live.index.rebuild(self._lexicon.rows)

    async def settle(self) -> None:
        """Move everything that waits to the stores."""
        for live in (self._serving, self._other):
            if live is not None:
                await live.index.settle()

    async def close(self) -> None:
        """Stop filling and let go of the stores."""
        lives = [live for live in (self._serving, self._other) if live is not None]
        for live in lives:
            await live.stop()
        try:
            for live in lives:
                await live.index.close()
        finally:
            await asyncio.to_thread(self._root.close)

    def _beside(self, name: str) -> Live:
        if self._other is None or self._other.space.name != name:
            if self._serving is not None and self._serving.space.name == name:
                raise Conflict(f"space {name}", "it serves already")
            raise NotFound("space beside the serving one", name)
        return self._other

    async def _require_complete(self, other: Live) -> None:
        records = await asyncio.to_thread(self._log.count)
        state = await self._state(other.row, records)
        lacking = records - state.vectors
        if lacking > _NEARLY or state.refused or state.trouble:
            why = state.trouble or (f"{state.refused} texts were refused" if state.refused else "")
            reason = f"{lacking} of {records} records have no vector in it yet"
            raise Conflict(f"space {state.name}", f"{reason}; {why}".rstrip("; "))

    @contextlib.asynccontextmanager
    async def _at_most_briefly(self) -> AsyncIterator[None]:
        """What goes back does not wait for an embedder that is away."""
        try:
            async with asyncio.timeout(_BACK_WITHIN_S):
                yield
        except (MainspringError, TimeoutError) as error:
            log.warning("memory: the space that serves again lacks something: %s", error)

    async def _caught_up(self, other: Live) -> None:
        async with self._paused(other):
            for _ in range(_ROUNDS):
                if await other.filler.fill_some() <= _NEARLY:
                    return

    @contextlib.asynccontextmanager
    async def _paused(self, live: Live) -> AsyncIterator[None]:
        """Nothing else fills the space while the block runs."""
        await live.filler.stop()
        try:
            yield
        finally:
            live.filler.start()

    async def _exchange(self, other: Live, then: State, complete: bool = True) -> None:
        """Other writers are kept out. What is left to do comes first, then one transaction."""
        if complete:
            await other.filler.fill_rest()
        else:
            async with self._at_most_briefly():
                await other.filler.fill_rest()
        if complete and other.filler.refused:
            raise Conflict(f"space {other.space.name}", "a text was refused by its embedder")
        before = self.serving
        states: list[tuple[str, State]] = [
            (before.space.name, then), (other.space.name, "serving"),
        ]  # fmt: skip
        await asyncio.to_thread(self._log.spaces.set, states)
        rows = {row.space: row for row in await asyncio.to_thread(self._log.spaces.all)}
        before.row, other.row = rows[before.space], rows[other.space]
        self._serving, self._other = other, before
        self._roles()
        log.info("memory: %s serves in place of %s", other.space.name, before.space.name)

    async def _told(self) -> SpaceState:
        await self._point()
        return await self._state(self.serving.row, await asyncio.to_thread(self._log.count))

    async def _take_away(self, row: SpaceRow, live: Live | None = None) -> None:
        live = live or Live(row, self._built_in, *(await self._bare(row)))
        await live.stop()
        if live.index in self._feeds:
            self._feeds.remove(live.index)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVES_WITHIN_S):
                while live.asked:
                    await asyncio.sleep(0.01)
        await live.index.discard()
        name = row.space.name
        while await self._writer.alone(
            lambda: asyncio.to_thread(self._log.spaces.drop_vectors, name)
        ):
            continue
        await asyncio.to_thread(self._log.spaces.remove, name)

    async def _bare(self, row: SpaceRow) -> tuple[Index, Filler]:
        """An index to be taken away, whatever became of its embedder."""
        store = await asyncio.to_thread(self._root.beside, row.space)
        index = Index(self._log, store, self._clock, row.space, self._bounds)
        return index, Filler(self._log, self._writer, index, self._built_in)
