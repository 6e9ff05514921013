"""A batch beside requests that somebody waits for: `make bench-batch`.

First Ray Data's own vLLM processor over some of the rows, with an engine of its own. Then one real
stack, one of its engines asked. Alone: how many rows a second plain asyncio gets through it. Then
an online load of half of that, streamed, at random moments; the same beside a batch of `--rows`
rows; the same beside plain asyncio with some of these rows. The batch's worker, the engine and the
driver with all of Ray are killed during one more batch, whose output is counted once the stack is
up again.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import openai
import psutil

from benchmarks import batch_ray
from benchmarks.report import Figure, write
from benchmarks.stacks import stack
from serve.running import Running

ONLINE_TIMES: Final = 1.2
IDLE_SHARE: Final = 0.8
RAY_DATA_SHARE: Final = 0.95
_MODEL: Final = "routine"
_TOKENS: Final = 16
_AT_ONCE: Final = 64
_SEED: Final = 7
_LIMIT_S: Final = 900.0


@dataclass
class Online:
    """The time to the first token of every online request, seconds, and how many failed."""

    first_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def p95(self) -> float:
        return float(np.quantile(self.first_s, 0.95))

    def told(self) -> dict[str, Any]:
        p50, p95, p99 = np.quantile(self.first_s, [0.5, 0.95, 0.99])
        return {
            "requests": len(self.first_s), "failed": self.failed, "p50_s": float(p50),
            "p95_s": float(p95), "p99_s": float(p99),
        }  # fmt: skip


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="batch-") as folder:
        variables = {"MAINSPRING_BATCHES__ONLINE_TTFT_S": f"{given.ttft}"}
        few = max(64, given.rows // 8)
        bodies = [_body(f"row {n}") for n in range(few)]
        ray_data = batch_ray.rows_per_s(_MODEL, bodies, Path(folder))
        with stack(Path(folder), **variables) as running:
            measured = asyncio.run(_measured(running, given.rows, few, given.seconds))
            id = asyncio.run(_killed(running, few))
        with stack(Path(folder), **variables) as running:
            lost, doubled = asyncio.run(_counted(running, id, few))
    measured |= {"rows_per_s_ray_data": ray_data, "lost": lost, "doubled": doubled}
    return write(
        "batch", _figures(measured), details=measured,
        load=f"{given.rows} rows of {_TOKENS} tokens; online half of the engine at random moments, "
        f"{_TOKENS} tokens streamed; first tokens promised within {given.ttft:g} s",
    )  # fmt: skip


def _figures(m: dict[str, Any]) -> list[Figure]:
    alone, beside, plain = m["online_alone"], m["online_beside_batch"], m["online_beside_asyncio"]
    free = m["rows_per_s_free"] - m["online_per_s"]
    return [
        Figure("online TTFT p95 alone, s", alone["p95_s"]),
        Figure("online TTFT p95 beside the batch, times", beside["p95_s"] / alone["p95_s"],
               ONLINE_TIMES),
        Figure("online TTFT p95 beside plain asyncio, times", plain["p95_s"] / alone["p95_s"]),
        Figure("share of what is idle", m["rows_per_s_batch"] / free, IDLE_SHARE, "at least"),
        Figure("rows/s: batch beside online", m["rows_per_s_batch"]),
        Figure("rows/s: batch alone", m["rows_per_s_batch_alone"]),
        Figure("share of Ray Data's own processor", m["rows_per_s_batch_alone"]
               / m["rows_per_s_ray_data"], RAY_DATA_SHARE, "at least"),
        Figure("rows/s: Ray Data's own processor", m["rows_per_s_ray_data"]),
        Figure("rows/s: plain asyncio alone", m["rows_per_s_free"]),
        Figure("rows lost in kills", m["lost"], 0.0),
        Figure("rows doubled in kills", m["doubled"], 0.0),
    ]  # fmt: skip


async def _measured(running: Running, rows: int, few: int, seconds: float) -> dict[str, Any]:
    async with _client(running) as client, aiohttp.ClientSession() as http:
        await _plainly(client, few // 2)  # warm
        free = few / await _plainly(client, few)
        rate = free / 2
        alone = Online()
        async with _online(http, running.url, rate, alone):
            await asyncio.sleep(seconds)
        beside, plain = Online(), Online()
        async with _online(http, running.url, rate, beside):
            took = await _batch(client, rows)
        async with _online(http, running.url, rate, plain):
            await _plainly(client, few)
        batch_alone = few / (await _batch(client, few))[0]
    return {
        "rows_per_s_free": free, "online_per_s": rate, "online_alone": alone.told(),
        "online_beside_batch": beside.told(), "online_beside_asyncio": plain.told(),
        "rows_per_s_batch": rows / took[0], "rows_per_s_batch_alone": batch_alone,
    }  # fmt: skip


@asynccontextmanager
async def _client(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{running.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=120) as client:
        yield client


@asynccontextmanager
async def _online(
    http: aiohttp.ClientSession, url: str, per_s: float, seen: Online
) -> AsyncIterator[None]:
    """Requests at random moments, so many a second, for as long as the block takes."""
    rng, asked = random.Random(_SEED), set[asyncio.Task[None]]()

    async def come() -> None:
        while True:
            await asyncio.sleep(rng.expovariate(per_s))
            asked.add(asyncio.ensure_future(_ask(http, url, seen)))

    coming = asyncio.ensure_future(come())
    try:
        yield
    finally:
        coming.cancel()
        await asyncio.gather(coming, *asked, return_exceptions=True)


async def _ask(http: aiohttp.ClientSession, url: str, seen: Online) -> None:
    began = time.perf_counter()
    body = {**_body(f"online {began}"), "stream": True}
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        first = await response.content.readany()
        if response.status == 200 and first:
            seen.first_s.append(time.perf_counter() - began)
        else:
            seen.failed += 1
        await response.read()


async def _plainly(client: openai.AsyncOpenAI, rows: int) -> float:
    """Seconds that so many rows take when they are all sent at once, _AT_ONCE at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            await client.chat.completions.create(**_body(f"row {number}"))

    began = time.perf_counter()
    await asyncio.gather(*(one(n) for n in range(rows)))
    return time.perf_counter() - began


