"""Processes that die while they write, and indexes that are damaged: the log knows better."""

from pathlib import Path

import pytest

from benchmarks.memory_kills import survive
from cluster.settings import MemorySection
from memory.records import Query
from tests.memories import Desk, said

pytestmark = pytest.mark.enable_socket


def test_no_acknowledged_record_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    outcome = survive(tmp_path, kills=3)
    assert outcome.kills == 3
    assert len(outcome.acknowledged) > 3
    assert (outcome.lost, outcome.unfound, outcome.back) == (set(), set(), set())


@pytest.mark.parametrize("damage", ["manifest", "garbage"])
async def test_a_damaged_index_is_made_anew_and_nothing_is_lost(
    tmp_path: Path, damage: str
) -> None:
    desk = Desk(tmp_path, MemorySection(), None)
    await desk.memory.remember([said(f"lamp number {n}") for n in range(30)])
    await desk.memory.close()
    _damage(tmp_path / "memory.db", damage)
    desk.memory = desk._opened()
    assert await desk.memory.start() == 30
    hits = await desk.memory.recall(Query("shop", "lamp number 7", k=1))
    assert [hit.record.text for hit in hits] == ["lamp number 7"]
    await desk.memory.close()
    await desk.again()
    assert await desk.memory.start() == 0
    await desk.memory.close()


def _damage(index: Path, damage: str) -> None:
    pattern = "manifest.json*" if damage == "manifest" else "*.parquet"
    files = list(index.rglob(pattern))
    assert files
    for file in files:
        file.write_bytes(b"\x00garbage")
