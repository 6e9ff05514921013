"""Which checkpoint serves a model: stored whole or not at all, and never lost sight of."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Conflict, DataError, NotFound, Unavailable
from cluster.settings import ModelSection
from serve.distill.digest import digest
from serve.engines import application_name, application_prefix
from serve.registry import Change, Registry, serving


def model(source: str = "checkpoint:routine", name: str = "routine") -> ModelSection:
    return ModelSection(
        id=name, source=source, tier="routine", usd_per_mtok_in=0.1, usd_per_mtok_out=0.2
    )


def change(action: Any, version: str, base: str = "checkpoint:routine") -> Change:
    return Change(
        action=action, version=version, base=base, at="2026-01-01T00:00:00+00:00", by="ann"
    )


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    folder = tmp_path / "candidate"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "evaluation.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "state.pt").write_bytes(b"optimizer")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "data", model())


def promoted(registry: Registry, candidate: Path, weights: bytes) -> str:
    (candidate / "model.safetensors").write_bytes(weights)
    version = registry.store(candidate)
    registry.record(change("promote", version), registry.current())
    return version


def test_what_the_profile_names_serves_until_something_is_promoted(
    registry: Registry, candidate: Path, tmp_path: Path
) -> None:
    assert registry.current() is None
    assert serving([model()], tmp_path / "data") == (model(),)
    version = promoted(registry, candidate, b"one")
    (served,) = serving([model()], tmp_path / "data")
    assert served.source == str(registry.folder / version)
    assert digest(Path(served.source)) == version
    assert served.model_copy(update={"source": model().source}) == model()


def test_a_rollback_returns_to_what_served_before_down_to_the_base(
    registry: Registry, candidate: Path
) -> None:
    first, second = promoted(registry, candidate, b"1"), promoted(registry, candidate, b"2")
    assert registry.versions() == [first, second]
    assert registry.below() == (second, first)
    registry.record(change("rollback", second), second)
    assert registry.below() == (first, None)
    registry.record(change("rollback", first), first)
    with pytest.raises(NotFound, match="routine"):
        registry.below()
    assert [c.action for c in registry.history()] == ["promote", "promote", "rollback", "rollback"]


def test_a_promotion_counts_only_over_the_source_that_it_was_made_over(
    registry: Registry, candidate: Path, tmp_path: Path
) -> None:
    promoted(registry, candidate, b"1")
    other = model("Qwen/Qwen3-4B")
    assert serving([other], tmp_path / "data") == (other,)
    assert Registry(tmp_path / "data", model()).current() is not None


def test_a_copy_holds_what_a_checkpoint_needs_and_no_optimizer(
    registry: Registry, candidate: Path
) -> None:
    version = registry.store(candidate)
    kept = {p.name for p in (registry.folder / version).iterdir()}
    assert kept == {"config.json", "tokenizer.json", "evaluation.json", "model.safetensors"}
    assert registry.store(candidate) == version


def test_a_damaged_copy_is_made_anew(registry: Registry, candidate: Path) -> None:
    version = registry.store(candidate)
    (registry.folder / version / "model.safetensors").write_bytes(b"rot")
    assert registry.store(candidate) == version
    assert digest(registry.folder / version) == version


def test_without_room_nothing_is_copied(
    registry: Registry, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Unavailable, match="MB are needed"):
        registry.store(candidate)
    assert [p.name for p in registry.folder.iterdir()] == ["lock"]


def test_a_disk_that_fills_up_while_copying_leaves_nothing_behind(
    registry: Registry, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy(source: Any, target: Any) -> None:
        copied.append(target.name)
        if len(copied) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(Unavailable, match="No space left"):
        registry.store(candidate)
    assert [p.name for p in registry.folder.iterdir()] == ["lock"]


def test_what_a_killed_copy_left_is_cleared_away(registry: Registry, candidate: Path) -> None:
    (registry.folder / ".part-x").mkdir(parents=True)
    (registry.folder / ".part-x" / "config.json").write_text("{")
    version = registry.store(candidate)
    assert sorted(p.name for p in registry.folder.iterdir()) == sorted(["lock", version])


def test_a_candidate_that_changes_meanwhile_is_refused(
    registry: Registry, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target: target.write(b"other"))
    with pytest.raises(DataError, match="changed"):
        registry.store(candidate)
    assert [p.name for p in registry.folder.iterdir()] == ["lock"]


def test_of_two_changes_over_the_same_version_the_second_is_refused(
    registry: Registry, candidate: Path
) -> None:
    version = promoted(registry, candidate, b"1")
    with pytest.raises(Conflict, match=version):
        registry.record(change("promote", "other"), None)
    assert registry.versions() == [version]


def test_two_writers_do_not_meet(registry: Registry, candidate: Path) -> None:
    with registry._alone(), pytest.raises(Conflict, match="another process"):
        registry.store(candidate)


def test_a_history_that_cannot_be_written_stays_as_it_was(
    registry: Registry, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = promoted(registry, candidate, b"1")
    before = (registry.folder / "history.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(Unavailable, match="No space left"):
        registry.record(change("rollback", version), version)
    assert (registry.folder / "history.json").read_bytes() == before
    assert not list(registry.folder.glob("*.part"))


@pytest.mark.parametrize("content", ["", "{", "{}", '[{"action": "promote"}]', '[{"x": 1}]'])
def test_a_damaged_history_is_named(registry: Registry, content: str) -> None:
    registry.folder.mkdir(parents=True)
    (registry.folder / "history.json").write_text(content)
    with pytest.raises(DataError, match=r"history\.json"):
        registry.current()


def test_a_promoted_checkpoint_that_is_gone_stops_the_start_and_says_what_to_do(
    registry: Registry, candidate: Path, tmp_path: Path
) -> None:
    version = promoted(registry, candidate, b"1")
    shutil.rmtree(registry.folder / version)
    with pytest.raises(DataError, match="rollback --model routine"):
        serving([model()], tmp_path / "data")
    registry.record(change("rollback", version), version)
    assert serving([model()], tmp_path / "data") == (model(),)


def test_two_checkpoints_of_a_model_are_two_applications_and_no_other_models() -> None:
    names = [
        application_name(model(source))
        for source in ("checkpoint:routine", "/data/checkpoints/routine/1a2b", "Qwen/Qwen3-4B")
    ]
    assert names == ["engine-routine@routine", "engine-routine@1a2b", "engine-routine@Qwen3-4B"]
    other = application_name(model(name="routine-2"))
    assert not other.startswith(application_prefix("routine"))
