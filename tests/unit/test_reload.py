"""What a running stack takes up of changed settings, and how it is asked to."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError, Conflict, DeadlineExceeded, Unavailable
from cluster.settings import Settings, load
from serve import reloading
from serve.cli import app
from serve.lifecycle import wait_for_interrupt
from serve.reloading import SIGNAL, Reloaded, differences, in_force, taken_up
from serve.running import Running

OLD = load("local")


def changed(section: str, **values: Any) -> Settings:
    """The settings, one section of them changed."""
    found = getattr(OLD, section).model_copy(update=values)
    return OLD.model_copy(update={section: found})


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("gateway", "cache_bytes", 1_000_000),
        ("gateway", "replicas", 3),
        ("gateway", "shadow_share", 0.5),
        ("batches", "concurrency", 7),
        ("autoscale", "idle_s", 17.0),
        ("cluster", "name", "other"),
    ],
)
def test_a_running_stack_takes_it_up(section: str, name: str, value: Any) -> None:
    wanted = changed(section, **{name: value})
    then = in_force(OLD, wanted)
    assert differences(OLD, then) == (f"{section}.{name}",)
    assert differences(then, wanted) == ()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("gateway", "port", 9),
        ("gateway", "haproxy", False),
        ("batches", "url", "sqlite:///other.db"),
        ("batches", "objects", "elsewhere"),
        ("memory", "uri", "other.db"),
        ("agents", "max_open_runs", 1),
        ("agents", "policy", "other.cedar"),
        ("support", "min_confidence", 0.1),
        ("accounts", "url", "sqlite:///other.db"),
        ("ray", "num_cpus", 1),
    ],
)
def test_it_needs_a_restart_and_is_named(section: str, name: str, value: Any) -> None:
    wanted = changed(section, **{name: value})
    then = in_force(OLD, wanted)
    assert differences(OLD, then) == ()
    assert differences(then, wanted) == (f"{section}.{name}",)


def test_models_and_the_tenant_need_a_restart() -> None:
    wanted = OLD.model_copy(update={"models": OLD.models[:1], "tenant": "other"})
    assert in_force(OLD, wanted) == OLD
    assert differences(OLD, wanted) == ("tenant", "models")


def test_what_can_be_is_taken_up_and_the_rest_is_named() -> None:
    wanted = changed("gateway", port=9, cache_bytes=5)
    applied: list[Settings] = []
    done = taken_up(lambda: wanted, OLD, applied.append)
    assert (done.live, done.restart, done.error) == (
        ("gateway.cache_bytes",), ("gateway.port",), "",
    )  # fmt: skip
    (then,) = applied
    assert (then.gateway.port, then.gateway.cache_bytes) == (OLD.gateway.port, 5)


def test_a_wrong_file_changes_nothing() -> None:
    def wrong() -> Settings:
        raise ConfigError("gateway.port", 0, "1 or more")

    applied: list[Settings] = []
    done = taken_up(wrong, OLD, applied.append)
    assert "gateway.port" in done.error
    assert (done.live, done.restart, applied) == ((), (), [])


def test_the_signal_reloads_while_it_serves() -> None:
    seen: list[str] = []

    def reload() -> None:
        seen.append("reload")
        if len(seen) == 2:
            raise KeyboardInterrupt
        threading.Timer(0.05, os.kill, (os.getpid(), SIGNAL)).start()

    before = signal.getsignal(SIGNAL)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), SIGNAL))
    timer.start()
    wait_for_interrupt(reload)
    assert seen == ["reload", "reload"]
    assert signal.getsignal(SIGNAL) == before


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    running = Running(os.getpid(), "stack_1", "http://127.0.0.1:1")
    (tmp_path / "running.json").write_text(
        f'{{"pid": {running.pid}, "stack": "{running.stack}", "url": "{running.url}"}}'
    )
    return tmp_path


@pytest.fixture
def answering(home: Path) -> Iterator[Callable[[Reloaded], None]]:
    """Have this process answer the signal as a stack would."""
    before = signal.getsignal(SIGNAL)

    def answer(done: Reloaded) -> None:
        signal.signal(SIGNAL, lambda *_: reloading.write(home, done))

    yield answer
    signal.signal(SIGNAL, before)


def test_the_command_says_what_is_in_force_and_what_is_not(
    answering: Callable[[Reloaded], None],
) -> None:
    answering(Reloaded("1", ("gateway.cache_bytes",)))
    done = CliRunner().invoke(app, ["reload"])
    assert (done.exit_code, done.output) == (0, "in force: gateway.cache_bytes, the policy\n")
    answering(Reloaded("2", (), ("models",)))
    done = CliRunner().invoke(app, ["reload"])
    assert (done.exit_code, done.output) == (3, "in force: the policy\nneed a restart: models\n")
    answering(Reloaded("3", error="gateway.port: 0, expected 1 or more"))
    done = CliRunner().invoke(app, ["reload"])
    assert isinstance(done.exception, Conflict)
    assert "nothing is changed" in str(done.exception) and "gateway.port" in str(done.exception)


def test_a_stack_that_starts_or_does_not_answer_is_told(home: Path) -> None:
    with pytest.raises(Unavailable, match="still starting"):
        reloading.ask(Running(os.getpid(), "s"), home)
    before = signal.signal(SIGNAL, lambda *_: None)
    try:
        with pytest.raises(DeadlineExceeded):
            reloading.ask(Running(os.getpid(), "s", "http://x"), home, limit_s=0.3)
    finally:
        signal.signal(SIGNAL, before)
