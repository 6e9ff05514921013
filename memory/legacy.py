"""What earlier versions left in the index: taken over into the log, or reported and erased.

The first version kept records in Milvus alone, text and all (`memory_v1__SPACE`). Each of its rows
becomes a record of the log, and then the collection goes with its bytes: nothing about a person may
lie where no `forget` looks. A row that can't be read is told of in the log's events and erased.
Collections of a later schema or normaliser hold no text; they go as soon as there is a newer one.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cluster.errors import InvalidInput, MainspringError
from cluster.telemetry import logger
from memory.embed import Embedder, Space
from memory.filling import embedded
from memory.log import Batch, Log, Note
from memory.recent import Vectors
from memory.records import TENANT, Record
from memory.store import Old, checked
from memory.writer import Writer

log = logger("memory")

V1: Final = re.compile(r"memory_v1__(?P<space>.+)")
"""The collections of the first version."""


async def take_over(
    old: Sequence[Old], records: Log, writer: Writer, space: Space, embedder: Embedder
) -> int:
    """Take over or remove each collection; doing it again completes what broke off. Returns how
    many records came. `space` is the one that serves, `embedder` makes its vectors."""
    came = 0
    for one in old:
        if found := V1.fullmatch(one.name):
            for page in await asyncio.to_thread(_pages, one):
                same = found["space"] == space.name
                came += await _taken(page, one.name, records, writer, space, embedder, same)
        await asyncio.to_thread(one.drop)
        log.warning("memory: %s of an earlier version is gone, %d records came", one.name, came)
    return came


def _pages(old: Old) -> list[list[dict[str, Any]]]:
    return list(old.pages())


async def _taken(
    page: list[dict[str, Any]], name: str, records: Log, writer: Writer, space: Space,
    embedder: Embedder, same: bool,
) -> int:  # fmt: skip
    good: list[Record] = []
    vectors: list[Any] = []
    for row in page:
        try:
            good.append(record_of(row))
            vectors.append(row["vector"])
        except MainspringError as error:
            await _reported(row, name, error, records, writer)
    if not good:
        return 0
    made = await _vectors(good, vectors if same else [], space, embedder)
    note = Note("an earlier version", f"taken over from {name}")
    return len(await writer.add(Batch(good, made, note, space.name)))


async def _vectors(
    good: list[Record], vectors: list[Any], space: Space, embedder: Embedder
) -> Vectors:
    if vectors:
        try:
            return checked(np.asarray(vectors, np.float32), len(good), space.dimension)
        except (InvalidInput, ValueError):
            log.warning("memory: vectors of an earlier version are made anew")
    return await embedded(embedder, [record.text for record in good], space.dimension)


async def _reported(
    row: dict[str, Any], name: str, error: Exception, records: Log, writer: Writer
) -> None:
    tenant, id = str(row.get("tenant", "")), str(row.get("id", ""))[:64]
    tenant = tenant if TENANT.fullmatch(tenant) else "default"
    why = json.dumps({"from": name, "why": type(error).__name__})
    log.warning("memory: row %s of %s can't be taken over and is erased: %s", id, name, error)
    await writer.alone(lambda: asyncio.to_thread(records.receipt, tenant, id, why))


def record_of(row: dict[str, Any]) -> Record:
    """A row of the first version as a record. Only the operator's ingestion wrote those: they are
    the tenant's own word. Raises InvalidInput for one that is damaged."""
    try:
        record = Record(
            tenant=row["tenant"], kind=row["kind"], source=row["source"], text=row["text"],
            event_at=row["event_ms"] / 1000, meta=json.loads(row["meta"]), trust="tenant",
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidInput("row", row.get("id"), "a row of the first version") from None
    if record.id != row["id"]:
        raise InvalidInput("row", row["id"], f"content that gives {record.id}")
    return record
