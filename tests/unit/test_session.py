"""What is set before Ray is imported, and how exactly a stack's own processes are ended."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import session, telemetry
from cluster.environment import STACK_VARIABLE, prepare
from cluster.errors import Unavailable
from cluster.session import marked, sweep
from cluster.settings import RaySection

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts every variable back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _start(started: list[subprocess.Popen[bytes]], stack: str, code: str = SLEEP) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, STACK_VARIABLE: stack},
        stdout=subprocess.PIPE,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process.pid


def test_ray_asks_for_a_token_that_only_its_owner_can_read(
    tmp_path: Path, environment: None
) -> None:
    prepare(tmp_path, "stack_1", {"FURTHER": "yes"})
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert (os.environ[STACK_VARIABLE], os.environ["FURTHER"]) == ("stack_1", "yes")
    assert token.stat().st_mode & 0o777 == 0o600
    first = token.read_text()
    assert len(first) == 64
    prepare(tmp_path, None, {})
    assert token.read_text() == first


def test_only_the_stacks_own_processes_are_ended(started: list[subprocess.Popen[bytes]]) -> None:
    ours, other = _start(started, "stack_a"), _start(started, "stack_b")
    assert [p.pid for p in marked("stack_a")] == [ours]
    assert sweep("stack_a", grace_s=0.0) == 1
    assert marked("stack_a") == []
    assert psutil.pid_exists(other)
    assert [p.pid for p in marked("stack_b")] == [other]


def test_a_process_that_ignores_term_is_killed(started: list[subprocess.Popen[bytes]]) -> None:
    _start(started, "stack_c", STUBBORN)
    assert sweep("stack_c", grace_s=0.0) == 1
    assert marked("stack_c") == []


def test_this_very_process_is_never_ended(environment: None) -> None:
    os.environ[STACK_VARIABLE] = "stack_d"
    assert os.getpid() not in [p.pid for p in marked("stack_d")]
    assert sweep("stack_of_nobody", grace_s=0.0) == 0


@pytest.mark.parametrize(("named", "asked"), [(None, "local"), ("auto", "auto")])
def test_another_ray_of_this_machine_is_joined_only_when_it_is_named(
    monkeypatch: pytest.MonkeyPatch, named: str | None, asked: str
) -> None:
    given: dict[str, object] = {}

    def init(**options: object) -> None:
        given.update(options)
        raise ConnectionError("not in a test")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(Unavailable, match="not in a test"):
        session.start(RaySection(address=named))
    assert given["address"] == asked


def test_a_log_line_names_its_request_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    log = telemetry.logger("test")
    # pytest adds handlers of its own; ours is the one that writes lines with ids.
    (handler,) = (
        h
        for h in logging.getLogger("mainspring").handlers
        if any(type(f).__name__ == "_WithIds" for f in h.filters)
    )
    record = log.makeRecord(log.name, logging.INFO, "f", 1, "%d runs", (3,), None)
    token = telemetry.run_id.set("run_7")
    handler.filter(record)
    telemetry.run_id.reset(token)
    assert handler.format(record).endswith(
        "INFO mainspring.test request=- run=run_7 trace=- 3 runs"
    )
