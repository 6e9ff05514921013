"""From one GPU node to 2,000 in a model: `make simulate`.

Measured here, in this run: what a request and each of its tokens cost a gateway process (key,
budget and ledger on SQLite), what a reservation and its settling cost the database, what the
directory pays for a report and a renewal, what routing pays for each replica, and with `--live` the
CPU engine of the local profile at several concurrencies. Assumed: the GPU engine (gpt-oss-20b on
one H100 as published, 24.3 ms a token at 256 requests; 6 ms at one, the prompt and the start of a
node are guesses of ours) and its price.

Checked: fitted to the live engine at 1 and 32 clients, the model forecasts 4, 8 and 16.
"""

import argparse
import asyncio
import contextlib
import json
import math
import pickle
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
from aiohttp import web

from benchmarks import simulation
from benchmarks.budgets import MODEL, Fleet
from benchmarks.overhead_load import Round, Target, closed_loop
from benchmarks.report import RESULTS, Figure, write
from benchmarks.simulation import Times, quantile
from benchmarks.stacks import stack
from cluster.autoscale import Bounds, Limits
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection
from serve.admission import Admission
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO, Caller, Worst
from serve.budgets import Limits as KeyLimits
from serve.catalog import Catalog
from serve.directory import Directory, Online, Replica
from serve.ledger import Used
from serve.metering import Meter
from serve.router import Router

TOKENS: Final = 512
NODES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
MOST_A_MINUTE: Final = 1_000_000
SHARE: Final = 0.7
USD_PER_HOUR: Final = 4.0
COLD_S: Final = 180.0
GPU: Final = Times(0.006, 0.0183 / 255, 8.0, 256, cold_s=COLD_S)
LEVELS: Final = {1: 24, 4: 64, 8: 96, 16: 160, 32: 256}
FITTED: Final = (1, 32)
LIVE_TOKENS: Final = 64
WITHIN: Final = 0.15
_GATEWAY_REQUESTS: Final = 384
_STREAMS: Final = 64
_STREAMED: Final = (2, 130)
_DATABASE_REQUESTS: Final = 400
_REPLICAS: Final = 500


@dataclass(frozen=True)
class Point:
    """The model at one size: how busy each part is (over 1: it falls behind), how long first tokens
    take, seconds, and what a million requests cost, USD."""

    nodes: int
    per_minute: float
    gateways: int
    requests: int
    busy: dict[str, float]
    ttft_p50_s: float
    ttft_p95_s: float
    usd_per_hour: float
    usd_per_million: float

    @property
    def bottleneck(self) -> str:
        return max(self.busy, key=lambda name: self.busy[name])


