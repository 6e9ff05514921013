"""The servers that `make bench-overhead` compares, each for the length of a `with` block.

The engine's processes run on one core and all others on the second one, the client among them.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks.overhead_load import Target
from benchmarks.overhead_ray import MODEL, free_port, section
from cluster.environment import STACK_VARIABLE
from cluster.ids import SystemClock, SystemIds, new_secret
from cluster.session import marked, sweep
from cluster.settings import load
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO
from serve.catalog import resolve_source
from serve.engines import engine_arguments, environment
from serve.running import read

_LIMIT_S: Final = 400.0


@contextlib.contextmanager
def bare(core: int) -> Iterator[Target]:
    """vLLM's own server, with the arguments that Mainspring gives its engine."""
    model, port = section(core), free_port()
    words: list[str] = []
    for name, value in engine_arguments(model).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1",
        "--port", str(port), "--model", resolve_source(model.source),
        "--served-model-name", MODEL, "--disable-uvicorn-access-log", *words,
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with _process(command, environment(model)) as process:
        _until_healthy(process, f"{url}/health")
        pin(core, [process])
        yield Target(f"{url}/v1", MODEL)


@contextlib.contextmanager
def litellm(python: Path, behind: Target, core: int, folder: Path) -> Iterator[Target]:
    """A LiteLLM proxy, one worker, before an OpenAI server."""
    port, key = free_port(), "sk-overhead"
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"hosted_vllm/{behind.model}", "api_base": behind.url,
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": key},
    }  # fmt: skip
    path = folder / "litellm.json"  # JSON is YAML
    path.write_text(json.dumps(config), encoding="utf-8")
    command = [
        str(python.with_name("litellm")), "--config", str(path), "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "1", "--telemetry", "False",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with _process(
        command, {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    ) as process:
        _until_healthy(process, f"{url}/health/liveliness")
        pin(core, [process])
        yield Target(f"{url}/v1", MODEL, key)


@contextlib.contextmanager
def ray_ingress(tuned: bool, core: int, other: int, folder: Path) -> Iterator[Target]:
    """Ray Serve LLM's own ingress before one engine, in a process of its own."""
    port, stack = free_port(), new_secret()[:16]
    words = ["tuned" if tuned else "defaults", str(port), str(core), str(folder)]
    command = [sys.executable, "-m", "benchmarks.overhead_ray", *words]
    url = f"http://127.0.0.1:{port}"
    try:
        with _process(command, {STACK_VARIABLE: stack}) as process:
            _until_healthy(process, f"{url}/v1/models")
            _pin_stack(marked(stack), core, other)
            yield Target(f"{url}/v1", MODEL)
    finally:
        sweep(stack)


@contextlib.contextmanager
def mainspring(core: int, other: int, folder: Path) -> Iterator[tuple[Target, Callable[[], None]]]:
    """The whole stack of the local profile, asked for `auto` with a key that has a budget; and what
    puts its processes on their cores, which are the profile's own until then."""
    ports = [free_port() for _ in range(3)]
    names = ("PORT", "HAPROXY_STATS_PORT", "HAPROXY_METRICS_PORT")
    variables = {f"MAINSPRING_GATEWAY__{n}": str(p) for n, p in zip(names, ports, strict=True)}
    command = [sys.executable, "-m", "serve.cli", "up", "--profile", "local"]
    with _process(command, {"MAINSPRING_DATA_DIR": str(folder), **variables}) as process:
        began = time.monotonic()
        while (running := read(folder)) is None or not running.url:
            if process.poll() is not None or time.monotonic() - began > _LIMIT_S:
                raise SystemExit("the stack did not start")
            time.sleep(0.2)
        target = Target(f"{running.url}/v1", "auto", _key(folder))
        yield target, lambda: _pin_stack(marked(running.stack), core, other)


def _key(folder: Path) -> str:
    books = Books(load("local").accounts, folder, SystemClock(), SystemIds())
    made, key = books.keyring.create("default", "bench")
    books.budgets.put(Budget("default", "key", made.account, "day", 1_000 * NANO))
    asyncio.run(books.close())
    return key


def _pin_stack(processes: list[psutil.Process], core: int, other: int) -> None:
    pin(other, processes)
    engines = [p for p in processes if _is_engine(p)]
    if not engines:
        raise SystemExit("the engine's process was not found")
    pin(core, engines)


def _is_engine(process: psutil.Process) -> bool:
    """Whether it is the replica of the measured model; its children are the engine's too."""
    with contextlib.suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return "ServeReplica" in words and (f"engine-{MODEL}@" in words or "LLMServer" in words)
    return False


def pin(core: int, processes: list[psutil.Process]) -> None:
    """Put processes and their children on one core, every thread of theirs."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                for thread in Path(f"/proc/{one.pid}/task").iterdir():
                    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                        os.sched_setaffinity(int(thread.name), {core})


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process on one core for the length of the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _process(command: list[str], variables: dict[str, str]) -> Iterator[psutil.Popen]:
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(
            command, env={**os.environ, **variables}, stdout=said, stderr=subprocess.STDOUT
        )  # fmt: skip
        try:
            yield process
        except BaseException:
            said.seek(0)
            print(said.read().decode(errors="replace")[-3_000:], file=sys.stderr)
            raise
        finally:
            _end(process)


def _end(process: psutil.Popen) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=60)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait()


def _until_healthy(process: psutil.Popen, url: str) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"nothing healthy came up at {url}")
        time.sleep(0.5)
