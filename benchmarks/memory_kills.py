"""A memory whose process is killed in the middle of writing, again and again.

Each life opens the folder of the one before it, says which records the log has and whether some of
them are found, and writes until SIGKILL. What one life acknowledged, the next one must have.
"""

import asyncio
import hashlib
import multiprocessing
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster.ids import SystemClock
from cluster.settings import MemorySection
from memory.embed import DIMENSION, Vectors
from memory.records import Query, Record
from memory.service import Memory

_SECTION: Final = MemorySection(flush_rows=20, flush_seconds=0.05)
_LIMIT_S: Final = 120.0
_GENERATIONS: Final = 25  # lives in one folder; what each one reads and compares stays small
_PRELOADED: Final = (
    "benchmarks.memory_kills", "pymilvus", "milvus_lite", "milvus_lite.server_manager",
    "milvus_lite.adapter.grpc.server", "milvus_lite.adapter.grpc.servicer", "faiss",
    "sqlalchemy.dialects.sqlite",
)  # fmt: skip
_ASKED: Final = 3  # acknowledged records that each life looks for by their text


@dataclass
class Outcome:
    """What was acknowledged and forgotten over all lives, and what a later life did not have, did
    not find, or had again though it was forgotten."""

    kills: int = 0
    acknowledged: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    unfound: set[str] = field(default_factory=set)
    back: set[str] = field(default_factory=set)
    healed: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.kills + other.kills,
            self.acknowledged | other.acknowledged,
            self.forgotten | other.forgotten,
            self.lost | other.lost,
            self.unfound | other.unfound,
            self.back | other.back,
            self.healed + other.healed,
        )


class Directions:
    """An encoder that costs nothing: each text has a random direction of its own."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See embed.Embedder."""
        rows = [np.random.default_rng(_seed(text)).normal(size=DIMENSION) for text in texts]
        vectors: Vectors = np.asarray(rows, np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def survive(folder: Path, kills: int, seed: int = 7, workers: int = 1) -> Outcome:
    """Kill so many lives, those of each `workers` in folders of their own, and compare what they
    say."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    chance = random.Random(seed)
    parts = [min(_GENERATIONS, kills - done) for done in range(0, kills, _GENERATIONS)]
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(
            lambda part: _survived(context, folder / f"{part[0]}", part[1], part[2]),
            [(number, part, chance.random()) for number, part in enumerate(parts)],
        )
        return sum(outcomes, Outcome())


def _survived(context: ForkServerContext, folder: Path, kills: int, seed: float) -> Outcome:
    """One folder's lives, one after another; the last one only says what it has."""
    folder.mkdir()
    chance = random.Random(seed)
    outcome = Outcome()
    for life in range(kills + 1):
        ours, theirs = context.Pipe()
        asked = chance.sample(sorted(outcome.acknowledged), min(_ASKED, len(outcome.acknowledged)))
        arguments = (folder, life, asked, chance.random(), theirs)
        process = context.Process(target=_live, args=arguments, daemon=True)
        process.start()
        theirs.close()
        _compare(_heard(ours), outcome)
        if life < kills:
            _listen(ours, outcome, chance.randrange(2, 20))
            time.sleep(chance.uniform(0.0, 0.02))
        process.kill()
        _drain(ours, outcome)
        process.join(_LIMIT_S)
        outcome.kills += life < kills
    return outcome


def _heard(connection: Connection) -> dict[str, Any]:
    if not connection.poll(_LIMIT_S):
        raise TimeoutError(f"a life said nothing within {_LIMIT_S:g} s")
    said: dict[str, Any] = connection.recv()
    return said


def _compare(said: dict[str, Any], outcome: Outcome) -> None:
    there = said["there"]
    outcome.lost |= outcome.acknowledged - there
    outcome.back |= outcome.forgotten & there
    outcome.unfound |= said["unfound"]
    outcome.healed += said["healed"] > 0


def _listen(connection: Connection, outcome: Outcome, messages: int) -> None:
    for _ in range(messages):
        if not connection.poll(_LIMIT_S):
            raise TimeoutError(f"a life wrote nothing for {_LIMIT_S:g} s")
        _note(connection.recv(), outcome)


def _drain(connection: Connection, outcome: Outcome) -> None:
    """What was said before the kill counts."""
    try:
        while connection.poll(0.0):
            _note(connection.recv(), outcome)
    except EOFError:
        pass


def _note(said: tuple[str, str], outcome: Outcome) -> None:
    what, id = said
    if what == "kept":
        outcome.acknowledged.add(id)
        return
    # from the moment it was asked for, a forgetting may have happened
    outcome.acknowledged.discard(id)
    if what == "gone":
        outcome.forgotten.add(id)


def _live(folder: Path, life: int, asked: list[str], chance: float, told: Connection) -> None:
    asyncio.run(_lived(folder, life, asked, chance, told))


async def _lived(
    folder: Path, life: int, asked: list[str], chance: float, told: Connection
) -> None:
    memory = Memory(_SECTION, folder, Directions(), SystemClock())
    healed = await memory.start()
    there = {record.id: record for record in await _all(memory)}
    unfound = {id for id in asked if id in there and not await _found(memory, there[id])}
    told.send({"there": set(there), "unfound": unfound, "healed": healed})
    number = 0
    while True:
        number += 1
        records = [_record(folder.name, life, number, part) for part in range(1 + number % 4)]
        await memory.remember(records)
        for record in records:
            told.send(("kept", record.id))
        if chance < 0.1 and number == 3:
            told.send(("going", records[0].id))
            await memory.forget("kills", [records[0].id])
            told.send(("gone", records[0].id))


async def _all(memory: Memory) -> list[Record]:
    records: list[Record] = []
    while page := await memory.listed("kills", records[-1].id if records else "", 1_000):
        records += page
    return records


async def _found(memory: Memory, record: Record) -> bool:
    hits = await memory.recall(Query("kills", record.text, k=3))
    return record.id in {hit.record.id for hit in hits}


def _record(folder: str, life: int, number: int, part: int) -> Record:
    text = f"line {folder}-{life:04}-{number:05}-{part}"
    return Record("kills", "note", f"note:{folder}:{life}:{number}:{part}", text, 0.0)
