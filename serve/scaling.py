"""Gives each engine the replicas that `autoscale` decides on.

Serve's controller asks the policy of every elastic engine several times a second (`Wanted`). The
policy asks the scaler, a named actor, and never waits: until an answer is there the number stays.
The scaler knows all engines, since quotas and the cost ceiling are theirs together; the target that
Serve holds comes with each question, so a scaler that restarts has lost nothing but its trends.

Not covered: a promotion starts the first replicas of the new engine beside the old one, whatever
the ceiling says, and the new engine begins with those.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

from cluster.autoscale import Bounds, Engine, Limits, Plan, Step, autoscale
from cluster.ids import Clock
from cluster.settings import AutoscaleSection, ModelSection
from cluster.telemetry import logger
from serve.directory import NAMESPACE, Demand, Replica

NAME: Final = "scaler"
LOOK_S: Final = 1.0
COLD_S: Final = 60.0
"""What a start is taken to last until one was seen."""
FORGOTTEN_S: Final = 10.0
UNTOLD: Final = Demand(ago_s=0.0)
"""Of a model that no gateway told of: the directory has just restarted, and nothing idles."""

log = logger("scaling")

Held = Callable[[], dict[str, tuple[int, int]]]
"""Replicas of each Serve application: those that run, and those in any state, the ones on their way
out too."""


@dataclass
class Asked:
    """An engine that Serve asks about: which model it is, the replicas it is told to have, when it
    last asked, since when it has fewer than ordered (None: it has them), and how many it had."""

    model: str
    target: int
    at: float
    ordered: float | None = None
    ready: int = 0


class Scaler:
    """`look` gives the directory's replicas and demands, `held` what Serve holds."""

    def __init__(
        self,
        models: Iterable[ModelSection],
        section: AutoscaleSection,
        look: Callable[[], Any],
        held: Held,
        clock: Clock,
    ) -> None:
        self._models = {m.id: m for m in models}
        self._section = section
        self._look, self._held, self._clock = look, held, clock
        self._asked: dict[str, Asked] = {}
        self._cold: dict[str, float] = {}
        self._plan = Plan((), 0.0)
        self._planned = float("-inf")
        self._busy = False

    async def wanted(self, application: str, model: str, target: int) -> int:
        """How many replicas the application, an engine of `model`, should have; `target` is what
        Serve is told by now."""
        now = self._clock.monotonic()
        asked = self._asked.setdefault(application, Asked(model, target, now))
        asked.target, asked.at = target, now
        if now - self._planned >= LOOK_S and not self._busy:
            self._busy = True
            try:
                await self._think(now)
            finally:
                self._busy = False
        step = self._step(application)
        return target if step is None else step.target

    def state(self) -> list[dict[str, Any]]:
        """Every engine's replicas, with the reason, for people."""
        return [
            {
                "application": step.id, "target": step.target,
                "ready": self._asked[step.id].ready, "reason": step.reason,
                "cold_s": round(self._cold.get(self._asked[step.id].model, COLD_S), 1),
                "usd_per_hour": self._plan.usd_per_hour,
            }
            for step in self._plan.steps if step.id in self._asked
        ]  # fmt: skip

    async def _think(self, now: float) -> None:
        self._planned = now
        replicas, demands = await self._look()
        held = await asyncio.to_thread(self._held)
        self._asked = {a: o for a, o in self._asked.items() if now - o.at < FORGOTTEN_S}
        snapshot = [
            self._engine(application, one, replicas, demands.get(one.model, UNTOLD), held, now)
            for application, one in sorted(self._asked.items())
        ]
        plan = autoscale(snapshot, self._limits(), now)
        for before, step in zip(snapshot, plan.steps, strict=True):
            if step.target != before.target:
                log.info("%s: %s -> %s, %s", step.id, before.target, step.target, step.reason)
        self._plan = plan

    def _limits(self) -> Limits:
        """What the settings leave to the engines that ask. Those that do not, as their number is
        fixed or they are just starting, have their first replicas."""
        asking = {one.model for one in self._asked.values()}
        others = [m for m in self._models.values() if m.id not in asking]
        ceiling, quotas = self._section.usd_per_hour, dict(self._section.quotas)
        if ceiling is not None:
            ceiling -= sum(m.replicas.first * m.usd_per_hour for m in others)
        for model in others:
            bounds = bounds_of(model, self._section)
            if bounds.kind in quotas:
                quotas[bounds.kind] -= model.replicas.first * bounds.units
        return Limits(ceiling, quotas)

    def _engine(
        self, application: str, one: Asked, replicas: list[Replica], demand: Demand,
        held: dict[str, tuple[int, int]], now: float,
    ) -> Engine:  # fmt: skip
        own = [r for r in replicas if r.application == application]
        ready, all_ = held.get(application, (0, 0))
        self._time(one, ready, now)
        before = self._step(application)
        engine = Engine(
            application, bounds_of(self._models[one.model], self._section), one.target, ready,
            held=max(one.target, all_),
            load=sum(r.load for r in own) + demand.waiting,
            kv=max((r.kv_usage for r in own), default=0.0),
            ttft_s=demand.ttft_s,
            idle_s=demand.ago_s,
            cold_s=self._cold.get(one.model, COLD_S),
        )  # fmt: skip
        return engine if before is None else replace(engine, trend=before.trend)

    def _time(self, one: Asked, ready: int, now: float) -> None:
        """Measures how long starts take: from when more was ordered to when more answer."""
        if ready > one.ready and one.ordered is not None:
            self._cold[one.model] = now - one.ordered
            one.ordered = None
        if ready >= one.target:
            one.ordered = None
        elif one.ordered is None:
            one.ordered = now
        one.ready = ready

    def _step(self, application: str) -> Step | None:
        return next((s for s in self._plan.steps if s.id == application), None)


