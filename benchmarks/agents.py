"""Many agents on one machine and on one engine: `make bench-agents`.

First without a model: agents that each remember a conversation; what one costs that sleeps, on
disk and in memory; how long it takes until one is awake, after orchestrator and host have lost all
that they held; and so many active at once. Then on one engine (vLLM on a core of its own):
background agents that write long, and an interactive one every now and then, sent as plain asyncio
would send them, all at once; and as runs through the orchestrator, whose queue of turns serves
interactive ones first and keeps slots for them. Same engine, same requests, in turn.
"""

import argparse
import asyncio
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
import ray

from agents.chat import Chat, HttpChat
from agents.events import Priority, RunOptions
from agents.host import Workflow
from agents.placement import Placement, no_spawn
from agents.turn import Turn
from benchmarks.actors import LIMIT_S, actors, ended, ray_started, sql_journal
from benchmarks.durability import Ledger
from benchmarks.report import Figure, write
from cluster.ids import SystemClock
from cluster.session import actor
from cluster.settings import AgentsSection
from serve.catalog import resolve_source

IDLE_KB: Final = 20.0
ACTIVATION_P50_MS: Final = 10.0
INTERACTIVE_SHARE: Final = 0.5
MOVED_S: Final = 5.0
_MODEL: Final = "routine"
_SLOTS: Final = 32
_KEPT: Final = 4
_TALK: Final = "word " * 60
_LONG, _SHORT = 96, 16
_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Load:
    """So many background requests of _LONG tokens at once, and `interactive` ones of _SHORT, one
    every `every_s` seconds."""

    background: int
    interactive: int
    every_s: float


@dataclass(frozen=True)
class Measured:
    """How long all took, and each interactive request, in seconds."""

    wall_s: float
    interactive_s: list[float]


def remembering() -> dict[str, Workflow]:
    """A message is remembered with an answer of as many words; no model is asked."""

    async def note(turn: Turn) -> None:
        await turn.end("answered", "", {"text": _TALK})

    return {"note": note}


def talking(url: str) -> dict[str, Workflow]:
    """A run is one request to the engine."""
    chat = HttpChat(url)

    async def talk(turn: Turn) -> None:
        async def ask() -> dict[str, Any]:
            await _asked(chat, turn.run.run_id, int(turn.run.input["tokens"]))
            return {}

        await turn.phase("ask", ask)
        await turn.end("answered", "", {})

    return {"talk": talk}


async def _asked(chat: Chat, name: str, tokens: int) -> None:
    words = [{"role": "user", "content": f"{name} {_TALK}"}]
    await chat.complete(
        _MODEL, words, max_tokens=tokens, timeout_s=LIMIT_S, request_id=name, temperature=1.0
    )


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as made, ray_started():
        figures += _many(Path(made), given.agents, given.active)
        load = Load(given.background, given.interactive, given.every)
        with engine(given.core) as url:
            asyncio.run(_plain(url, Load(_SLOTS, 1, 0.0)))  # warm
            plain = asyncio.run(_plain(url, load))
            scheduled = _scheduled(Path(made), url, load)
    figures += _compared(plain, scheduled)
    return write(
        "agents", figures,
        load=f"{given.agents} agents of one exchange each; {load.background} background requests "
        f"of {_LONG} tokens at once, {load.interactive} interactive ones of {_SHORT} tokens, one "
        f"every {load.every_s:g} s; {_SLOTS} slots, {_KEPT} of them kept for interactive turns",
    )  # fmt: skip


def _many(folder: Path, count: int, active: int) -> list[Figure]:
    section = AgentsSection(concurrency=100, hosts=2, max_open_runs=count + active)
    journal = functools.partial(sql_journal, f"sqlite:///{folder}/many.db", folder)
    with actors(journal, Ledger, (), remembering, section, folder) as orchestrator:
        hosts = [actor(f"host-{i}") for i in range(section.hosts)]
        before = _resident(orchestrator, *hosts)
        print(f"{count} agents", file=sys.stderr)
        began = time.perf_counter()
        _exchange(orchestrator, "first", range(count))
        made = time.perf_counter() - began
        grown = _resident(orchestrator, *hosts) - before
        disk = sum(f.stat().st_size for f in folder.glob("many.db*"))
        for handle in (orchestrator, *hosts):
            ray.kill(handle, no_restart=False)
        _back(orchestrator, *hosts)
        asleep = random.Random(1).sample(range(count), min(500, count))
        woken = [_timed(hosts[0].agent.remote, "t", f"a-{i}") for i in asleep]
        print(f"{active} at once", file=sys.stderr)
        began = time.perf_counter()
        _exchange(orchestrator, "second", random.Random(2).sample(range(count), active))
        together = time.perf_counter() - began
        moved = _moved(orchestrator, count)
    return [
        Figure("agents with state", count, None),
        Figure("exchanges/s while they were made", count / made, None),
        Figure("an idle agent: disk, KB", disk / count / 1e3, IDLE_KB),
        Figure("a held agent: memory of host and orchestrator, KB", grown / count / 1e3, IDLE_KB),
        Figure("activation p50, ms", 1e3 * float(np.median(woken)), ACTIVATION_P50_MS),
        Figure("activation p95, ms", 1e3 * float(np.quantile(woken, 0.95)), None),
        Figure(f"{active} agents active at once: seconds for an exchange each", together, None),
        Figure("from a host's SIGKILL to an answer of its agent elsewhere, s", moved, MOVED_S),
    ]


