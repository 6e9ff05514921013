"""Puts another checkpoint behind a model id while requests go on.

The new engine comes up beside the old one, the history says that it serves, and only then the old
one leaves: it withdraws, answers what it has, and ends. `Swapper` is a named Ray actor that holds
the stack's wiring, so a swap goes on when the command that asked for it is killed. Broken off
itself, it leaves an engine too many and never one too few; its restart, or the next swap, ends
every engine that the history does not name.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve as ray_serve

from cluster.errors import Conflict, DeadlineExceeded, NotFound, Unavailable
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.directory import LEASE_S, find_directory
from serve.engines import Wiring, application_name, application_prefix, deploy_engines, failure
from serve.registry import Change, Registry

NAME: Final = "swapper"
START_LIMIT_S: Final = 600.0
_END_LIMIT_S: Final = 60.0  # beyond the draining
_LOOK_S: Final = 0.5

log = logger("swap")

Deploy = Callable[[Sequence[ModelSection], Wiring], Any]


class Swapper:
    """Swaps engines of the models, given as their profile has them. `home` is the stack's
    folder; `deploy` gives the reference of a task that ends when Serve has taken an engine."""

    def __init__(
        self,
        models: Iterable[ModelSection],
        home: Path,
        wiring: Wiring,
        deploy: Deploy = deploy_engines,
    ) -> None:
        self._deploy = deploy
        self._models = {m.id: m for m in models}
        self._home, self._wiring = home, wiring
        self._busy = threading.Lock()
        for model in self._models.values():
            self._end(_others(model.id, _current(Registry(home, model))))

    def section(self, model: str) -> ModelSection:
        """A model as the running stack's profile has it. NotFound for an unknown one."""
        if model not in self._models:
            raise NotFound("model", model)
        return self._models[model]

    def swap(self, model: str, change: Change, over: str | None, to: str | None) -> None:
        """Have version `to` of a model serve (None: what the profile names) and record `change`;
        returns when the engine before it has ended.

        Whatever is raised, the old one still serves: Conflict when version `over` does not serve
        or another swap is under way, Unavailable when the new engine does not come up,
        DeadlineExceeded when that takes too long.
        """
        if not self._busy.acquire(blocking=False):
            raise Conflict(f"model {model}", "another swap is under way; wait for it")
        try:
            self._swap(Registry(self._home, self.section(model)), model, change, over, to)
        finally:
            self._busy.release()

    def _swap(
        self, registry: Registry, model: str, change: Change, over: str | None, to: str | None
    ) -> None:
        registry.expect(over)
        wanted = registry.whole(to)
        old, new = _current(registry), application_name(wanted)
        self._until_gone(self._end(_others(model, old)))
        with contextlib.ExitStack() as undo:
            undo.callback(self._end, [new])
            ray.get(self._deploy([wanted], self._wiring))
            self._until_listed(wanted)
            registry.record(change, over)
            undo.pop_all()
        log.info("%s serves %s", new, model)
        # A gateway that does not reach the directory believes what it saw for so long.
        time.sleep(LEASE_S)
        self._until_gone(self._end([old]))

    def _until_listed(self, model: ModelSection) -> None:
        """Until the directory lists every replica of the model's new engine."""
        name = application_name(model)
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            application = ray_serve.status().applications.get(name)
            if application is not None and (why := failure(application)):
                raise Unavailable(f"model {model.id}", f"the new engine did not come up: {why}")
            listed = ray.get(find_directory(self._wiring.directory).snapshot.remote())
            if sum(r.application == name for r in listed) >= model.replicas.first:
                return
            time.sleep(_LOOK_S)
        raise DeadlineExceeded(f"the start of {name} (is there room for it?)", START_LIMIT_S)

    def _end(self, applications: list[str]) -> list[str]:
        for name in applications:
            log.info("ending %s", name)
            ray_serve.delete(name, _blocking=False)
        return applications

    def _until_gone(self, applications: list[str]) -> None:
        deadline = time.monotonic() + self._wiring.drain_s + _END_LIMIT_S
        while left := set(applications) & set(ray_serve.status().applications):
            if time.monotonic() > deadline:
                log.warning("still ending: %s", sorted(left))
                return
            time.sleep(_LOOK_S)


def _current(registry: Registry) -> str:
    return application_name(registry.on(registry.current()))


def _others(model: str, keep: str) -> list[str]:
    """The model's applications but one."""
    names: dict[str, Any] = ray_serve.status().applications
    return [n for n in names if n.startswith(application_prefix(model)) and n != keep]
