"""Memory: records go in, hits come out, and what is forgotten is gone. The one owner of its files.

The log (log.py) is the record; the index (feed.py) is derived and healed from it at the start. A
plain class; at the rim it becomes a Ray actor. Its methods are coroutines; blocking calls run
beside the event loop.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from cluster.errors import DataError, InvalidInput, MainspringError, NotFound, Unavailable
from cluster.ids import Clock
from cluster.objects import Entry, opened
from cluster.settings import MemorySection
from cluster.telemetry import logger
from memory import provenance, transfer
from memory import recall as ranking
from memory.care import Care
from memory.documents import Archive
from memory.embed import MINILM, Embedder, Space
from memory.feed import Bounds, Index
from memory.filling import embedded
from memory.ingest import IngestReport, Order, ingest
from memory.ingest import Progress as Reading
from memory.lexicon import Lexicon
from memory.log import Batch, Log, Note
from memory.log_rows import Hold
from memory.metrics import Metrics
from memory.milvus import MilvusStore
from memory.owner import Owner
from memory.progress import Progresses
from memory.reading import Shelf
from memory.records import Hit, Origin, Query, Record
from memory.retention import Erasure, Retention
from memory.scope import Filter
from memory.searching import Searcher
from memory.spaces import Spaces
from memory.store import VectorStore
from memory.tiers import Echoes
from memory.writer import Moved, Writer

log = logger("memory")
T = TypeVar("T")

_WRITTEN_AT_ONCE: Final = 500
_PAGE: Final = 500
MAX_LISTED: Final = 1_000
LARGE: Final = 50_000
"""Records from which a Milvus cluster should hold the index: Lite looks at every row each time."""


def opened_store(section: MemorySection, data_dir: Path, space: Space) -> VectorStore:
    """The index of the settings: a server's URI as it is, else a Lite file below `data_dir`. A file
    that can't be read is put aside: the log has all that was in it."""
    if "://" in section.uri:
        return MilvusStore(section.uri, section.token, space)
    path = (data_dir / section.uri).resolve()
    try:
        return MilvusStore(str(path), space=space)
    except (DataError, Unavailable) as error:
        log.warning("memory index: made anew from the log, as %s", error)
        shutil.rmtree(path, ignore_errors=True)
        return MilvusStore(str(path), space=space)


