"""The scaler between Serve, the directory and the decision, without Ray."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster.errors import ConfigError
from cluster.settings import AutoscaleSection, ModelSection, load
from serve.directory import Demand, Replica
from serve.engines import application_name, deployment_options
from serve.scaling import Scaler, Wanted
from tests.fakes import FakeClock


def model(**values: Any) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": "small", "source": "hub/small", "tier": "routine", "usd_per_mtok_in": 0,
            "usd_per_mtok_out": 0, "max_num_seqs": 4, "replicas": {"min": 0, "max": 3},
            "usd_per_hour": 2.0, **values,
        }
    )  # fmt: skip


@dataclass
class World:
    """What the scaler sees; Serve does at once what it is told."""

    section: AutoscaleSection
    demand: dict[str, Demand] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    running: int = 1
    target: int = 1
    broken: bool = False
    others: list[ModelSection] = field(default_factory=list)
    own: ModelSection = field(default_factory=model)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        held: Callable[[], Any] = lambda: {"app": (self.running, self.running)}  # noqa: E731
        models = [self.own, *self.others]
        self.scaler = Scaler(models, self.section, self._look, held, self.clock)

    async def _look(self) -> tuple[list[Replica], dict[str, Demand]]:
        if self.broken:
            raise ValueError("no directory")
        return self.replicas, self.demand

    async def after(self, seconds: float) -> int:
        self.clock.step(seconds)
        self.target = await self.scaler.wanted("app", "small", self.target)
        return self.target


def world(**section: Any) -> World:
    return World(AutoscaleSection(idle_s=100.0, **section))


async def test_idle_goes_to_zero_and_a_request_brings_it_back() -> None:
    seen = world()
    seen.demand = {"small": Demand(ago_s=50.0)}
    assert await seen.after(1) == 1
    seen.demand = {"small": Demand(ago_s=100.0)}
    assert await seen.after(1) == 0
    seen.running = 0
    seen.demand = {"small": Demand(waiting=1, ago_s=0.1)}
    assert await seen.after(1) == 1


async def test_nothing_idles_while_no_gateway_has_told() -> None:
    seen = world()
    for _ in range(200):
        assert await seen.after(1) == 1


async def test_what_engines_and_gateways_hold_is_one_load() -> None:
    seen = world()
    seen.replicas = [Replica("r", "small", "http://r", running=4, waiting=2, application="app")]
    seen.demand = {"small": Demand(waiting=1, ago_s=0.0)}
    assert await seen.after(1) == 3


async def test_the_ceiling_holds_the_burst() -> None:
    seen = world(usd_per_hour=4.0)
    seen.demand = {"small": Demand(waiting=100, ago_s=0.0)}
    assert await seen.after(1) == 2
    assert "4 USD an hour allows 2" in seen.scaler.state()[0]["reason"]


async def test_models_whose_number_is_fixed_are_paid_for_first() -> None:
    fixed = model(id="fixed", replicas=2, usd_per_hour=1.0)
    seen = World(AutoscaleSection(usd_per_hour=6.0), others=[fixed])
    seen.demand = {"small": Demand(waiting=100, ago_s=0.0)}
    assert await seen.after(1) == 2


async def test_a_quota_is_shared_with_models_whose_number_is_fixed() -> None:
    gpu = {"device": "gpu", "accelerator_type": "H200", "tensor_parallel": 2}
    fixed = model(id="fixed", replicas=1, **gpu)
    seen = World(AutoscaleSection(quotas={"H200": 6}), others=[fixed], own=model(**gpu))
    seen.demand = {"small": Demand(waiting=100, ago_s=0.0)}
    assert await seen.after(1) == 2


@dataclass
class Answering:
    """A scaler's handle, as far as the policy uses it: `remote` calls that are answered later."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    answers: list["Future[int]"] = field(default_factory=list)

    @property
    def wanted(self) -> "Answering":
        return self

    def remote(self, *asked: Any) -> "Answering":
        self.asked.append(asked)
        self.answers.append(Future())
        return self

    def future(self) -> "Future[int]":
        return self.answers[-1]


@dataclass
class Context:
    target_num_replicas: int


def test_the_policy_never_waits_for_the_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = Answering()
    monkeypatch.setattr("ray.get_actor", lambda *_, **__: scaler)
    policy = Wanted("app", "small")
    assert policy(Context(2)) == (2, {})
    assert policy(Context(2)) == (2, {})
    assert scaler.asked == [("app", "small", 2)]
    scaler.answers[0].set_result(3)
    assert policy(Context(2)) == (3, {})
    assert scaler.asked[1] == ("app", "small", 2)
    scaler.answers[1].set_exception(RayActorError())
    assert policy(Context(3)) == (3, {})


def test_the_policy_leaves_the_number_while_there_is_no_scaler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ValueError("no such actor")

    monkeypatch.setattr("ray.get_actor", missing)
    assert Wanted("app", "small")(Context(4)) == (4, {})


async def test_a_start_is_timed() -> None:
    seen = world()
    seen.demand, seen.running, seen.target = {"small": Demand(1, 0.0)}, 0, 0
    for _ in range(20):
        await seen.after(1)
    seen.running = 1
    await seen.after(1)
    assert 18 <= seen.scaler.state()[0]["cold_s"] <= 20


async def test_a_directory_that_is_away_changes_nothing_and_is_asked_again() -> None:
    seen = world()
    seen.broken = True
    with pytest.raises(ValueError, match="no directory"):
        await seen.after(1)
    seen.broken = False
    assert await seen.after(1) == 1


def test_serve_is_given_bounds_and_the_policy_only_where_they_differ() -> None:
    elastic, fixed = model(), model(replicas=2)
    assert deployment_options(fixed, 1.0)["num_replicas"] == 2
    given = deployment_options(elastic, 1.0)
    assert "num_replicas" not in given
    scaling = given["autoscaling_config"]
    assert [scaling[n] for n in ("min_replicas", "initial_replicas", "max_replicas")] == [0, 1, 3]
    assert scaling["policy"]["policy_kwargs"]["application"] == application_name(elastic)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": {"min": 3, "max": 2}}, "min 3 is more than max 2"),
        ({"replicas": {"min": -1, "max": 2}}, "models.0.replicas.min"),
        ({"replicas": {"mx": 2}}, "mx"),
        ({"replicas": {"min": 2, "max": 4}, "usd_per_hour": 6.0}, "is less than what the first"),
    ],
)
def test_replicas_that_make_no_sense_stop_the_start(change: dict[str, Any], words: str) -> None:
    models = [m.model_dump() for m in load("local").models]
    models[0] |= change
    with pytest.raises(ConfigError, match=words):
        load("local", models=models, autoscale={"usd_per_hour": 10.0})
