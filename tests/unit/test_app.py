"""How a stack's actors are made, and what of a running one is made anew for changed settings."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.settings import Settings, load
from serve import app
from serve.engines import Wiring

OLD = load("local")


class Cluster:
    """Ray, as far as actors are made and asked. An actor whose constructor does not take what it
    is given is no actor."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []

    def remote(self, cls: type) -> Any:
        def create(*args: Any, **kwargs: Any) -> Any:
            inspect.signature(cls).bind(*args, **kwargs)
            self.made[options["name"]] = options
            return SimpleNamespace()

        options: dict[str, Any] = {}

        def with_options(**given: Any) -> Any:
            options.update(given)
            return SimpleNamespace(remote=create)

        return SimpleNamespace(options=with_options)

    def get_actor(self, name: str, namespace: str) -> Any:
        call = SimpleNamespace(remote=lambda: self.asked.append(name))
        return SimpleNamespace(read_policy=call)

    def get(self, value: Any) -> Any:
        return value


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(app, "ray", made)
    monkeypatch.setattr("agents.host.ray", made)
    return made


def test_every_actor_is_given_what_it_takes_and_restarts_by_itself(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = OLD.model_copy(update={"data_dir": tmp_path})
    app._start_actors(settings, tmp_path, Wiring("directory", "secret"))
    assert set(cluster.made) == {
        "memory", "connector", "host-0", "bulk", "swapper", "orchestrator",
    }  # fmt: skip
    assert all(o["max_restarts"] == -1 for o in cluster.made.values())
    assert all(o["lifetime"] == "detached" for o in cluster.made.values())


@pytest.mark.parametrize(
    ("section", "values", "anew"),
    [
        ("gateway", {"cache_bytes": 5}, ["gateway"]),
        ("batches", {"concurrency": 5}, ["end bulk", "bulk", "gateway"]),
        ("autoscale", {"idle_s": 5.0}, ["end scaler", "scaler", "gateway"]),
        ("gateway", {}, []),
    ],
)
def test_only_what_a_change_concerns_is_made_anew(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, section: str, values: dict[str, Any],
    anew: list[str],
) -> None:  # fmt: skip
    seen: list[str] = []
    monkeypatch.setattr(app, "end_actor", lambda name: seen.append(f"end {name}"))
    monkeypatch.setattr(app, "start_scaler", lambda *_: seen.append("scaler"))
    monkeypatch.setattr(app, "_start_bulk", lambda *_: seen.append("bulk"))
    monkeypatch.setattr(app, "_gateway", lambda *_: "gateway")
    monkeypatch.setattr(app, "ray_serve", SimpleNamespace(run_many=lambda made: seen.extend(made)))
    stack = app.Stack(OLD, "secret")
    wanted = _changed(section, **values)
    app.apply(stack, wanted)
    assert seen == anew
    assert cluster.asked == ["orchestrator"]
    assert stack.settings == wanted


def test_a_wrong_policy_changes_nothing(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "end_actor", lambda name: pytest.fail(name))
    file = tmp_path / "own.cedar"
    file.write_text("permit(")
    file.with_suffix(".cedarschema").write_text("")
    stack = app.Stack(_changed("agents", policy=str(file)), "secret")
    wanted = stack.settings.model_copy(
        update={"batches": OLD.batches.model_copy(update={"concurrency": 1})}
    )
    with pytest.raises(ConfigError):
        app.apply(stack, wanted)
    assert cluster.asked == []
    assert stack.settings != wanted


def _changed(section: str, **values: Any) -> Settings:
    found = getattr(OLD, section).model_copy(update=values)
    return OLD.model_copy(update={section: found})