def main() -> int:
    """Measure, check, simulate; print the table, write JSON and plots; status 1 when STRICT=1 and a
    target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.simulate")
    parser.add_argument("--live", action="store_true", help="measure the live engine anew")
    parser.add_argument("--requests", type=int, default=300_000, help="a point at most")
    given = parser.parse_args()
    live = _live(given.live)
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder:
        costs = asyncio.run(_measured(Path(folder)))
    print(f"measured: {costs}", flush=True)
    points = []
    for nodes in NODES:
        points.append(_point(nodes, _with(costs), given.requests))
        print(asdict(points[-1]), flush=True)
    day = _day(_with(costs))
    return _report(live, costs, points, day)


def _report(
    live: list[dict[str, float]], costs: dict[str, float], points: list[Point], day: dict[str, Any]
) -> int:
    forecasts = forecast(live)
    worst = max((abs(f["error"]) for f in forecasts), default=math.nan)
    last = points[-1]
    figures = [
        Figure("forecast of the live engine, worst error", worst, WITHIN),
        *(Figure(f"{name}, ms", 1e3 * value) for name, value in costs.items()),
        Figure("nodes simulated at most", last.nodes, 2000, "at least"),
        Figure("requests a minute at most", max(p.per_minute for p in points), 1e6, "at least"),
        *(
            Figure(f"requests/s when the {part} is full", limit)
            for part, limit in ceilings(costs).items()
        ),
        *(
            Figure(f"nodes by which the {part} falls behind", nodes)
            for part in points[0].busy
            if (nodes := min((p.nodes for p in points if p.busy[part] > 1), default=0))
        ),
        Figure("first token p95 at the most, s, waits for the database left out", last.ttft_p95_s),
        Figure("USD a million requests at the most nodes", last.usd_per_million),
        Figure("a day's swing: USD, autoscaled", day["usd"]),
        Figure("the same with the peak's nodes all the time", day["peak_usd"]),
        Figure("the same: first token p95, s", day["ttft_p95_s"]),
    ]
    _plot(points)
    return write(
        "simulate", figures, load=f"{TOKENS} tokens an answer, {SHARE:.0%} of the engines",
        details={
            "live": live, "forecasts": forecasts, "points": [asdict(p) for p in points],
            "bottlenecks": {str(p.nodes): p.bottleneck for p in points}, "day": day,
            "assumed": {**asdict(GPU), "usd_per_hour": USD_PER_HOUR},
            "measured": costs,
        },
    )  # fmt: skip


def _with(costs: Mapping[str, float]) -> Times:
    """The assumed engine behind the measured rest."""
    return Times(**{**asdict(GPU), **costs})


def ceilings(costs: Mapping[str, float]) -> dict[str, float]:
    """Requests a second that one gateway process and the one database take at most."""
    alone = costs["gateway_s"] + TOKENS * costs["token_s"]
    return {
        "gateway process, 1 replica": 1 / alone,
        "gateway process, 2,000 replicas": 1 / (alone + 2000 * costs["routing_s"]),
        "database": 1 / costs["database_s"],
    }


def forecast(live: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The levels in between as the model fitted to the outer ones has them, beside the measured:
    requests a second and the mean time of an answer."""
    by_level = {int(row["clients"]): row for row in live}
    low, high = (
        (level, by_level[level]["first_s"], by_level[level]["whole_s"]) for level in FITTED
    )
    times = simulation.fitted(low, high, LIVE_TOKENS, FITTED[1])
    found: list[dict[str, Any]] = []
    for level, row in by_level.items():
        if level in FITTED:
            continue
        ended = simulation.closed_loop(times, level, LEVELS[level], LIVE_TOKENS)
        whole = sum(r.ended - r.came for r in ended) / len(ended)
        rate = len(ended) / max(r.ended for r in ended)
        found += [
            _beside(level, "requests/s", rate, row["per_s"]),
            _beside(level, "answer, s", whole, row["whole_s"]),
        ]
    return found


def _beside(level: int, what: str, said: float, measured: float) -> dict[str, Any]:
    error = round(said / measured - 1, 3)
    return {
        "clients": level, "what": what, "forecast": round(said, 3), "measured": measured,
        "error": error,
    }  # fmt: skip


