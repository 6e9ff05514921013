"""Folders, files and S3 prefixes become records; what has not changed is not read again.

Several workers fetch and cut files at once (a PDF is cut in a process of its own, all else in this
one's threads); records go to memory file by file. A file that can't be read becomes a problem in
the report and stops nothing else; its older records stay.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Final, Protocol

from cluster.errors import InvalidInput, MainspringError
from cluster.ids import Clock
from cluster.objects import Entry, Objects
from memory.reading import CUT, Reading, Shelf, document_of, read, readable
from memory.records import Record

MAX_FILE_BYTES: Final = 32_000_000
MAX_FILES: Final = 100_000
_INCOMPLETE: Final = "incomplete"
"""Ends the digest of a file of which a line could not be read: no later digest equals it."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What memory holds of a file: `document` as in Record.document, the place it was read from,
    a digest of its content and of the way it was cut, and the ids of the records it gave."""

    document: str
    place: str
    digest: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replaced:
    """What replacing a document's records did: how many were new, there already, taken out."""

    added: int = 0
    known: int = 0
    removed: int = 0


class Documents(Protocol):
    """The part of memory that ingestion writes to. Both raise Unavailable when it is down."""

    async def ingested(self, tenant: str, place: str, document: str = "") -> Mapping[str, Ingested]:
        """What was read from the place before, by document; of one document alone, if named."""

    async def replace(self, tenant: str, found: Ingested, records: Sequence[Record]) -> Replaced:
        """Make the records all that memory holds of the document, and note `found`, last.

        Taken out are, unless they are among the records: what belongs to the document or to the
        document of one of the records, and what the note of the document named before. No records
        and an empty digest mean that the file is gone. Doing it again completes what broke off.
        """


@dataclass(frozen=True, slots=True)
class Order:
    """What to ingest as whose: of a listing `only` this file, if there is one; `prune` takes out
    what came from the same place before and is no longer there. `workers` files are read at once.
    """

    shelf: Shelf
    prune: bool = False
    workers: int = 4
    only: Entry | None = None

    def __post_init__(self) -> None:
        if self.prune and self.only is not None:
            raise InvalidInput("prune", self.prune, "false for a single file of a place")
        if not 1 <= self.workers <= 32:
            raise InvalidInput("workers", self.workers, "1 to 32")


@dataclass(slots=True)
class Progress:
    """How far an ingest is. Sizes in bytes, times in seconds."""

    of_files: int
    of_bytes: int
    files: int = 0
    bytes: int = 0
    passages: int = 0
    seconds: float = 0.0

    @property
    def passages_per_second(self) -> float:
        return self.passages / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did.

    Of `files`, `unchanged` were not read again; `skipped` are those of a kind that is not read.
    Of the records, `added` were new, `known` were there, `removed` are no longer in their files.
    """

    files: int
    added: int
    known: int
    removed: int
    problems: tuple[str, ...]
    unchanged: int = 0
    skipped: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Counts:
    files: int = 0
    unchanged: int = 0
    added: int = 0
    known: int = 0
    removed: int = 0
    troubles: Reading = field(default_factory=Reading)

    def take(self, done: Replaced) -> None:
        self.added += done.added
        self.known += done.known
        self.removed += done.removed


async def ingest(
    objects: Objects,
    documents: Documents,
    order: Order,
    clock: Clock,
    progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring memory up to date with the files at a place.

    `progress` is called after each file. Raises NotFound when there is no such place, InvalidInput
    for more than 100,000 files, Unavailable when memory or the listing does not answer; what was
    done by then stays, and doing it again completes it.
    """
    if order.only is not None:
        return await _Ingest(objects, documents, order, clock, progress).run([order.only])
    entries = await asyncio.to_thread(lambda: list(islice(objects.entries(), MAX_FILES + 1)))
    if len(entries) > MAX_FILES:
        raise InvalidInput("path", f"{objects.place} (more files)", f"at most {MAX_FILES} files")
    return await _Ingest(objects, documents, order, clock, progress).run(entries)


def listed(objects: Objects) -> Iterator[Entry]:
    """The files at a place that an ingest reads, of a kind that is read. NotFound when there is no
    such place."""
    return (entry for entry in objects.entries() if readable(entry.name))