class Memory(Care):
    """Remembers and recalls for every tenant; no call sees another tenant's records.

    A record that `remember` has acknowledged is on disk and is found by the next `recall`. `store`
    replaces the index of the settings. Raises Conflict, naming the process, when another one has
    the data folder's memory open; DataError when the log is damaged.
    """

    def __init__(
        self,
        section: MemorySection,
        data_dir: Path,
        embedder: Embedder,
        clock: Clock,
        store: VectorStore | None = None,
    ) -> None:
        self._section, self._clock = section, clock
        self._owner = Owner(data_dir)
        try:
            self._log = Log(section.log, data_dir, clock)
            serving = self._log.spaces.serving()
            space = MINILM if serving is None else serving.space
            root = store if store is not None else opened_store(section, data_dir, space)
        except BaseException:
            self._owner.release()
            raise
        self._lexicon = Lexicon(self._log)
        most = 10 * section.flush_rows + _WRITTEN_AT_ONCE
        bounds = Bounds(section.flush_rows, section.flush_seconds, most)
        feeds: list[Index] = []
        self._writer = Writer(self._log, feeds, self._lexicon)
        self._spaces = Spaces(
            section, self._log, self._writer, self._lexicon, feeds, root, clock, embedder, bounds
        )
        self._searcher = Searcher(self._log, self._lexicon)
        self._exports = transfer.Exports(data_dir)
        self._retention = Retention(
            self._log, self._writer, self._exports, clock, self._renew, section.erase_wait_s
        )
        self._archive = Archive(self, self._log, self._writer, self._retention)
        self._echoes = Echoes()
        self._opening = asyncio.Lock()
        self._open = False
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics = Metrics()
        self._progresses = Progresses()

    async def start(self) -> int:
        """Bring the index in step with the log, and begin to sweep. Every call does this first.
        Returns the number of rows that were missing or too many."""
        async with self._opening:
            if self._open:
                return 0
            changed = await self._spaces.open()
            await self._warn_when_large()
            self._tasks = [asyncio.create_task(self._sweep_on())]
            self._open = True
            return changed

    async def _warn_when_large(self) -> None:
        records = await asyncio.to_thread(self._log.count)
        if "://" not in self._section.uri and records > LARGE:
            log.warning("memory: %d records are many for Milvus Lite: set memory.uri", records)

    async def remember(self, records: Sequence[Record], note: Note | None = None) -> int:
        """Keep the records and say how many were new; the same record again changes nothing, and
        neither does a text that a recall of its session has just brought up.

        A long-term record that a user, a model, a tool or a run made needs a `note`: who promotes
        it, and why. Raises InvalidInput when a record or a vector can't be stored, Unavailable when
        a part is down, Overloaded when the index does not keep up; what was written before the
        error stays, and repeating the call completes it.
        """
        for number, record in enumerate(records):
            if not isinstance(record, Record):
                raise InvalidInput(f"records[{number}]", record, "a Record")
            provenance.require_entry(record, note is not None)
        await self.start()
        distinct = list({record.id: record for record in records}.values())
        added = 0
        for start in range(0, len(distinct), _WRITTEN_AT_ONCE):
            part = distinct[start : start + _WRITTEN_AT_ONCE]
            added += await self._write(part, note or Note())
        return added

    async def _write(self, records: list[Record], note: Note) -> int:
        known = await asyncio.to_thread(self._log.known, [record.id for record in records])
        new = [r for r in records if r.id not in known and not self._echoes.heard(r)]
        if not new:
            return 0
        begun = self._clock.monotonic()
        added = await self._kept(new, note, self._writer.add)
        self._metrics.wrote(len(added), self._clock.monotonic() - begun)
        return len(added)

    async def _kept(
        self, records: list[Record], note: Note, keep: Callable[[Batch], Awaitable[T]]
    ) -> T:
        """Keep records with vectors of the space that serves then, whatever happens meanwhile."""
        while True:
            live = self._spaces.serving
            await live.index.room()
            texts = [record.text for record in records]
            vectors = await embedded(live.embedder, texts, live.space.dimension)
            try:
                return await keep(Batch(records, vectors, note, live.space.name))
            except Moved as error:
                log.info("memory: embedded once more: %s", error)

    async def recall(self, query: Query) -> list[Hit]:
        """The most relevant records, best first; none when nothing is relevant enough."""
        await self.start()
        begun, now = self._clock.monotonic(), self._clock.now()
        scope = Filter.of(query, now)
        async with self._spaces.asking() as live:
            found = await self._searcher.found(live, query, scope)
        hits = ranking.rank(found, query, now)
        hits = [hit for hit in hits if self._may_go_out(hit, query, now)]
        self._metrics.recalled(len(hits), self._clock.monotonic() - begun)
        self._echoes.hear(query, hits)
        return hits

    def _may_go_out(self, hit: Hit, query: Query, now: float) -> bool:
        """The last door, which asks the record itself and not the filter that let it in."""
        if hit.record.tenant != query.tenant:
            self._metrics.leak("tenant")
            return False
        if hit.record.expires_at is not None and hit.record.expires_at <= now:
            self._metrics.leak("expired")
            return False
        return True

    async def get(self, tenant: str, id: str) -> Record:
        """One record, superseded ones included. NotFound when it is not there or has expired."""
        record = (await asyncio.to_thread(self._log.get, tenant, [id])).get(id)
        if record is None or (record.expires_at or np.inf) <= self._clock.now():
            raise NotFound("memory record", id)
        return record

    async def history(self, tenant: str, id: str) -> list[dict[str, Any]]:
        """What happened to a record, or a receipt, in order."""
        return await asyncio.to_thread(self._log.history, tenant, id)

    async def listed(
        self,
        tenant: str,
        after: str = "",
        limit: int = 100,
        subject: str = "",
        session: str = "",
        kind: str = "",
        tier: str = "",
    ) -> list[Record]:
        """Living records by id behind `after`; "" leaves a field open."""
        if not 1 <= limit <= MAX_LISTED:
            raise InvalidInput("limit", limit, f"1 to {MAX_LISTED}")
        where = {"subject": subject, "session": session, "kind": kind, "tier": tier}
        now = self._clock.now()
        return await asyncio.to_thread(self._log.page, tenant, now, after, limit, **where)

    async def update(self, tenant: str, id: str, text: str, note: Note) -> Record:
        """A new version of a record, with the old one as its parent; the old one stays readable by
        id and by `as_of`. Conflict when it is not the newest version."""
        await self.start()
        old = await self.get(tenant, id)
        provenance.require_newest(old)
        at = self._clock.now()
        new = replace(old, text=text, parents=(old.id,), event_at=at, recorded_at=0.0)
        return await self._kept([new], note, lambda batch: self._writer.supersede(old, batch))

    async def promote(
        self, tenant: str, id: str, by: str, why: str, person: bool = False
    ) -> Record:
        """Make a session record a long-term one; who and why is kept. Untrusted text becomes a
        preference or a rule only where `person` says that a person decides."""
        await self.start()
        record = await self.get(tenant, id)
        provenance.require_promotable(record, by, why, person)
        if record.tier == "long_term":
            return record
        return await self._writer.promote(record, Note(by, why))

    async def forget(
        self, tenant: str, ids: Sequence[str] = (), subject: str = "", by: str = "", why: str = ""
    ) -> Erasure:
        """Erase records by id, or all about a subject, with what is derived from them, from the
        log, the index, the caches and the exports. The receipt says what that came to."""
        await self.start()
        receipt, gone = await self._retention.erase(tenant, ids, subject, Note(by, why))
        self._echoes.forget(tenant)
        self._metrics.erased(len(gone), "forgotten")
        log.info("memory: erased %d records, receipt %s", len(gone), receipt.id)
        return receipt

    async def hold(self, tenant: str, subject: str, by: str, why: str) -> None:
        """A legal hold: nothing about the subject is erased until `release`."""
        await self._retention.hold(tenant, subject, Note(by, why))

    async def release(self, tenant: str, subject: str, by: str, why: str) -> None:
        """Lift a legal hold. NotFound when there is none."""
        await self._retention.release(tenant, subject, Note(by, why))

    async def holds(self, tenant: str) -> list[Hold]:
        """The legal holds that stand."""
        return await asyncio.to_thread(self._log.held, tenant)

    async def sweep(self, purge: bool = False) -> int:
        """Take out what has expired and, if asked, rewrite the files without it. Returns how many
        records were taken out."""
        await self.start()
        swept = await self._retention.sweep()
        self._metrics.erased(len(swept), "expired")
        if purge and self._retention.unpurged:
            await self._retention.purge()
        return len(swept)

    async def ingest(
        self,
        tenant: str,
        path: str,
        kind: str,
        prune: bool = False,
        progress: Callable[[Reading], None] | None = None,
        only: Entry | None = None,
    ) -> IngestReport:
        """Bring memory up to date with a folder, a file or an S3 prefix, or with `only` one file
        there; see `ingest.ingest`. What the operator has read in is the tenant's own word. `prune`
        forgets what is gone there."""
        await self.start()
        order = Order(Shelf(tenant, kind, trust="tenant"), prune, only=only)
        with self._progresses.of(f"ingest {path}") as told:

            def watched(reading: Reading) -> None:
                told(reading.files, reading.of_files)
                if progress is not None:
                    progress(reading)

            return await ingest(opened(path), self._archive, order, self._clock, watched)

    async def export(self, tenant: str, name: str) -> str:
        """Write the tenant's living records to a file in the data folder and say where."""
        if not provenance.FILE_NAME.fullmatch(name):
            raise InvalidInput("name", name, f"a name that matches {provenance.FILE_NAME.pattern}")
        records: list[Record] = []
        while page := await self.listed(tenant, records[-1].id if records else "", _PAGE):
            records += page
        return str(await asyncio.to_thread(self._exports.write, tenant, name, records))

    async def import_(self, tenant: str, path: str, by: str) -> IngestReport:
        """Remember the records of an export; a line that can't be read is reported. They are
        untrusted, whatever the file says."""
        await self.start()
        return await self._archive.imported(tenant, path, Note(by, f"import of {path}"))

    async def import_lines(self, tenant: str, lines: Sequence[str], by: str) -> IngestReport:
        """The same of lines that somebody sends: what they say about their origin is not believed
        either."""
        await self.start()
        rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        note = Note(by, "import of lines that were sent")
        return await self._archive.taken_in(tenant, rows, note, Origin("user"))

    async def count(self, tenant: str) -> int:
        """How many records the tenant has."""
        return await asyncio.to_thread(self._log.count, tenant)

    async def close(self) -> None:
        """Finish what has begun and let go of everything; a second call does nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._retention.close()
        await self._writer.close()
        try:
            await self._spaces.close()
        finally:
            self._log.close()
            self._owner.release()

    async def _renew(self) -> bool:
        """Make the index's files anew; False where they are a server's."""
        if "://" not in self._section.uri:
            await self._spaces.renew()
            return True
        await self._spaces.settle()
        return False

    async def _sweep_on(self) -> None:
        begun = self._clock.monotonic()
        while True:
            await asyncio.sleep(self._section.sweep_seconds)
            due = self._clock.monotonic() - begun >= self._section.purge_seconds
            try:
                await self.sweep(purge=due)
                if due:
                    await self.look_over()
            except (MainspringError, TimeoutError) as error:
                log.warning("memory: the sweep failed and is tried again: %s", error)
            begun = self._clock.monotonic() if due else begun