async def _batch(client: openai.AsyncOpenAI, rows: int) -> tuple[float, Any]:
    """Seconds that a batch of so many rows takes, and the batch."""
    began = time.perf_counter()
    id = await _submitted(client, rows)
    done = await _ended(client, id)
    return time.perf_counter() - began, done


async def _submitted(client: openai.AsyncOpenAI, rows: int) -> str:
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions",
         "body": _body(f"row {n}")}
        for n in range(rows)
    ]  # fmt: skip
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    file = await client.files.create(file=("rows.jsonl", content), purpose="batch")
    made = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return made.id


async def _ended(client: openai.AsyncOpenAI, id: str) -> Any:
    async with asyncio.timeout(_LIMIT_S):
        while (found := await client.batches.retrieve(id)).status not in {"completed", "failed"}:
            counts = found.request_counts
            print(f"batch: {counts and counts.completed}", end="\r", file=sys.stderr)
            await asyncio.sleep(0.5)
    return found


async def _killed(running: Running, rows: int) -> str:
    """The id of a batch that is under way while the worker, the engine and at last the driver with
    all that it started are killed."""
    async with _client(running) as client:
        id = await _submitted(client, rows)
    driver = psutil.Process(running.pid)
    for name in ("Bulk", "VLLM::EngineCore"):
        await asyncio.sleep(2.0)
        named = [p for p in driver.children(recursive=True) if name in " ".join(p.cmdline()[:1])]
        for process in named:
            process.kill()
        if not named:
            raise RuntimeError(f"no process of {name} to kill")
    await asyncio.sleep(2.0)
    everything = [driver, *driver.children(recursive=True)]
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everything, timeout=30)
    return id


async def _counted(running: Running, id: str, rows: int) -> tuple[int, int]:
    """How many of a batch's rows are missing and how many there twice, at its end."""
    async with _client(running) as client:
        done = await _ended(client, id)
        found = await _ids(client, [done.output_file_id, done.error_file_id])
    return rows - len(set(found)), len(found) - len(set(found))


async def _ids(client: openai.AsyncOpenAI, files: Sequence[str | None]) -> list[str]:
    texts = [(await client.files.content(file)).text for file in files if file]
    return [json.loads(line)["custom_id"] for text in texts for line in text.splitlines()]


def _body(said: str) -> dict[str, Any]:
    return {
        "model": _MODEL, "max_tokens": _TOKENS, "temperature": 0,
        "messages": [{"role": "user", "content": f"{said}: what can you do?"}],
    }  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.batch")
    parser.add_argument("--rows", type=int, default=5_000, help="of the batch")
    parser.add_argument("--seconds", type=float, default=60.0, help="of online load alone")
    parser.add_argument(
        "--ttft", type=float, default=0.15, help="first token that online requests are promised, s"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
