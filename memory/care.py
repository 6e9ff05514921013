"""What an operator does with a memory: look after its health, measure it, rebuild its index, change
its embedder. The rest of a memory's calls are in service.py."""

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cluster.errors import Conflict, InvalidInput
from cluster.ids import Clock
from cluster.telemetry import logger
from memory.feed import Progress
from memory.health import Health, Standing, examine
from memory.lexicon import Lexicon
from memory.live import SpaceState
from memory.log import Log
from memory.measuring import Comparison, asked, compared
from memory.metrics import Metrics
from memory.probes import MOST, ProbeSet, made_from, read_file
from memory.progress import Progresses
from memory.records import Record
from memory.searching import Searcher
from memory.spaces import Spaces

log = logger("memory")

PROBES: Final = 200
"""How many of the tenant's records a set of probes asks for unless told otherwise."""
_PAGE: Final = 500
_CONDITIONS: Final = ("duplicates", "junk", "stale", "expired", "orphans", "drift")


class Care:
    """The operator's part of a Memory, which sets the fields and opens itself in `start`."""

    _log: Log
    _clock: Clock
    _spaces: Spaces
    _searcher: Searcher
    _lexicon: Lexicon
    _metrics: Metrics
    _progresses: Progresses

    async def start(self) -> int:
        """See Memory."""
        raise NotImplementedError

    async def rebuild(self, progress: Progress | None = None) -> int:
        """Drop the serving index and make it anew from the log; searches and writes go on
        meanwhile. Returns the number of rows."""
        await self.start()
        with self._progresses.of("rebuild", progress) as told:
            return await self._spaces.serving.index.rebuild(self._lexicon.rows, told)

    async def behind(self) -> int:
        """How many rows the index does not have yet."""
        await self.start()
        return self._spaces.serving.index.waiting

    async def progress(self) -> dict[str, tuple[int, int]]:
        """Long work under way: done, and of how much."""
        return self._progresses.now()

    async def spaces(self) -> list[SpaceState]:
        """The embedding spaces, the one that serves first."""
        await self.start()
        return await self._spaces.listed()

    async def prepare_space(self, embedder: str) -> SpaceState:
        """Begin to make a shadow of the memory with another embedder; see `spaces.Spaces`."""
        await self.start()
        return await self._spaces.prepare(embedder)

    async def switch_space(self, name: str, tenant: str = "", force: bool = False) -> SpaceState:
        """Let a prepared space serve. Unless `force` is set, it needs a measurement on the frozen
        probes of the tenant, and one that does not say that it is worse: Conflict otherwise."""
        await self.start()
        if not force:
            await asyncio.to_thread(self._require_measured, name, tenant)
        return await self._spaces.switch(name)

    async def rollback_space(self) -> SpaceState:
        """Let the space serve that did before the last switch."""
        await self.start()
        return await self._spaces.rollback()

    async def drop_space(self, name: str) -> None:
        """Take away a space that does not serve."""
        await self.start()
        await self._spaces.drop(name)

    async def freeze(self, tenant: str, path: str = "", count: int = PROBES) -> ProbeSet:
        """Freeze probes for the tenant, in place of its last ones: those of a file, or made from
        `count` of its own records. See `probes.py`."""
        await self.start()
        if not 1 <= count <= MOST:
            raise InvalidInput("count", count, f"1 to {MOST}")
        return await asyncio.to_thread(self._frozen_anew, tenant, path, count)

    async def measure(self, tenant: str, both: bool = False) -> Comparison:
        """Ask the frozen probes of the serving space, and with `both` of the one beside it; they
        are frozen first if there are none. The figures are kept with this release's name.

        Conflict when `both` is set and there is no other space.
        """
        await self.start()
        frozen = await asyncio.to_thread(self._log.probes.frozen, tenant)
        frozen = frozen or await self.freeze(tenant)
        lives = [self._spaces.serving]
        if both:
            if self._spaces.other is None:
                raise Conflict("measure", "there is no space beside the serving one: prepare one")
            lives.append(self._spaces.other)
        answers = []
        with self._progresses.of(f"measure {tenant}") as told:
            total, done = len(lives) * len(frozen.probes), 0

            def one_more() -> None:
                nonlocal done
                done += 1
                told(done, total)

            for live in lives:
                async with self._spaces.asking(live):
                    answers.append(
                        await asked(
                            self._searcher, live, frozen.probes, tenant, self._clock.now(),
                            told=one_more,
                        )
                    )  # fmt: skip
        found = compared(frozen, [live.space.name for live in lives], answers)
        await asyncio.to_thread(self._keep_measured, tenant, found)
        return found

    async def health(self, tenant: str) -> Health:
        """How the tenant's memory is; see `health.Health`."""
        await self.start()
        live = self._spaces.serving
        standing = Standing(
            indexed=await live.index.indexed() + live.index.waiting,
            waiting=live.index.waiting,
            lag_s=live.index.lag_s,
            space=live.space.name,
            trouble=live.index.trouble or live.filler.trouble,
            recalls=self._metrics.recalls,
            empty_rate=self._metrics.empty_rate,
            leaked_tenant=self._metrics.leaked["tenant"],
            leaked_expired=self._metrics.leaked["expired"],
        )
        measured = await asyncio.to_thread(self._measured, tenant, live.space.name)
        now = self._clock.now()
        found = await asyncio.to_thread(examine, self._log, tenant, now, standing, measured)
        self._metrics.condition(tenant, {what: getattr(found, what) for what in _CONDITIONS})
        return found

    async def look_over(self) -> None:
        """Check the health of every tenant's memory, for the metrics."""
        for tenant in await asyncio.to_thread(self._log.tenants):
            found = await self.health(tenant)
            if not found.good:
                log.error("memory of %s: what must never be: %s", tenant, found)

    async def metrics(self) -> bytes:
        """What memory counts, in Prometheus' text format."""
        await self.start()
        await asyncio.to_thread(self._look)
        index = self._spaces.serving.index
        self._metrics.stands("unflushed_rows", {(): index.waiting})
        self._metrics.stands("flush_lag_seconds", {(): index.lag_s})
        return self._metrics.text()

    def _look(self) -> None:
        stands, now = self._metrics.stands, self._clock.now()
        tiers = {"session": 0, "long_term": 0} | self._log.tiers()
        stands("records", {(tier,): count for tier, count in tiers.items()})
        if (newest := self._log.newest()) is not None:
            stands("newest_record_age_seconds", {(): max(now - newest, 0.0)})
        rows = self._log.spaces.all()
        vectors = {row.space.name: self._log.spaces.vectors(row.space.name) for row in rows}
        stands("space_records", {(r.space.name, r.state): vectors[r.space.name] for r in rows})
        stands("hit_rate", self._log.measures.latest())

    def _frozen_anew(self, tenant: str, path: str, count: int) -> ProbeSet:
        records: list[Record] = []
        now = self._clock.now()
        while page := self._log.page(tenant, now, records[-1].id if records else "", _PAGE):
            records += page
        if not path:
            return self._log.probes.freeze(tenant, made_from(records, count), "own records")
        sources: dict[str, list[str]] = {}
        for record in records:
            sources.setdefault(record.source, []).append(record.id)
        probes = read_file(Path(path), tenant, lambda source: sources.get(source, ()))
        ids = {record.id for record in records}
        for probe in probes:
            if unknown := set(probe.wanted) - ids:
                raise InvalidInput("wanted", min(unknown), "ids of the tenant's living records")
        return self._log.probes.freeze(tenant, probes, Path(path).name)

    def _keep_measured(self, tenant: str, found: Comparison) -> None:
        release = version("mainspring")
        keep = self._log.measures.keep
        keep(tenant, release, found.serving.space, found.probes, found.serving.as_row())
        if found.other is not None:
            against = {
                "against": found.serving.space, "difference": found.difference, "low": found.low,
                "high": found.high, "overlap": found.overlap,
            }  # fmt: skip
            row = found.other.as_row() | against
            keep(tenant, release, found.other.space, found.probes, row)

    def _measured(self, tenant: str, space: str) -> dict[str, Any]:
        return next((m for m in self._log.measures.listed(tenant) if m["space"] == space), {})

    def _require_measured(self, name: str, tenant: str) -> None:
        rows = [
            m for m in self._log.measures.listed(tenant)
            if m["space"] == name and m.get("against") == self._spaces.serving.space.name
        ]  # fmt: skip
        if not rows:
            raise Conflict(f"space {name}", "it was not measured against the one that serves yet")
        if rows[0]["high"] < 0:
            gain = f"{rows[0]['difference']:+.3f} [{rows[0]['low']:+.3f}, {rows[0]['high']:+.3f}]"
            raise Conflict(f"space {name}", f"it answers worse: hit rate {gain}")
