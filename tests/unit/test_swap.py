"""The order of a swap, and what is left of one that fails: one engine too many at most, never one
too few."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import Conflict, DataError, DeadlineExceeded, NotFound, Unavailable
from cluster.settings import ModelSection
from serve import swap as module
from serve.directory import LEASE_S, Replica
from serve.engines import Wiring, application_name
from serve.registry import Change, Registry
from serve.swap import Swapper

OLD, NEW = "engine-routine@routine", "engine-routine@v1"
MODEL = ModelSection(
    id="routine", source="checkpoint:routine", tier="routine", usd_per_mtok_in=0.1,
    usd_per_mtok_out=0.2, replicas=2,
)  # fmt: skip
WIRING = Wiring("directory", "secret", drain_s=1.0)


class Cluster:
    """Serve, the directory and the deploying task, as far as a swap sees them. A deployed engine
    is up after three looks unless it is to fail; a deleted one is gone after two."""

    def __init__(self) -> None:
        self.applications: dict[str, int] = {OLD: 9, "engine-planner@planner": 9, "mainspring": 9}
        self.leaving: dict[str, int] = {}
        self.log: list[str] = []
        self.failing = ""
        self.stuck = ""

    def deploy(self, models: Sequence[ModelSection], wiring: Wiring) -> str:
        (model,) = models
        assert wiring is WIRING
        self.applications[application_name(model)] = 0
        self.log.append(f"deploy {application_name(model)}")
        return "reference"

    def status(self) -> Any:
        for name in list(self.leaving):
            self.leaving[name] -= 1
            if not self.leaving[name]:
                del self.leaving[name]
                self.applications.pop(name, None)
                self.log.append(f"gone {name}")
        for name in self.applications:
            self.applications[name] += name != self.stuck
        found = {n: self._application(n) for n in self.applications}
        return SimpleNamespace(applications=found)

    def _application(self, name: str) -> Any:
        status = "DEPLOY_FAILED" if name == self.failing else "RUNNING"
        message = SimpleNamespace(message="out of memory" if name == self.failing else "")
        return SimpleNamespace(status=status, deployments={name: message}, message="")

    def delete(self, name: str, _blocking: bool) -> None:
        assert not _blocking
        self.leaving.setdefault(name, 2)
        self.log.append(f"delete {name}")

    def snapshot(self) -> list[Replica]:
        return [
            Replica(f"{name}-{i}", "routine", "http://x", application=name)
            for name, age in self.applications.items()
            for i in range(min(2, max(0, age - 2)))
        ]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    snapshot = SimpleNamespace(remote=cluster.snapshot)
    monkeypatch.setattr(module, "ray_serve", cluster)
    monkeypatch.setattr(module, "ray", SimpleNamespace(get=lambda value: value))
    monkeypatch.setattr(module, "find_directory", lambda _: SimpleNamespace(snapshot=snapshot))
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if seconds == LEASE_S:
            cluster.log.append("settle")

    time = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(module, "time", time)
    return cluster


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path, MODEL)
    (registry.folder / "v1").mkdir(parents=True)
    (registry.folder / "v1" / "config.json").write_text("{}")
    return registry


@pytest.fixture
def swapper(cluster: Cluster, registry: Registry, tmp_path: Path) -> Swapper:
    return Swapper([MODEL], tmp_path, WIRING, cluster.deploy)


def change(action: Any = "promote", version: str = "v1") -> Change:
    return Change(action=action, version=version, base=MODEL.source, at="now", by="ann")


def test_the_new_engine_is_up_and_recorded_before_the_old_one_leaves(
    swapper: Swapper, cluster: Cluster, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Registry.record

    def told(*args: Any) -> None:
        cluster.log.append("record")
        record(*args)

    monkeypatch.setattr(Registry, "record", told)
    swapper.swap("routine", change(), None, "v1")
    assert cluster.log == [
        f"deploy {NEW}", "record", "settle", f"delete {OLD}", f"gone {OLD}",
    ]  # fmt: skip
    assert registry.current() == "v1"
    cluster.log.clear()
    swapper.swap("routine", change("rollback"), "v1", None)
    assert cluster.log[:2] == [f"deploy {OLD}", "record"] and f"gone {NEW}" in cluster.log
    assert registry.current() is None


def test_an_engine_that_does_not_come_up_is_removed_and_the_old_one_stays(
    swapper: Swapper, cluster: Cluster, registry: Registry
) -> None:
    cluster.failing = NEW
    with pytest.raises(Unavailable, match="out of memory"):
        swapper.swap("routine", change(), None, "v1")
    assert cluster.log == [f"deploy {NEW}", f"delete {NEW}"]
    assert registry.history() == []
    cluster.failing = ""
    swapper.swap("routine", change(), None, "v1")
    # The same name again, so only once the failed one is gone.
    assert cluster.log.index(f"gone {NEW}") < cluster.log.index(f"deploy {NEW}", 1)
    assert registry.current() == "v1"


def test_an_engine_without_room_is_given_up_after_a_while(
    swapper: Swapper, cluster: Cluster, registry: Registry
) -> None:
    cluster.stuck = NEW
    with pytest.raises(DeadlineExceeded, match="room"):
        swapper.swap("routine", change(), None, "v1")
    assert cluster.log == [f"deploy {NEW}", f"delete {NEW}"]
    assert registry.history() == []


def test_a_history_that_cannot_be_written_takes_the_new_engine_back(
    swapper: Swapper, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unavailable("history.json", "No space left on device")

    monkeypatch.setattr(Registry, "record", full)
    with pytest.raises(Unavailable, match="No space"):
        swapper.swap("routine", change(), None, "v1")
    assert cluster.log == [f"deploy {NEW}", f"delete {NEW}"]


def test_what_a_broken_off_swap_left_is_ended_by_the_restart(
    cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    cluster.applications[NEW] = 9
    Swapper([MODEL], tmp_path, WIRING, cluster.deploy)
    assert cluster.log == [f"delete {NEW}"]


def test_after_the_record_a_restart_ends_the_old_engine(
    cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    cluster.applications[NEW] = 9
    registry.record(change(), None)
    Swapper([MODEL], tmp_path, WIRING, cluster.deploy)
    assert cluster.log == [f"delete {OLD}"]


def test_a_change_over_another_version_than_serves_touches_nothing(
    swapper: Swapper, cluster: Cluster
) -> None:
    with pytest.raises(Conflict):
        swapper.swap("routine", change(), "v0", "v1")
    assert cluster.log == []


def test_a_version_that_is_not_there_touches_nothing(swapper: Swapper, cluster: Cluster) -> None:
    with pytest.raises(DataError, match="v2"):
        swapper.swap("routine", change(version="v2"), None, "v2")
    assert cluster.log == []


def test_one_swap_at_a_time(swapper: Swapper, cluster: Cluster) -> None:
    with swapper._busy, pytest.raises(Conflict, match="under way"):
        swapper.swap("routine", change(), None, "v1")
    assert cluster.log == []
    with pytest.raises(NotFound):
        swapper.section("planer")
