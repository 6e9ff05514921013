"""The whole stack, started once a session as a user would: `mainspring demo` in a process of its
own, on ports of its own, with the shipped queue worked before the first test runs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.settings import AgentsSection, infra_path
from serve.new_cli import make
from serve.running import is_free, read

START_LIMIT_S = 420.0
PORTS = (20000, 29000)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """A served stack: its address, data folder, report and what it printed so far."""

    url: str
    home: Path
    report: dict[str, Any]
    output: Path
    environment: dict[str, str]
    pid: int

    def mainspring(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of the same user, from the same folder."""
        return subprocess.run(
            [sys.executable, "-m", "serve.cli", *words], cwd=ROOT, env=self.environment,
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("stack")
    report = home / "report.json"
    # A workflow as the guide has a user make it, beside the shipped ones.
    packs = json.dumps([*AgentsSection().packs, str(make("reminders", home))])
    words = ("demo", "--report", str(report))
    profile = shutil.copy(infra_path("profiles", "local.yaml"), home / "profile.yaml")
    with served(
        home, *words, MAINSPRING_AGENTS__PACKS=packs, MAINSPRING_PROFILE=str(profile)
    ) as stack:
        assert report.exists()
        yield replace(stack, report=json.loads(report.read_text("utf-8")))


@contextmanager
def served(home: Path, *words: str, **variables: str) -> Iterator[Demo]:
    """`mainspring WORDS`, with its data below `home`, from when it serves until it is interrupted;
    fails with its output when it ends or hangs before."""
    output = home / "output.txt"
    gateway, stats, metrics = free_ports(3)
    environment = {
        **os.environ,
        "MAINSPRING_DATA_DIR": str(home / "data"),
        "MAINSPRING_GATEWAY__PORT": str(gateway),
        "MAINSPRING_GATEWAY__HAPROXY_STATS_PORT": str(stats),
        "MAINSPRING_GATEWAY__HAPROXY_METRICS_PORT": str(metrics),
        **variables,
    }
    with output.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", *words],
            cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while "serving at" not in output.read_text("utf-8"):
            assert process.poll() is None, output.read_text("utf-8")[-4000:]
            assert time.monotonic() < deadline, output.read_text("utf-8")[-4000:]
            time.sleep(0.5)
        running = read(home / "data")
        assert running is not None
        yield Demo(running.url, home / "data", {}, output, environment, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="session")
def client(demo: Demo) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", timeout=60) as made:
        yield made


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, below those that the kernel gives to outgoing
    connections, which could take a port between this look at it and its use, and below those that
    Serve gives to replicas."""
    ports = random.sample(range(*PORTS), 200)
    return list(islice(filter(is_free, ports), count))
