"""SIGKILL while the embedder is being changed, on real files: each life opens what the last one
left, has all that was acknowledged, and has one space that serves."""

import asyncio
import itertools
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import MainspringError
from cluster.ids import SystemClock
from cluster.settings import MemorySection
from memory.records import Query, Record
from memory.service import Memory
from tests.embedding_server import serving
from tests.memories import Words

pytestmark = pytest.mark.enable_socket
KILLS = 4


def line(number: int) -> Record:
    return Record("shop", "note", f"note:{number}", f"lamp number {number} is blue", 0.0)


def test_a_killed_change_of_the_embedder_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.test_memory_space_kills", "pymilvus"])
    chance = random.Random(11)
    acknowledged = 0
    seen: set[str] = set()
    with serving() as url:
        for life in range(KILLS + 1):
            ours, theirs = context.Pipe()
            asked = chance.sample(range(acknowledged), min(5, acknowledged))
            arguments = (tmp_path, url, acknowledged, asked, theirs)
            process = context.Process(target=live, args=arguments)
            process.start()
            theirs.close()
            told = ours.recv() if ours.poll(60) else {}
            assert told == {"count": told.get("count"), "found": asked, "serving": 1}
            assert told["count"] >= acknowledged
            wait = chance.randrange(2, 6) if life < KILLS else 0
            for step in itertools.islice(iter(ours.recv, None), wait):
                seen.add(step[0])
                acknowledged = max(acknowledged, step[1])
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            while ours.poll(0.2):
                try:
                    acknowledged = max(acknowledged, ours.recv()[1])
                except EOFError:
                    break
            process.join(30)
    assert {"prepared", "switched"} <= seen
    assert acknowledged >= 2 * KILLS


def live(folder: Path, url: str, first: int, asked: list[int], to: Connection) -> None:
    """Says what is there, then changes the embedder to and fro and writes, until it is killed."""
    asyncio.run(_live(folder, url, first, asked, to))


async def _live(folder: Path, url: str, first: int, asked: list[int], to: Connection) -> None:
    section = MemorySection.model_validate(
        {
            "flush_rows": 10, "flush_seconds": 0.05,
            "embedders": [{"name": "wide", "kind": "endpoint", "model": "words", "url": url}],
        }
    )  # fmt: skip
    memory = Memory(section, folder, Words(), SystemClock())
    hits = {n: await memory.recall(Query("shop", line(n).text, k=1)) for n in asked}
    found = [n for n, hit in hits.items() if [h.record.source for h in hit] == [f"note:{n}"]]
    states = [space.state for space in await memory.spaces()]
    count = await memory.count("shop")
    to.send({"count": count, "found": found, "serving": states.count("serving")})
    number = max(first, count)
    while True:
        for step, change in (
            ("prepared", lambda: memory.prepare_space(_idle(memory))),
            ("switched", lambda: _switched(memory)),
            ("back", memory.rollback_space),
            ("switched", lambda: _switched(memory)),
            ("dropped", lambda: _dropped(memory)),
        ):
            try:
                await change()
            except MainspringError:
                step = "refused"
            await memory.remember([line(number)])
            number += 1
            to.send((step, number))


def _idle(memory: Memory) -> str:
    return "wide" if memory._spaces.serving.row.embedder == "minilm" else "minilm"


async def _switched(memory: Memory) -> Any:
    while True:
        other = next(s for s in await memory.spaces() if s.state != "serving")
        if other.complete:
            return await memory.switch_space(other.name, force=True)
        await asyncio.sleep(0.01)


async def _dropped(memory: Memory) -> None:
    other = next(s for s in await memory.spaces() if s.state != "serving")
    await memory.drop_space(other.name)