class Wanted:
    """Ray Serve's autoscaling policy of one engine; lives in Serve's controller."""

    def __init__(self, application: str, model: str, name: str = NAME) -> None:
        self._of, self._name = (application, model), name
        self._answer: Future[int] | None = None
        self._target: int | None = None

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """(replicas to have, nothing to remember)."""
        from ray.exceptions import RayError

        if self._answer is not None and self._answer.done():
            try:
                self._target = self._answer.result()
            except RayError:
                self._target = None  # the scaler restarts; the number stays
            self._answer = None
        if self._answer is None:
            self._answer = self._ask(context.target_num_replicas)
        target = context.target_num_replicas if self._target is None else self._target
        return target, {}

    def _ask(self, target: int) -> "Future[int] | None":
        import ray

        try:
            scaler = ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:
            return None
        answer: Future[int] = scaler.wanted.remote(*self._of, target).future()
        return answer


def bounds_of(model: ModelSection, section: AutoscaleSection) -> Bounds:
    """The settings of one model as the limits of its engine."""
    return Bounds(
        min=model.replicas.min,
        max=model.replicas.max,
        seats=model.max_num_seqs,
        ttft_s=section.ttft_s,
        kv=section.kv,
        calm_s=section.calm_s,
        idle_s=section.idle_s,
        usd_per_hour=model.usd_per_hour,
        kind=model.accelerator_type or model.device,
        units=model.tensor_parallel if model.device == "gpu" else 0,
    )


def held_by_serve() -> dict[str, tuple[int, int]]:
    """See `Held`."""
    from ray import serve as ray_serve

    held: dict[str, tuple[int, int]] = {}
    for name, application in ray_serve.status().applications.items():
        states = [d.replica_states for d in application.deployments.values()]
        running = sum(s.get("RUNNING", 0) for s in states)
        held[name] = running, sum(sum(s.values()) for s in states)
    return held


def looking(directory: str) -> Callable[[], Any]:
    """Asks the directory for its replicas and demands."""
    from serve.directory import find_directory

    async def look() -> tuple[list[Replica], dict[str, Demand]]:
        found = find_directory(directory)
        return await found.snapshot.remote(), await found.demands.remote()

    return look


def start_scaler(
    models: Iterable[ModelSection], section: AutoscaleSection, directory: str, clock: Clock
) -> Any:
    """The scaler as a named actor that restarts by itself; None when no model is elastic."""
    import ray

    models = tuple(models)
    if not any(m.replicas.elastic for m in models):
        return None
    options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 64, "lifetime": "detached"}
    actor = ray.remote(Scaler).options(name=NAME, namespace=NAMESPACE, **options)
    return actor.remote(models, section, looking(directory), held_by_serve, clock)
