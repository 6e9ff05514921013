"""What a memory costs at 10,000 records, and what it loses: `make bench-memory`.

The real log and Milvus Lite in one process, MiniLM on one thread. The store is filled with made
sentences whose vectors are random directions (an exact search takes as long on these); what is
measured embeds with MiniLM: one write at a time until its acknowledgement, questions one at a time,
and questions while 50 records a second are written. `--kills N` kills a writer N times instead and
counts what was acknowledged and is not there.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from benchmarks.memory_kills import Directions, survive
from benchmarks.report import Figure, write
from cluster.ids import SystemClock
from cluster.settings import MemorySection
from memory.embed import MiniLM, Vectors
from memory.records import Query, Record
from memory.service import Memory

_SYLLABLES: Final = "ka lo mi ne ru sa to vi da be go fu".split()
_VOCABULARY: Final = 30_000  # words; the n-th is said 1/n as often as the first, as in any language
_TENANT: Final = "bench"
_AT_ONCE: Final = 500
_WRITES_PER_S: Final = 50
_WORKERS: Final = 4  # folders in which writers are killed at the same time


class Switched:
    """Random directions while the store is filled, MiniLM from then on."""

    def __init__(self) -> None:
        self.minilm = MiniLM(cached=0)
        self.filling = True

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See memory.embed.Embedder."""
        return await (Directions() if self.filling else self.minilm).embed(texts)


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.memory")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--asked", type=int, default=300, help="questions and writes to time")
    parser.add_argument("--kills", type=int, default=0, help="kill a writer so often instead")
    parser.add_argument("--state", type=Path, help="add the kills to what this JSON file counted")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; default: /tmp")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.disk) as folder:
        if given.kills:
            return _kills(Path(folder), given.kills, given.state)
        figures = asyncio.run(_latency(Path(folder), given.records, given.asked))
    return write(
        "memory" if given.records == 10_000 else f"memory-{given.records}", figures,
        load=f"{given.records} records on Milvus Lite, {given.asked} of each; one process, MiniLM "
        "on one thread, embedding included, SQLite with full sync",
    )  # fmt: skip


def _kills(folder: Path, kills: int, state: Path | None) -> int:
    before = json.loads(state.read_text()) if state and state.exists() else {}
    began = time.perf_counter()
    outcome = survive(folder, kills, seed=7 + before.get("SIGKILLs", 0), workers=_WORKERS)
    counted = {
        "acknowledged records lost": len(outcome.lost),
        "acknowledged records not found": len(outcome.unfound),
        "forgotten records that came back": len(outcome.back),
        "SIGKILLs": outcome.kills,
        "records acknowledged": len(outcome.acknowledged) + len(outcome.forgotten),
        "records forgotten": len(outcome.forgotten),
        "starts at which the index was healed": outcome.healed,
        "seconds": round(time.perf_counter() - began),
    }
    total = {name: count + before.get(name, 0) for name, count in counted.items()}
    if state:
        state.write_text(json.dumps(total))
    seconds = total.pop("seconds")
    targets = dict.fromkeys(list(total)[:3], 0) | {"SIGKILLs": 1_000}
    figures = [
        Figure(name, count, targets.get(name), "at least" if name == "SIGKILLs" else "at most")
        for name, count in total.items()
    ]
    load = f"lives of 2 to 20 acknowledgements each, {_WORKERS} beside each other, {seconds} s"
    return write("memory-kills", figures, load=load)


async def _latency(folder: Path, records: int, asked: int) -> list[Figure]:
    encoder = Switched()
    memory = Memory(MemorySection(), folder, encoder, SystemClock())
    chance = random.Random(3)
    filled = await _fill(memory, records, chance)
    encoder.filling = False
    large = records > 10_000
    await _ask(memory, 20, chance)
    writes = await _write(memory, asked, chance)
    quiet = await _ask(memory, asked, chance)
    busy = await _ask_while_writing(memory, asked, chance)
    resident = psutil.Process().memory_info().rss / 1e6
    began = time.perf_counter()
    await memory.rebuild()
    rebuilt = time.perf_counter() - began
    await memory.close()
    p50, p95 = (None, 400.0) if large else (50.0, 120.0)
    return [
        Figure("filled, records/s", records / filled),
        Figure("write to durable acknowledgement, p50, ms", _ms(writes, 50), 15.0),
        Figure("write to durable acknowledgement, p95, ms", _ms(writes, 95)),
        Figure("recall, p50, ms", _ms(quiet, 50), p50),
        Figure("recall, p95, ms", _ms(quiet, 95), p95),
        Figure("recall while 50 records/s are written, p50, ms", _ms(busy, 50), p50),
        Figure("recall while 50 records/s are written, p95, ms", _ms(busy, 95), p95),
        Figure("resident memory, MB", resident, None if large else 600.0),
        Figure("index made anew, s", rebuilt),
    ]


async def _fill(memory: Memory, records: int, chance: random.Random) -> float:
    began = time.perf_counter()
    for start in range(0, records, _AT_ONCE):
        await memory.remember([_record(n, chance) for n in range(start, start + _AT_ONCE)])
        print(f"\rfilled {start + _AT_ONCE}", end="", file=sys.stderr)
    while await memory.behind():
        await asyncio.sleep(0.1)
    return time.perf_counter() - began


async def _write(memory: Memory, count: int, chance: random.Random) -> list[float]:
    seconds = []
    for number in range(count):
        record = _record(10_000_000 + number, chance)
        began = time.perf_counter()
        await memory.remember([record])
        seconds.append(time.perf_counter() - began)
    return seconds


async def _ask(memory: Memory, count: int, chance: random.Random) -> list[float]:
    seconds = []
    for _ in range(count):
        query = Query(_TENANT, _sentence(chance), k=10)
        began = time.perf_counter()
        await memory.recall(query)
        seconds.append(time.perf_counter() - began)
    return seconds


async def _ask_while_writing(memory: Memory, count: int, chance: random.Random) -> list[float]:
    written: set[asyncio.Task[int]] = set()

    async def writing() -> None:
        began, number = time.perf_counter(), 0
        while True:
            record = _record(20_000_000 + number, chance)
            written.add(task := asyncio.create_task(memory.remember([record])))
            task.add_done_callback(written.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / _WRITES_PER_S - time.perf_counter()))

    writer = asyncio.create_task(writing())
    seconds = await _ask(memory, count, chance)
    writer.cancel()
    await asyncio.gather(*written)
    return seconds


def _record(number: int, chance: random.Random) -> Record:
    return Record(_TENANT, "turn", f"chat:{number // 20}#{number % 20 + 1}", _sentence(chance), 0.0)


def _sentence(chance: random.Random) -> str:
    ranks = [min(int(chance.paretovariate(1.0)), _VOCABULARY) for _ in range(12)]
    return " ".join(map(_word, ranks)) + f" {chance.randrange(100_000)}"


def _word(rank: int) -> str:
    word = ""
    while rank:
        rank, syllable = divmod(rank, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word


def _ms(seconds: list[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1_000


if __name__ == "__main__":
    sys.exit(main())
