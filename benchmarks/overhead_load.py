"""The load of `make bench-overhead`: a closed loop of clients, each with one request at a time."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import numpy as np

TOKENS: Final = 16
_LIMIT_S: Final = 120.0
_TOPICS: Final = ("parcel", "refund", "invoice", "address", "password", "voucher", "return")


@dataclass(frozen=True)
class Target:
    """Where to ask: `url` ends in /v1."""

    url: str
    model: str
    key: str = "none"


@dataclass(frozen=True)
class Round:
    """One repeat at one concurrency: seconds to each first token, to each last one, and in all.
    `failed` requests are in neither."""

    first_s: list[float]
    whole_s: list[float]
    wall_s: float
    failed: int

    @property
    def per_second(self) -> float:
        return len(self.whole_s) / self.wall_s


async def closed_loop(target: Target, concurrency: int, count: int, tokens: int = TOKENS) -> Round:
    """`count` streamed requests by so many clients at once."""
    first: list[float] = []
    whole: list[float] = []
    failures: list[str] = []
    numbers = iter(range(count))

    async def client(http: aiohttp.ClientSession) -> None:
        for number in numbers:
            try:
                one, all_of_it = await _ask(http, target, number, tokens)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                failures.append(repr(error))
                continue
            first.append(one)
            whole.append(all_of_it)

    limit = aiohttp.ClientTimeout(total=_LIMIT_S)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {target.key}"}
    async with aiohttp.ClientSession(connector=connector, timeout=limit, headers=headers) as http:
        began = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(concurrency)))
        wall = time.perf_counter() - began
    if not whole:
        raise SystemExit(f"nothing was answered at {target.url}: {failures[:1]}")
    return Round(first, whole, wall, len(failures))


async def _ask(
    http: aiohttp.ClientSession, target: Target, number: int, tokens: int
) -> tuple[float, float]:
    body = {
        "model": target.model, "messages": [{"role": "user", "content": _prompt(number)}],
        "max_tokens": tokens, "ignore_eos": True, "temperature": 0.0, "stream": True,
    }  # fmt: skip
    began = time.perf_counter()
    async with http.post(f"{target.url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise ValueError(f"{response.status}: {(await response.text())[:300]}")
        data = await response.content.readany()
        first = time.perf_counter() - began
        last = data
        async for data in response.content.iter_any():
            last = last[-64:] + data
        if b"[DONE]" not in last:
            raise ValueError(f"the stream broke off: {last[-200:]!r}")
    return first, time.perf_counter() - began


def _prompt(number: int) -> str:
    topic = _TOPICS[number % len(_TOPICS)]
    return f"Customer {number} asks about a {topic}. Answer in one line."


def pooled(rounds: list[Round]) -> dict[str, float]:
    """What the repeats come to: quantiles over all their requests in ms, the median repeat's
    throughput, its spread, and how many failed."""
    first = list(itertools.chain.from_iterable(r.first_s for r in rounds))
    speeds = [r.per_second for r in rounds]
    return {
        **{f"ttft_p{q}_ms": 1e3 * float(np.quantile(first, q / 100)) for q in (50, 95, 99)},
        "per_s": float(np.median(speeds)),
        "per_s_min": min(speeds),
        "per_s_max": max(speeds),
        "failed": float(sum(r.failed for r in rounds)),
    }


def measure(target: Target, levels: dict[int, int], repeats: int) -> dict[int, list[Round]]:
    """Warm up, then for each concurrency of `levels` so many requests, `repeats` times over."""
    asyncio.run(closed_loop(target, max(levels), 2 * max(levels)))
    found: dict[int, list[Round]] = {level: [] for level in levels}
    for level in _each(levels, repeats):
        found[level].append(asyncio.run(closed_loop(target, level, levels[level])))
    return found


def _each(levels: dict[int, int], repeats: int) -> Iterator[int]:
    """The levels in turn, so that a slow minute of the machine hits all of them."""
    return itertools.chain.from_iterable(itertools.repeat(tuple(levels), repeats))


def shown(pool: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.1f}" for name, value in pool.items())
