"""Documents and exports come into memory as a whole: what they no longer say is forgotten."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from cluster.errors import InvalidInput, NotFound
from memory import transfer
from memory.ingest import Ingested, IngestReport, Replaced
from memory.log import Log, Note
from memory.records import Origin, Record
from memory.retention import Retention
from memory.writer import Writer

_READ_AT_ONCE: Final = 500
_MAX_PROBLEMS: Final = 100


class Keeper(Protocol):
    """What keeps records; `service.Memory` does."""

    async def remember(self, records: Sequence[Record], note: Note | None = None) -> int:
        """Keep the records and say how many were new."""


class Archive:
    """`ingest.Documents` on the log, and the reading of exports."""

    def __init__(self, memory: Keeper, log: Log, writer: Writer, retention: Retention) -> None:
        self._memory, self._log, self._writer = memory, log, writer
        self._retention = retention

    async def ingested(self, tenant: str, place: str, document: str = "") -> dict[str, Ingested]:
        rows = await asyncio.to_thread(self._log.ingested, tenant, place, document)
        return {row[0]: Ingested(*row) for row in rows}

    async def replace(self, tenant: str, found: Ingested, records: Sequence[Record]) -> Replaced:
        new = {record.id for record in records}
        added = await self._memory.remember(records)
        before = (await self.ingested(tenant, found.place, found.document)).get(found.document)
        documents = sorted({found.document, *(record.document for record in records)})
        there = await asyncio.to_thread(self._log.members, tenant, documents)
        old = sorted((there | set(before.ids if before else ())) - new)
        gone = await asyncio.to_thread(self._log.get, tenant, old)
        await self._retention.drop(list(gone.values()), Note("ingest", "no longer in its document"))
        await self._noted(tenant, found)
        return Replaced(added, len(new) - added, len(gone))

    async def _noted(self, tenant: str, found: Ingested) -> None:
        row = (tenant, found.document, found.place, found.digest, found.ids)
        await self._writer.alone(lambda: asyncio.to_thread(self._log.note_document, *row))

    async def imported(self, tenant: str, path: str, note: Note) -> IngestReport:
        """See `service.Memory.import_`."""
        if not Path(path).is_file():
            raise NotFound("file", path)
        rows = await asyncio.to_thread(lambda: list(transfer.lines(Path(path))))
        return await self.taken_in(tenant, rows, note)

    async def taken_in(
        self, tenant: str, rows: list[tuple[int, str]], note: Note, origin: Origin | None = None
    ) -> IngestReport:
        """Remember numbered lines of an export; `origin` takes the place of what they say."""
        problems: list[str] = []
        added = known = 0
        for start in range(0, len(rows), _READ_AT_ONCE):
            part = _records(rows[start : start + _READ_AT_ONCE], tenant, problems)
            if origin is not None:
                part = [replace(record, origin=origin) for record in part]
            new = await self._taken(part, note, problems)
            added, known = added + new, known + len(part) - new
        return IngestReport(1, added, known, 0, tuple(problems[:_MAX_PROBLEMS]))

    async def _taken(self, records: list[Record], note: Note, problems: list[str]) -> int:
        """A derived record comes after its parents; one whose parents did not come is reported."""
        added = await self._memory.remember([r for r in records if not r.parents], note)
        for record in (r for r in records if r.parents):
            try:
                added += await self._memory.remember([record], note)
            except InvalidInput as error:
                problems.append(f"{record.source}: {error}")
        return added


def _records(rows: list[tuple[int, str]], tenant: str, problems: list[str]) -> list[Record]:
    found = []
    for number, line in rows:
        try:
            found.append(transfer.record_of(line, tenant))
        except InvalidInput as error:
            problems.append(f"line {number}: {error}")
    return found
