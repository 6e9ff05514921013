"""The whole stack, started once a session as a user would: `mainspring demo` in a process of its
own, on ports of its own, with the shipped queue worked before the first test runs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from serve.running import read

START_LIMIT_S = 420.0
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


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("stack")
    report, output = home / "report.json", home / "output.txt"
    gateway, stats, metrics = free_ports(3)
    environment = {
        **os.environ,
        "MAINSPRING_DATA_DIR": str(home / "data"),
        "MAINSPRING_GATEWAY__PORT": str(gateway),
        "MAINSPRING_GATEWAY__HAPROXY_STATS_PORT": str(stats),
        "MAINSPRING_GATEWAY__HAPROXY_METRICS_PORT": str(metrics),
    }
    command = [sys.executable, "-m", "serve.cli", "demo", "--report", str(report)]
    with output.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        wait_for_report(process, report, output)
        running = read(home / "data")
        assert running is not None
        document = json.loads(report.read_text("utf-8"))
        yield Demo(running.url, home / "data", document, output, environment, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="session")
def client(demo: Demo) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", timeout=60) as made:
        yield made


def wait_for_report(process: subprocess.Popen[bytes], report: Path, output: Path) -> None:
    """Until the whole report is written; fails with the output when the demo ends or hangs."""
    deadline = time.monotonic() + START_LIMIT_S
    while "serving at" not in output.read_text("utf-8"):
        assert process.poll() is None, output.read_text("utf-8")[-4000:]
        assert time.monotonic() < deadline, output.read_text("utf-8")[-4000:]
        time.sleep(0.5)
    assert report.exists()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
