"""From zero to the first token, up under a burst, down again: `make bench-autoscale`.

Real Ray Serve, Ray's own autoscaler on its fake multi-node provider, our gateway, directory, scaler
and policy; the nodes' GPUs are logical and the engine is a stand-in that takes a few seconds to
start and gives tokens by the clock, so the times are those of the scaling and not of a model. In
each cycle a request finds no node at all, a burst wants several, and all go away again; in the
last one a node is killed under load.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvicorn

from benchmarks import rolling
from benchmarks.report import Figure, write
from cluster.environment import prepare
from cluster.ids import SystemClock, SystemIds, new_secret
from cluster.settings import AutoscaleSection, GatewaySection, ModelSection

LOAD_S: Final = 3.0
TOKEN_S: Final = 0.05
TOKENS: Final = 40
SEATS: Final = 4
MOST: Final = 3
CLIENTS: Final = 12
_STEP_LIMIT_S: Final = 100.0


@dataclass
class Seen:
    """What came of requests. `broken` ended with an error event after their first token, as one
    does whose engine dies; `failed` are all others without a whole answer."""

    whole: int = 0
    broken: int = 0
    failed: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    comments: int = 0


@dataclass
class Cycle:
    """Times of one cycle, seconds."""

    zero_to_token_s: float = 0.0
    burst_to_most_s: float = 0.0
    down_s: float = 0.0
    nodes_gone_s: float = 0.0
    replaced_s: float | None = None
    comments: int = 0
    whole: int = 0
    broken: int = 0
    failed: list[str] = field(default_factory=list)


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.autoscale")
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--rolling", action="store_true", help="replace everything under load")
    given = parser.parse_args()
    if given.rolling:
        return rolling.measured(rolling.ROUNDS, rolling.AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="as-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        prepare(folder, SystemIds().new("stack"), {})
        from benchmarks import logical_nodes

        with logical_nodes.cluster(folder, MOST, idle_minutes=0.1):
            cycles, steps = asyncio.run(_cycles(given.cycles))
    return _report(cycles, steps)


def _report(cycles: list[Cycle], steps: list[dict[str, Any]]) -> int:
    calm = cycles[:-1] or cycles
    killed = cycles[-1]
    requests = sum(c.whole + c.broken + len(c.failed) for c in cycles)
    figures = [
        Figure("cycles", len(cycles), 10, "at least"),
        Figure("requests", requests),
        Figure("failed requests, no node killed", sum(len(c.failed) + c.broken for c in calm), 0),
        Figure("failed requests, a node killed", len(killed.failed), 0),
        Figure("streams broken off cleanly by the kill", killed.broken),
        Figure("no node to first token, s, median", _middle([c.zero_to_token_s for c in calm])),
        Figure("no node to first token, s, most", max(c.zero_to_token_s for c in calm)),
        Figure("burst to all replicas, s, median", _middle([c.burst_to_most_s for c in calm])),
        Figure("last request to no replica, s, median", _middle([c.down_s for c in calm])),
        Figure("last request to no node, s, median", _middle([c.nodes_gone_s for c in calm])),
    ]
    if killed.replaced_s is not None:
        figures.append(Figure("killed node to its replacement, s", killed.replaced_s))
    return write(
        "autoscale", figures,
        load=f"{CLIENTS} clients in a burst, {SEATS} seats and {TOKENS} tokens of {TOKEN_S} s, "
        f"engine start {LOAD_S} s, logical GPU nodes on one machine",
        details={"cycles": [asdict(c) for c in cycles], "scaler": steps},
    )  # fmt: skip


async def _cycles(count: int) -> tuple[list[Cycle], list[dict[str, Any]]]:
    async with _served() as (url, replicas, scaler):
        await _until(lambda: replicas() == 0 and _nodes() == 0, "the first replica to go")
        done = []
        for number in range(count):
            cycle = await _cycle(url, replicas, kill=number == count - 1)
            print(f"cycle {number + 1}: {cycle}", flush=True)
            done.append(cycle)
        return done, await scaler.state.remote()


async def _cycle(url: str, replicas: Callable[[], int], kill: bool) -> Cycle:
    cycle, seen = Cycle(), Seen()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client:
        await _ask(client, url, seen)
        cycle.zero_to_token_s = seen.first_s[0] if seen.first_s else float("inf")
        stop = asyncio.Event()
        burst = [asyncio.create_task(_keep_asking(client, url, seen, stop)) for _ in range(CLIENTS)]
        try:
            await _ordered(cycle, replicas, kill)
        finally:
            stop.set()
            await asyncio.gather(*burst)
    ended = time.monotonic()
    await _until(lambda: replicas() == 0, "replicas to go")
    cycle.down_s = round(time.monotonic() - ended, 1)
    await _until(lambda: _nodes() == 0, "nodes to go")
    cycle.nodes_gone_s = round(time.monotonic() - ended, 1)
    cycle.comments, cycle.whole, cycle.broken = seen.comments, seen.whole, seen.broken
    cycle.failed = seen.failed
    return cycle


async def _ordered(cycle: Cycle, replicas: Callable[[], int], kill: bool) -> None:
    """Under the burst: until all replicas are there and have worked for a while; with `kill`, until
    one that was killed with its node is there again."""
    from benchmarks.logical_nodes import kill_one

    began = time.monotonic()
    await _until(lambda: replicas() == MOST, "all replicas")
    cycle.burst_to_most_s = round(time.monotonic() - began, 1)
    await asyncio.sleep(3)
    if kill:
        killed = time.monotonic()
        kill_one()
        await _until(lambda: replicas() < MOST, "the killed one to be noticed")
        await _until(lambda: replicas() == MOST, "the killed one to be replaced")
        cycle.replaced_s = round(time.monotonic() - killed, 1)
        await asyncio.sleep(2)


async def _keep_asking(
    client: aiohttp.ClientSession, url: str, seen: Seen, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        await _ask(client, url, seen)


async def _ask(client: aiohttp.ClientSession, url: str, seen: Seen) -> None:
    """One streamed request to its end."""
    body = {
        "model": "logical", "stream": True, "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": f"hello {time.monotonic_ns()}"}],
    }  # fmt: skip
    began, first, last = time.monotonic(), False, b""
    async with client.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            seen.failed.append(f"{response.status} {(await response.text())[:300]}")
            return
        async for line in response.content:
            if line.startswith(b":"):
                seen.comments += 1
            elif line.startswith(b"data: "):
                last = line.strip()
                if not first and b'"error"' not in line:
                    first = True
                    seen.first_s.append(round(time.monotonic() - began, 2))
    if last == b"data: [DONE]":
        seen.whole += 1
    elif first and b'"error"' in last:
        seen.broken += 1
    else:
        seen.failed.append(last.decode()[:300])


@contextlib.asynccontextmanager
async def _served() -> AsyncIterator[tuple[str, Callable[[], int], Any]]:
    """The stand-in on Serve with directory and scaler, and the gateway in this process: its URL,
    how many replicas are listed, the scaler."""
    from ray import serve as ray_serve

    from benchmarks.standin import standin_application
    from serve.directory import start_directory
    from serve.engines import Wiring, application_name
    from serve.scaling import start_scaler

    model, other = _models()
    section = AutoscaleSection(idle_s=4, calm_s=4, ttft_s=1.0, usd_per_hour=2.0 * MOST)
    wiring = Wiring("directory", new_secret(), drain_s=20)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray_serve.start(proxy_location="Disabled")
    directory = start_directory("directory")
    await directory.snapshot.remote()
    scaler = start_scaler((model,), section, "directory", SystemClock())
    engine = standin_application(model, wiring, LOAD_S, TOKEN_S)
    target = ray_serve.RunTarget(engine, name=application_name(model), route_prefix=None)
    ray_serve.run_many([target], wait_for_applications_running=False)
    async with _gateway((model, other), wiring.secret) as (url, replicas):
        await _until(lambda: replicas() == 1, "the first replica")
        try:
            yield url, replicas, scaler
        finally:
            await asyncio.to_thread(ray_serve.shutdown)


@contextlib.asynccontextmanager
async def _gateway(
    models: tuple[ModelSection, ...], secret: str
) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    from serve.catalog import Catalog
    from serve.gateway import build_app
    from serve.listener import Listener
    from serve.metering import Meter
    from serve.router import Router
    from serve.waking import Waking
    from serve.watch import Watch

    catalog, clock = Catalog(models), SystemClock()
    meter = Meter(catalog)
    router = Router(catalog, lambda: watch.replicas(), meter, clock, secret)
    waking = Waking(router, catalog, clock)
    watch = Watch("directory", clock, "gateway", router.online, waking.demands)
    app = build_app(GatewaySection(request_timeout_s=_STEP_LIMIT_S), catalog, waking, meter)
    listener = Listener(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    listening = asyncio.create_task(listener.serve())
    while not listener.started:
        await asyncio.sleep(0.05)
    port = listener.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", lambda: len(watch.replicas())
    watch.stop()
    await router.close()
    listener.should_exit = True
    await listening


def _models() -> tuple[ModelSection, ModelSection]:
    """The elastic one, and one of the other tier that nobody asks for."""
    common: dict[str, Any] = {
        "source": "logical", "usd_per_mtok_in": 0, "usd_per_mtok_out": 0, "device": "gpu",
        "max_num_seqs": SEATS, "max_ongoing_requests": 16, "max_queued_requests": 64,
        "usd_per_hour": 2.0,
    }  # fmt: skip
    elastic = {"id": "logical", "tier": "routine", "replicas": {"min": 0, "max": MOST}}
    return (
        ModelSection.model_validate(common | elastic),
        ModelSection.model_validate(common | {"id": "other", "tier": "planner"}),
    )


def _nodes() -> int:
    from benchmarks.logical_nodes import gpu_nodes

    return gpu_nodes()


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _STEP_LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_STEP_LIMIT_S:.0f} s for {what}")
        await asyncio.sleep(0.2)


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
