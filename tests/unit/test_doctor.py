"""The doctor sees what would stop a start, and says so in a line."""

import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import Settings, load
from serve import doctor
from serve.doctor import Line, examine
from serve.registry import Change, Registry

MODEL: dict[str, Any] = {"usd_per_mtok_in": 1, "usd_per_mtok_out": 2}


def _settings(folder: Path, source: str = "org/model", **values: Any) -> Settings:
    models = [{**MODEL, "id": t, "tier": t, "source": source} for t in ("planner", "routine")]
    return load(**{"data_dir": folder, "models": models, **values})


def _of(lines: list[Line], what: str) -> Line:
    (found,) = [line for line in lines if line.what == what]
    return found


def test_this_machine_is_described(tmp_path: Path) -> None:
    lines = examine(_settings(tmp_path))
    assert _of(lines, "python").level == "ok"
    assert _of(lines, "ray").level == "ok"
    assert {"cores", "memory free", "disk free", "GPUs", "journal", "memory"} <= {
        line.what for line in lines
    }


def test_another_owner_of_our_package_names_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {"agents": ["mainspring", "openai-agents"], "serve": ["mainspring"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    line = _of(examine(_settings(tmp_path)), "name collision")
    assert line.level == "missing"
    assert "openai-agents" in line.found
    assert "'agents'" in line.found


def test_a_taken_port_is_missing_unless_our_own_stack_holds_it(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        settings = _settings(tmp_path, gateway={"port": port, "haproxy": False})
        assert _of(examine(settings), f"port {port}").level == "missing"
        (tmp_path / "running.json").write_text('{"pid": 7, "stack": "s"}')
        assert _of(examine(settings), f"port {port}") == Line(
            "note", f"port {port}", "held by the running stack (7)"
        )


@pytest.mark.parametrize(
    ("source", "level"),
    [("org/model", "ok"), ("checkpoint:nowhere", "missing"), ("/nowhere/at/all", "missing")],
)
def test_a_model_without_its_files_is_missing(tmp_path: Path, source: str, level: str) -> None:
    assert _of(examine(_settings(tmp_path, source)), "model planner").level == level


def test_what_was_promoted_is_told_and_missed_when_it_is_gone(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    registry = Registry(tmp_path, settings.models[0])
    (registry.folder / "v1").mkdir(parents=True)
    config = registry.folder / "v1" / "config.json"
    config.write_text("{}")
    change = Change(action="promote", version="v1", base="org/model", at="now", by="ann")
    registry.record(change, None)
    assert _of(examine(settings), "model planner").found == "v1, promoted over org/model"
    config.unlink()
    assert _of(examine(settings), "model planner").level == "missing"


@pytest.mark.parametrize(
    ("url", "level", "found"),
    [
        ("sqlite:///journal.db", "ok", "SQLite in"),
        ("postgresql+nodriver://u:sesame@h/x", "missing", "does not answer"),
        ("nonsense", "missing", "no database URL"),
    ],
)
def test_a_journal_that_can_not_be_used_is_missing(
    tmp_path: Path, url: str, level: str, found: str
) -> None:
    line = _of(examine(_settings(tmp_path, journal={"url": url})), "journal")
    assert line.level == level
    assert found in line.found
    assert "sesame" not in line.found


def test_gpus_that_the_profile_wants_and_nobody_has_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [
        {**MODEL, "id": t, "tier": t, "source": "org/model", "device": "gpu", "tensor_parallel": 99}
        for t in ("planner", "routine")
    ]
    line = _of(examine(_settings(tmp_path, models=models)), "GPUs")
    assert line.level == "missing"
    assert "198 wanted" in line.found
    joined = _settings(tmp_path, models=models, ray={"address": "head:6379"})
    assert _of(examine(joined), "GPUs").level == "note"


def test_a_processor_without_avx2_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"sse2"})
    assert _of(examine(_settings(tmp_path)), "AVX2").level == "missing"


def test_a_variable_that_sets_nothing_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_GATWAY__PORT", "1")
    line = _of(examine(_settings(tmp_path)), "environment")
    assert line == Line("note", "environment", "MAINSPRING_GATWAY__PORT is set but sets nothing")


def test_a_milvus_server_that_does_not_answer_is_missing(tmp_path: Path) -> None:
    line = _of(examine(_settings(tmp_path, memory={"uri": "http://127.0.0.1:9"})), "memory")
    assert line.level == "missing" and "127.0.0.1:9 does not answer" in line.found