def _live(anew: bool) -> list[dict[str, float]]:
    """The live engine's levels: measured now, or as the last run left them."""
    path = RESULTS / "simulate-live.json"
    if not anew and path.exists():
        return list(json.loads(path.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="simulate-") as folder, stack(Path(folder)) as running:
        target = Target(f"{running.url}/v1", "routine")
        asyncio.run(closed_loop(target, 32, 64, LIVE_TOKENS))
        found = [_row(level, count, target) for level, count in LEVELS.items()]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def _row(level: int, count: int, target: Target) -> dict[str, float]:
    seen: Round = asyncio.run(closed_loop(target, level, count, LIVE_TOKENS))
    mean = {"first_s": seen.first_s, "whole_s": seen.whole_s}
    row = {name: round(sum(v) / len(v), 4) for name, v in mean.items()}
    return {"clients": level, **row, "per_s": round(seen.per_second, 3), "failed": seen.failed}


async def _measured(folder: Path) -> dict[str, float]:
    """The service times of our own parts; see `Times`."""
    return {
        **await _gateway_s(folder / "gateway"),
        "database_s": await _database_s(folder / "database"),
        **_directory_s(),
        "routing_s": await _routing_s(),
    }


async def _gateway_s(folder: Path) -> dict[str, float]:
    """CPU seconds of one gateway process, _STREAMS clients: a request, and a token more."""
    folder.mkdir()
    section = AccountsSection()
    books = Books(section, folder, SystemClock(), SystemIds())
    made, key = books.keyring.create("bench", "bench")
    books.budgets.put(Budget("bench", "key", made.account, "total", 1000 * NANO))
    few, many = [await _cpu_a_request(folder, section.url, key, n) for n in _STREAMED]
    await books.close()
    token = max(0.0, (many - few) / (_STREAMED[1] - _STREAMED[0]))
    return {"gateway_s": few - _STREAMED[0] * token, "token_s": token}


async def _cpu_a_request(folder: Path, database: str, key: str, tokens: int) -> float:
    async with _engine(tokens) as address:
        fleet = Fleet(folder, database, address)
        try:
            await fleet.add()
            target = Target(f"{fleet.urls[0]}/v1", "small", key)
            await closed_loop(target, _STREAMS, _STREAMS)
            before = _cpu(fleet.processes[0].pid)
            await closed_loop(target, _STREAMS, _GATEWAY_REQUESTS)
            return (_cpu(fleet.processes[0].pid) - before) / _GATEWAY_REQUESTS
        finally:
            await fleet.end()


@contextlib.asynccontextmanager
async def _engine(tokens: int) -> AsyncIterator[str]:
    """The address of a stand-in that streams so many tokens, one each 10 ms."""
    usage = {"prompt_tokens": 50, "completion_tokens": tokens, "total_tokens": 50 + tokens}
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
    last = json.dumps({"choices": [], "usage": usage}).encode()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(tokens):
            await response.write(event)
            await asyncio.sleep(0.01)
        await response.write(b"data: " + last + b"\n\ndata: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield str(site.name)
    finally:
        await runner.cleanup()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _database_s(folder: Path) -> float:
    """Seconds of the one writer a request: to reserve and to settle, 32 at once on SQLite."""
    folder.mkdir()
    books = Books(AccountsSection(), folder, SystemClock(), SystemIds())
    made, _ = books.keyring.create("bench", "bench")
    books.budgets.put(Budget("bench", "key", made.account, "total", 1000 * NANO))
    caller, numbers = Caller("bench", made.account), iter(range(_DATABASE_REQUESTS))
    admission: Admission = books.admission

    async def client() -> None:
        for number in numbers:
            hold = await admission.enter(caller, KeyLimits(), Worst(1000, 100), 60.0)
            used = Used(f"r{number}", "small", 200, 50, 50, 500)
            await (admission.leave(hold, used) or asyncio.sleep(0))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(32)))
    took = time.perf_counter() - began
    await books.close()
    return took / _DATABASE_REQUESTS


def _directory_s() -> dict[str, float]:
    """The directory's own work, with the packing of what it answers; the calls are Ray's."""
    few, many = _report_s(1), _report_s(_REPLICAS)
    directory, count = Directory(SystemClock()), 300
    replica = Replica("r", "small", "http://127.0.0.1:1", application="engine-small@x")
    directory.register(replica)
    began = time.perf_counter()
    for _ in range(count):
        directory.renew(pickle.loads(pickle.dumps(replica)))
    renew = (time.perf_counter() - began) / count
    return {"report_s": few, "listed_s": (many - few) / _REPLICAS, "renew_s": renew}


def _report_s(replicas: int, count: int = 40) -> float:
    directory = Directory(SystemClock())
    for number in range(replicas):
        directory.register(_replica(number))
    began = time.perf_counter()
    for _ in range(count):
        pickle.loads(pickle.dumps(directory.report("g", Online())))
    return (time.perf_counter() - began) / count


async def _routing_s(count: int = 40) -> float:
    """What choosing costs for each replica that there is: of the load that routing looks at, and of
    the ranking."""
    catalog, replicas = Catalog((MODEL,)), [_replica(n) for n in range(_REPLICAS)]
    router = Router(catalog, lambda: replicas, Meter(catalog), SystemClock(), "secret")
    began = time.perf_counter()
    for number in range(count):
        router.load()
        router._ranked(MODEL, router._of(MODEL), str(number))
    took = (time.perf_counter() - began) / count
    await router.close()
    return took / _REPLICAS


