import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import MemorySection
from memory.embed import DIMENSION, Vectors
from memory.milvus import checked
from memory.records import Query, Record, Scored
from memory.service import Memory


class Words:
    """Texts that share words are near: a bag of words, hashed."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.largest = 0

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        self.largest = max(self.largest, len(texts))
        rows = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                row[zlib.crc32(word.encode()) % DIMENSION] += 1
            row /= np.linalg.norm(row)
        return rows


class Shelf:
    """A VectorStore in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Record, Vectors]] = {}
        self.flushes: list[int] = []
        self.closed = 0

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        for record, vector in zip(records, checked(vectors, len(records)), strict=True):
            self.rows[record.id] = (record, vector)

    def known(self, tenant: str, ids: Sequence[str]) -> set[str]:
        return {i for i in ids if i in self.rows and self.rows[i][0].tenant == tenant}

    def members(self, tenant: str, documents: Sequence[str]) -> set[str]:
        mine = [r for r, _ in self.rows.values() if r.tenant == tenant]
        return {r.id for r in mine if r.document in documents}

    def search(
        self, vector: Vectors, tenant: str, kinds: Sequence[str], limit: int
    ) -> list[Scored]:
        found = [
            Scored(record, float(row @ vector))
            for record, row in self.rows.values()
            if record.tenant == tenant and (not kinds or record.kind in kinds)
        ]
        return sorted(found, key=lambda s: -s.score)[:limit]

    def delete(self, tenant: str, ids: Sequence[str]) -> None:
        for i in self.known(tenant, ids):
            del self.rows[i]

    def count(self, tenant: str) -> int:
        return sum(record.tenant == tenant for record, _ in self.rows.values())

    def flush(self) -> None:
        self.flushes.append(len(self.rows))

    def close(self) -> None:
        self.closed += 1


class Desk:
    """A memory with its parts at hand."""

    def __init__(self, section: MemorySection | None = None) -> None:
        self.words, self.shelf = Words(), Shelf()
        self.memory = Memory(
            section or MemorySection(), Path("unused"), self.words, SystemClock(), self.shelf
        )


@pytest.fixture
def desk() -> Desk:
    return Desk()


def ticket(text: str, tenant: str = "shop", source: str = "ticket:1") -> Record:
    return Record(tenant, "ticket", source, text, 0.0)


async def test_what_is_remembered_is_recalled_at_once(desk: Desk) -> None:
    assert await desk.memory.remember([ticket("my lamp arrived broken")]) == 1
    (hit,) = await desk.memory.recall(Query("shop", "lamp arrived broken"))
    assert hit.record.source == "ticket:1"
    assert hit.score > 0.8


async def test_remembering_again_changes_nothing_and_embeds_nothing(desk: Desk) -> None:
    twice = [ticket("a lamp"), ticket("a lamp"), ticket("a vase")]
    assert await desk.memory.remember(twice) == 2
    assert await desk.memory.remember(twice) == 0
    assert sorted(desk.words.embedded) == ["a lamp", "a vase"]
    assert await desk.memory.count("shop") == 2


async def test_no_tenant_sees_another_ones_records(desk: Desk) -> None:
    await desk.memory.remember([ticket("our secret lamp"), ticket("their lamp", tenant="other")])
    (hit,) = await desk.memory.recall(Query("other", "secret lamp"))
    assert hit.record.tenant == "other"
    assert await desk.memory.count("other") == 1
    await desk.memory.forget("other", [ticket("our secret lamp").id])
    assert await desk.memory.count("shop") == 1


async def test_each_asked_kind_is_searched_for_itself(desk: Desk) -> None:
    many = [ticket(f"where is my lamp number {n} please", source=f"ticket:{n}") for n in range(200)]
    policy = Record("shop", "policy", "policy:a.md#1", "a lamp travels three days", 0.0)
    await desk.memory.remember([*many, policy])
    query = Query("shop", "where is my lamp", k=4, kinds=("policy", "ticket"), min_score=0.1)
    kinds = [hit.record.kind for hit in await desk.memory.recall(query)]
    assert sorted(set(kinds)) == ["policy", "ticket"]


async def test_rows_are_flushed_by_number() -> None:
    desk = Desk(MemorySection(flush_rows=3, flush_seconds=600))
    await desk.memory.remember([ticket("one"), ticket("two")])
    assert desk.shelf.flushes == []
    await desk.memory.remember([ticket("three")])
    assert desk.shelf.flushes == [3]
    await desk.memory.close()


async def test_rows_that_stay_few_are_flushed_by_time() -> None:
    desk = Desk(MemorySection(flush_rows=100, flush_seconds=0.01))
    await desk.memory.remember([ticket("one")])
    async with asyncio.timeout(10):
        while not desk.shelf.flushes:
            await asyncio.sleep(0.005)
    assert desk.shelf.flushes == [1]


async def test_closing_flushes_first() -> None:
    desk = Desk(MemorySection(flush_rows=100, flush_seconds=600))
    await desk.memory.remember([ticket("one")])
    await desk.memory.close()
    assert desk.shelf.flushes == [1]
    assert desk.shelf.closed == 1


async def test_many_records_are_embedded_in_short_calls(desk: Desk) -> None:
    await desk.memory.remember([ticket(f"lamp {n}") for n in range(2_500)])
    assert await desk.memory.count("shop") == 2_500
    assert desk.words.largest <= 32


async def test_a_vector_without_direction_is_refused_and_nothing_is_kept(desk: Desk) -> None:
    async def zeros(texts: Sequence[str]) -> Vectors:
        return np.zeros((len(texts), DIMENSION), np.float32)

    desk.words.embed = zeros  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match="zero vector"):
        await desk.memory.remember([ticket("one")])
    assert await desk.memory.count("shop") == 0


async def test_what_is_not_a_record_is_refused_by_its_place(desk: Desk) -> None:
    with pytest.raises(InvalidInput) as caught:
        await desk.memory.remember([ticket("fine"), "a text"])  # type: ignore[list-item]
    assert caught.value.field == "records[1]"
    assert await desk.memory.count("shop") == 0


async def test_a_document_read_again_loses_its_old_passages(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "returns.md"
    file.write_text("# Returns\n\nThirty days.\n\n## Cost\n\nReturns are free.\n")
    first = await desk.memory.ingest("shop", str(tmp_path), "policy")
    assert (first.added, first.known, first.removed) == (2, 0, 0)
    file.write_text("# Returns\n\nThirty days.\n\n## Cost\n\nReturns cost 5 EUR.\n")
    second = await desk.memory.ingest("shop", str(tmp_path), "policy")
    assert (second.added, second.known, second.removed) == (1, 1, 1)
    texts = {record.text for record, _ in desk.shelf.rows.values()}
    assert texts == {"Returns: Thirty days.", "Returns - Cost: Returns cost 5 EUR."}
    file.write_text("")
    assert (await desk.memory.ingest("shop", str(tmp_path), "policy")).removed == 2
