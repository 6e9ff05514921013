"""From the command to the first token: `make bench-coldstart`.

Starts the whole stack of a profile in a process of its own, as `mainspring up` does, and splits
the time by phase. Beside it, in the same run: bare vLLM (`python -m
vllm.entrypoints.openai.api_server`) with one of the two checkpoints, which is the part of the
start that is not ours.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.report import Figure, write
from benchmarks.stacks import stack
from cluster.environment import STACK_VARIABLE
from cluster.settings import load
from serve.catalog import resolve_source

TARGET_READY_S = 120.0
TARGET_RSS_GB = 10.0
_LIMIT_S = 600.0


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.coldstart")
    parser.add_argument("--profile", default="local")
    parser.add_argument("--repeats", type=int, default=2, help="starts of each; the median counts")
    parser.add_argument("--no-peer", action="store_true", help="leave out bare vLLM")
    given = parser.parse_args()
    starts = [_start_stack(given.profile) for _ in range(given.repeats)]
    peers = [] if given.no_peer else [_start_bare(given.profile) for _ in range(given.repeats)]
    middle = sorted(starts, key=lambda s: s["ready_s"])[len(starts) // 2]
    figures = [
        Figure("command to ready, s", middle["ready_s"], TARGET_READY_S, "at most"),
        Figure("resident memory, RSS summed, GB", middle["rss_gb"], TARGET_RSS_GB, "at most"),
        Figure("resident memory, PSS summed, GB", middle["pss_gb"]),
        Figure("processes", middle["processes"]),
        *(Figure(f"phase {name}, s", seconds) for name, seconds in middle["phases"].items()),
    ]
    if peers:
        figures.append(Figure("bare vLLM, one model, s", sorted(peers)[len(peers) // 2]))
    return write(
        "coldstart", figures, load=f"{given.repeats} starts of profile {given.profile}",
        peers={"vllm": peers}, details={"starts": starts},
    )  # fmt: skip


def _start_stack(profile: str) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coldstart-") as folder:
        with stack(Path(folder), profile) as running:
            ready = time.monotonic() - began
            memory = _memory(running.stack, running.pid)
    return {"ready_s": round(ready, 1), "phases": running.phases, **memory}


def _memory(stack_id: str, owner: int) -> dict[str, Any]:
    """RSS counts a shared page once for each process that maps it; PSS shares it out."""
    rss = pss = count = 0
    for process in psutil.process_iter():
        try:
            ours = process.pid == owner or process.environ().get(STACK_VARIABLE) == stack_id
            if not ours:
                continue
            full = process.memory_full_info()
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        rss, pss, count = rss + full.rss, pss + full.pss, count + 1
    return {"rss_gb": round(rss / 1e9, 2), "pss_gb": round(pss / 1e9, 2), "processes": count}


def _start_bare(profile: str) -> float:
    model = load(profile).models[0]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", "18765",
        "--model", resolve_source(model.source), "--served-model-name", model.id,
        "--max-model-len", str(model.max_model_len), "--dtype", "float32", "--enforce-eager",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    body = {"model": model.id, "prompt": "a", "max_tokens": 1}
    try:
        while time.monotonic() - began < _LIMIT_S:
            try:
                answer = httpx.post("http://127.0.0.1:18765/v1/completions", json=body, timeout=60)
                if answer.status_code == 200:
                    return round(time.monotonic() - began, 1)
            except httpx.TransportError:
                pass
            time.sleep(0.25)
    finally:
        process.terminate()
        process.wait(timeout=30)
    raise SystemExit("bare vLLM did not answer")


if __name__ == "__main__":
    sys.exit(main())