class _Ingest:
    def __init__(
        self,
        objects: Objects,
        documents: Documents,
        order: Order,
        clock: Clock,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._objects, self._documents, self._order = objects, documents, order
        self._clock, self._tell = clock, progress
        self._before: Mapping[str, Ingested] = {}
        self._counts = _Counts()

    async def run(self, entries: list[Entry]) -> IngestReport:
        tenant, place = self._order.shelf.tenant, self._objects.place
        wanted = self._wanted(entries)
        one = next(iter(wanted)) if self._order.only and wanted else ""
        self._before = await self._documents.ingested(tenant, place, one)
        self._progress = Progress(len(wanted), sum(entry.size for entry in wanted.values()))
        self._start = self._clock.monotonic()
        await self._work_off(iter(wanted.items()))
        if self._order.prune:
            await self._prune(wanted)
        counts = self._counts
        unsaid = counts.troubles.unsaid
        more = [f"and {unsaid} more problems"] if unsaid else []
        return IngestReport(
            counts.files,
            counts.added,
            counts.known,
            counts.removed,
            (*counts.troubles.problems, *more),
            counts.unchanged,
            len(entries) - len(wanted),
            self._progress.bytes,
        )

    def _wanted(self, entries: list[Entry]) -> dict[str, Entry]:
        """The files to read by their documents; one that was named itself is read or complained
        about, whatever its suffix."""
        named = PurePosixPath(self._objects.place).name
        wanted: dict[str, Entry] = {}
        for entry in entries:
            document = document_of(self._order.shelf.kind, entry.name)
            if not readable(entry.name) and not (len(entries) == 1 and entry.name == named):
                continue
            if document in wanted:
                self._counts.troubles.complain(entry.name, f"{wanted[document].name} is the same")
                continue
            wanted[document] = entry
        return wanted

    async def _work_off(self, waiting: Iterator[tuple[str, Entry]]) -> None:
        tasks = [asyncio.create_task(self._worker(waiting)) for _ in range(self._order.workers)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _worker(self, waiting: Iterator[tuple[str, Entry]]) -> None:
        for document, entry in waiting:
            passages = await self._file(document, entry)
            now = self._progress
            now.files, now.bytes = now.files + 1, now.bytes + entry.size
            now.passages += passages
            now.seconds = self._clock.monotonic() - self._start
            if self._tell is not None:
                self._tell(now)

    async def _file(self, document: str, entry: Entry) -> int:
        """Bring memory up to date with one file; returns how many passages it has."""
        before = self._before.get(document)
        found = await asyncio.to_thread(self._read, entry, before.digest if before else "")
        if found is None and before is not None:
            self._counts.files += 1
            self._counts.unchanged += 1
            self._counts.known += len(before.ids)
            return len(before.ids)
        if found is None:
            return 0
        digest, reading = found
        self._counts.troubles.add(reading)
        if digest:
            self._counts.files += 1
            await self._keep(document, digest, reading.records)
        return len(reading.records)

    async def _keep(self, document: str, digest: str, records: list[Record]) -> None:
        ids = tuple(dict.fromkeys(record.id for record in records))
        note = Ingested(document, self._objects.place, digest, ids)
        try:
            self._counts.take(
                await self._documents.replace(self._order.shelf.tenant, note, records)
            )
        except InvalidInput as error:
            self._counts.troubles.complain(document, error)

    def _read(self, entry: Entry, before: str) -> tuple[str, Reading] | None:
        """The file's digest and records; None when the digest is the one before. An empty digest
        comes with the problem that the whole file has."""
        reading = Reading()
        try:
            if entry.etag and before == _digest(entry.etag):
                return None
            content = self._objects.read(entry.name, MAX_FILE_BYTES)
            digest = _digest(entry.etag or hashlib.blake2b(content, digest_size=16).hexdigest())
            if before == digest:
                return None
            reading = read(content, entry, self._order.shelf)
            return (f"{digest}:{_INCOMPLETE}" if reading.problems else digest), reading
        except MainspringError as error:
            reading.complain(entry.name, error)
        except Exception as error:
            # a file is anybody's bytes: what its parser makes of them ends with this file
            reading.complain(entry.name, f"{type(error).__name__}: {error}")
        return "", reading

    async def _prune(self, wanted: Mapping[str, Entry]) -> None:
        kind, place = self._order.shelf.kind, self._objects.place
        for document in sorted(self._before.keys() - wanted.keys()):
            if document.startswith(f"{kind}:"):
                gone = Ingested(document, place, "", ())
                done = await self._documents.replace(self._order.shelf.tenant, gone, ())
                self._counts.take(done)


def _digest(content: str) -> str:
    return f"{CUT}:{content}"