def _moved(orchestrator: Any, count: int) -> float:
    """Kill the host of an agent, and have that agent answer."""
    placement = Placement(["host-0", "host-1"], no_spawn, SystemClock())
    number = next(i for i in range(count) if placement.place("t", f"a-{i}") == "host-0")
    os.kill(ray.get(actor("host-0").pid.remote()), signal.SIGKILL)
    began = time.perf_counter()
    _exchange(orchestrator, "moved", [number])
    return time.perf_counter() - began


def _exchange(orchestrator: Any, name: str, numbers: Any) -> None:
    given = {"message": _TALK}
    numbers = list(numbers)
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        asked = [
            orchestrator.submit.remote("t", f"{name}-{i}", "note", f"a-{i}", given) for i in some
        ]
        ended(orchestrator, ray.get(asked, timeout=LIMIT_S))


def _resident(*handles: Any) -> int:
    pids = ray.get([h.pid.remote() for h in handles])
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def _back(*handles: Any) -> None:
    deadline = time.monotonic() + 60
    for handle in handles:
        while True:
            try:
                ray.get(handle.pid.remote(), timeout=5)
                break
            except ray.exceptions.RayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def _timed(call: Any, *args: Any) -> float:
    began = time.perf_counter()
    ray.get(call(*args))
    return time.perf_counter() - began


async def _plain(url: str, load: Load) -> Measured:
    """Every request at once, as it comes."""
    chat = HttpChat(url)
    seconds: list[float] = []

    async def interactive(number: int) -> None:
        await asyncio.sleep(load.every_s * (number + 1))
        began = time.perf_counter()
        await _asked(chat, f"i-{number}", _SHORT)
        seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(
        *(_asked(chat, f"b-{i}", _LONG) for i in range(load.background)),
        *(interactive(i) for i in range(load.interactive)),
    )
    wall = time.perf_counter() - began
    await chat.close()
    return Measured(wall, seconds)


def _scheduled(folder: Path, url: str, load: Load) -> Measured:
    """The same requests as runs."""
    section = AgentsSection(
        concurrency=_SLOTS, interactive_slots=_KEPT, turn_timeout_s=LIMIT_S,
        model_timeout_s=LIMIT_S,
    )  # fmt: skip
    journal = functools.partial(sql_journal, f"sqlite:///{folder}/talk.db", folder)
    with actors(
        journal, Ledger, (), functools.partial(talking, url), section, folder
    ) as orchestrator:

        def begin(kind: Priority, number: int, tokens: int) -> Any:
            name, options = f"{kind}-{number}", RunOptions(priority=kind)
            return orchestrator.submit.remote(
                "t", name, "talk", name, {"tokens": tokens}, options
            )  # fmt: skip

        ended(orchestrator, [ray.get(begin("interactive", -1, 1))])  # warm
        began = time.perf_counter()
        runs = [begin("background", i, _LONG) for i in range(load.background)]
        asked: dict[int, Any] = {}
        for number in range(load.interactive):
            time.sleep(max(0.0, began + load.every_s * (number + 1) - time.perf_counter()))
            asked[number] = begin("interactive", number, _SHORT)
        ended(orchestrator, ray.get(runs))
        quick = ended(orchestrator, ray.get(list(asked.values())))
        wall = time.perf_counter() - began
    return Measured(wall, [(s.ended_at or 0.0) - s.started_at for s in quick])


def _compared(plain: Measured, scheduled: Measured) -> list[Figure]:
    p95 = [float(np.quantile(m.interactive_s, 0.95)) for m in (plain, scheduled)]
    p50 = [float(np.median(m.interactive_s)) for m in (plain, scheduled)]
    return [
        Figure("plain asyncio: wall clock, s", plain.wall_s, None),
        Figure("scheduled: wall clock, s", scheduled.wall_s, plain.wall_s),
        Figure("plain asyncio: interactive p50, s", p50[0], None),
        Figure("scheduled: interactive p50, s", p50[1], None),
        Figure("plain asyncio: interactive p95, s", p95[0], None),
        Figure("scheduled: interactive p95, s", p95[1], INTERACTIVE_SHARE * p95[0]),
    ]


@contextmanager
def engine(core: int) -> Iterator[str]:
    """vLLM with the routine checkpoint on one core; the address of its OpenAI API."""
    port = 18_766
    environment = {
        **os.environ, "VLLM_CPU_OMP_THREADS_BIND": str(core), "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
        "--port", str(port), "--model", resolve_source(f"checkpoint:{_MODEL}"),
        "--served-model-name", _MODEL, "--max-model-len", "1024", "--max-num-seqs", str(_SLOTS),
        "--enforce-eager", "--dtype", "float32", "--no-enable-chunked-prefill",
    ]  # fmt: skip
    print("starting the engine", file=sys.stderr)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                httpx.get(f"{url}/health", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.agents")
    parser.add_argument("--agents", type=int, default=10_000, help="with state")
    parser.add_argument("--active", type=int, default=100, help="at once")
    parser.add_argument("--background", type=int, default=150, help="requests at once")
    parser.add_argument("--interactive", type=int, default=20, help="requests")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between those")
    parser.add_argument("--core", type=int, default=0, help="of the engine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