def _replica(number: int) -> Replica:
    return Replica(f"replica{number:06}", "small", f"http://10.0.0.1:{number}", application="e@x")


def _point(nodes: int, times: Times, most: int) -> Point:
    """One size under steady load, with as many gateways as keep each below SHARE."""
    rate = min(SHARE * nodes * times.per_second(TOKENS), MOST_A_MINUTE / 60)
    each = times.gateway_s + times.routing_s * nodes + times.token_s * TOKENS
    gateways = max(1, math.ceil(rate * each / SHARE))
    lasts = TOKENS * times.step(times.seats)
    seconds = max(2 * lasts, min(240.0, most / rate))
    unbounded = replace(times, database_s=0.0)  # its own load is counted; it does not hold others
    model = simulation.world(unbounded, nodes, gateways)
    simulation.open_loop(model, rate, seconds, TOKENS)
    warm = [r for r in model.ended if r.came > lasts]
    firsts = [r.first - r.came for r in warm]
    busy = {
        "engines": sum(e.load for e in model.engines) / (nodes * times.seats),
        "gateways": sum(g.busy for g in model.gateways) / (gateways * seconds),
        "database": rate * times.database_s,
        "directory": model.directory.busy / seconds,
    }
    usd = nodes * USD_PER_HOUR
    return Point(
        nodes, round(60 * rate), gateways, len(model.ended),
        {name: round(value, 3) for name, value in busy.items()},
        round(quantile(firsts, 0.5), 3), round(quantile(firsts, 0.95), 3),
        usd, round(1e6 * usd / (3600 * rate), 2),
    )  # fmt: skip


def _day(times: Times) -> dict[str, Any]:
    """Two hours with a night, a morning, a burst and a night, autoscaled from zero, against the
    nodes of the peak all the time."""
    one = times.per_second(TOKENS)
    rates = [(0.0, 0.1), (1200.0, 2 * one), (3000.0, 6 * one), (4200.0, one), (6000.0, 0.0)]
    end = 7200.0
    bounds = Bounds(0, 12, times.seats, ttft_s=2.0, usd_per_hour=USD_PER_HOUR, calm_s=120)
    quiet = replace(times, database_s=0.0)
    model = simulation.world(quiet, 0, 4)
    moments = simulation.scaled(model, [*rates, (end, 0.0)], TOKENS, bounds, Limits())
    firsts = [r.first - r.came for r in model.ended]
    peak = max(m.target for m in moments)
    return {
        "usd": round(moments[-1].usd, 2),
        "peak_usd": round(peak * USD_PER_HOUR * end / 3600, 2),
        "peak": peak, "last_target": moments[-1].target, "requests": len(firsts),
        "unanswered": sum(e.load for e in model.engines) + len(model.waiting),
        "ttft_p50_s": round(quantile(firsts, 0.5), 2),
        "ttft_p95_s": round(quantile(firsts, 0.95), 2),
        "moments": [asdict(m) for m in moments[::60]],
    }  # fmt: skip


def _plot(points: list[Point]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    nodes = [p.nodes for p in points]
    for part in points[0].busy:
        left.plot(nodes, [p.busy[part] for p in points], marker="o", label=part)
    left.axhline(1.0, color="#cc3311", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="GPU nodes", ylabel="how busy (1: full)")
    left.legend()
    right.plot(nodes, [p.usd_per_million for p in points], marker="o", color="#4477aa")
    right.set(xscale="log", xlabel="GPU nodes", ylabel="USD a million requests")
    twin = right.twinx()
    twin.plot(nodes, [p.gateways for p in points], marker="s", color="#999933")
    twin.set(yscale="log", ylabel="gateway processes needed")
    drawing.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    drawing.savefig(RESULTS / "simulate-scale.png", dpi=110)
    plt.close(drawing)


if __name__ == "__main__":
    sys.exit(main())
