"""One machine in one process: the real orchestrator, host, connector and journal, without Ray.

What crosses an actor's border is pickled, as Ray would. Every border and every journal write is
a named point where a fault can be planted:
  Crash       everything in memory is gone; files stay
  HostLost    the agent host's process died
  any error   is raised there
"""

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from ray.exceptions import RayActorError

from agents.batching import Answer, Call
from agents.events import Event
from agents.guarding import mint, pack_guard
from agents.host import AgentHost, Workflow
from agents.journal_sql import SqlJournal
from agents.orchestrator import Names, Orchestrator
from agents.owners import orchestrator_names
from agents.pack_connector import PackConnector
from agents.packs import load
from agents.policy import Policy
from agents.state import RunState
from cluster.errors import Unavailable
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AgentsSection, ApprovalsSection
from tests.fakes import POLICY, THRESHOLDS, connector, ticket

GOVERNED: Final[dict[str, Any]] = {
    "autonomy": {"*": 2}, "approvals": ApprovalsSection(asks="hand_over"), "packs": (),
}  # fmt: skip
"""Workflows go by the policy, and what it wants asked is handed over; there are no packs."""
TICKETS: Final = ("T-001", "T-002", "T-003", "T-006")
"""What stands on the desk of a world that `Worlds` makes."""


def policy() -> Policy:
    """The shipped one, in which `support` may assign as well: a write that can be undone."""
    source = POLICY.read_text("utf-8").replace(
        'Agent::"triage", action == Action::"assign"',
        'Agent::"support", action == Action::"assign"',
    )
    return Policy(source, POLICY.with_suffix(".cedarschema").read_text("utf-8"), "tests")


class Crash(BaseException):
    """Not an Exception: nobody catches a power cut."""


class HostLost(BaseException):
    """The host's process is gone; its caller sees Ray's RayActorError."""


class World:
    """`faults` maps a point's name to the errors to raise there, one a passing. `trace` lists the
    points that were passed."""

    def __init__(
        self, folder: Path, workflow: Workflow, section: AgentsSection, **others: Workflow
    ) -> None:
        self.packs = load(section.packs)
        self.faults: dict[str, list[BaseException]] = {}
        self.trace: list[str] = []
        self.dead = False
        self.hosts = 0
        self.folder = folder
        self._workflows = {"support": workflow, **others}
        self._section = section
        self._actors: dict[str, Any] = {}
        asyncio.get_running_loop().set_exception_handler(_quiet_crashes)
        self.start()

    def start(self) -> None:
        """A new life on the same files."""
        self.dead = False
        self.connector = self.open_connector()
        self.journals: list[PointedJournal] = []
        names = Names(
            "connector", ("host-0", "host-1"), orchestrator_names(self._section.orchestrators)
        )
        self.orchestrators = [
            Orchestrator(
                partial(self._journal_of, number), self.load_policy,
                partial(mint, self.folder, 30.0), self._section,
                THRESHOLDS, names, number=number, packs=lambda: self.packs,
            )
            for number in range(len(names.orchestrators))
        ]  # fmt: skip
        self.orchestrator = self.orchestrators[0]
        self._actors = dict(zip(names.orchestrators, self.orchestrators, strict=True))
        self._actors["connector"] = self.connector
        for name, pack in zip(self._section.packs, self.packs.values(), strict=True):
            guarded = partial(pack_guard, self.folder, pack.name)
            self._actors[pack.actor] = PackConnector(name, self.folder, guarded)

    def desk(self, pack: str) -> Any:
        """That of a pack's connector."""
        return self._actors[self.packs[pack].actor]._desk

    def open_connector(self) -> Any:
        """What does the effects."""
        return connector(self.folder)

    def load_policy(self) -> Any:
        """What decides."""
        return self.packs.policy(POLICY) if self.packs else policy()

    @property
    def journal(self) -> "PointedJournal":
        """The first orchestrator's."""
        return self.journals[0]

    def _journal_of(self, number: int) -> "PointedJournal":
        assert number == len(self.journals)
        self.journals.append(PointedJournal(self, self.folder))
        return self.journals[-1]

    def actor(self, name: str) -> "Handle":
        """What `cluster.session.actor` gives; a host is started when it is first asked for."""
        if name.startswith("host") and name not in self._actors:
            self.hosts += 1
            self._actors[name] = AgentHost(lambda: self._workflows)
        if name not in self._actors:
            raise Unavailable(f"actor {name}", "it is not running")
        return Handle(self, name)

    def target(self, name: str) -> Any:
        self.actor(name)
        return self._actors[name]

    def lose(self, name: str) -> None:
        """Drop the actor, with all that it held in memory."""
        self._actors.pop(name, None)

    def point(self, name: str) -> None:
        if self.dead:
            raise Crash
        self.trace.append(name)
        planted = self.faults.get(name)
        if planted:
            fault = planted.pop(0)
            self.dead = self.dead or isinstance(fault, Crash)
            raise fault

    async def submit(self, key: str, ticket: str, agent: str = "support/C-1006") -> str:
        given = {"ticket": ticket, "head": "support"}
        return await self.orchestrator.submit("default", key, "support", agent, given)

    async def ended(self, *run_ids: str) -> list[RunState]:
        """The states of these runs once all have ended; TimeoutError when they do not."""
        async with asyncio.timeout(20):
            while True:
                states = await self.orchestrator.wait(list(run_ids), 0.5)
                if len(states) == len(run_ids):
                    return states

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.002)

    async def stop(self) -> None:
        """End this life: no task of it runs on."""
        self.dead = True
        for orchestrator, journal in zip(self.orchestrators, self.journals, strict=True):
            await orchestrator.close()
            journal.close()
        self.connector._desk.close()
        for pack in self.packs.values():
            self._actors[pack.actor]._desk.close()


class Worlds:
    """Makes worlds, with tickets on their desks, and ends what of them is left. `usual` is the
    workflow of a world that is asked for without one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, usual: Workflow) -> None:
        self._folder, self._monkeypatch, self._usual = folder, monkeypatch, usual
        self.made: list[World] = []

    def make(
        self,
        work: Workflow | None = None,
        others: Mapping[str, Workflow] | None = None,
        **section: Any,
    ) -> World:
        settings = AgentsSection(**{**GOVERNED, **section})
        world = World(self._folder, work or self._usual, settings, **(others or {}))
        connect(self._monkeypatch, world)
        world.connector.open_tickets([ticket(n) for n in TICKETS])
        self.made.append(world)
        return world

    async def stop(self) -> None:
        for world in self.made:
            await world.stop()


class PointedJournal(SqlJournal):
    """A journal whose writes are points of the world."""

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__("sqlite:///journal.db", folder, SystemClock(), SystemIds())
        self._world = world
        self._done: list[str] = []

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        self._done.clear()
        results = super().together(work)
        for point in self._done:
            self._world.point(point)
        return results

    def create(self, *args: Any) -> tuple[str, bool]:
        self._world.point("before create")
        created = super().create(*args)
        self._done.append("after create")
        return created

    def claim(self, run_id: str, reason: str) -> int:
        self._world.point("before claim")
        epoch = super().claim(run_id, reason)
        self._done.append("after claim")
        return epoch

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        what = "+".join(_label(p) for p in payloads)
        self._world.point(f"before append {what}")
        events = super().append(run_id, epoch, payloads, after)
        self._done.append(f"after append {what}")
        return events


class Handle:
    """An actor's handle: `.method.remote(...)` starts the call and returns an awaitable."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    def __getattr__(self, method: str) -> "Method":
        return Method(self._world, self._name, method)


class Method:
    def __init__(self, world: World, name: str, method: str) -> None:
        self._world = world
        self._name = name
        self._method = method

    def options(self, **_: Any) -> "Method":
        return self

    def remote(self, *args: Any) -> Any:
        if self._method == "many":
            return self._many(args[0])
        return asyncio.ensure_future(self._call(args))

    async def _many(self, calls: list[Call]) -> AsyncIterator[Awaitable[Any]]:
        """As a Ray actor streams: answers by reference, each of them pickled on its way."""
        for method, args in calls:
            self._world.point(f"before {self._label(method, args)}")
        target = self._world.target(self._name)
        answers = target.many(_crossed(calls))
        if isinstance(answers, AsyncIterator):
            async for answered in answers:
                yield self._given(calls, answered)
            return
        for answered in answers:
            yield self._given(calls, answered)

    async def _given(self, calls: list[Call], answered: list[Answer]) -> list[Answer]:
        for answer in answered:
            if answer.error is None:
                self._world.point(f"after {self._label(*calls[answer.index])}")
        given: list[Answer] = _crossed(answered)
        return given

    async def _call(self, args: tuple[Any, ...]) -> Any:
        if self._method == "listening":
            return None  # all calls come by here
        label = self._label(self._method, args)
        self._world.point(f"before {label}")
        target = self._world.target(self._name)
        try:
            result = getattr(target, self._method)(*_crossed(args))
            if inspect.isawaitable(result):
                result = await result
        except HostLost:
            if not self._name.startswith("host"):
                raise
            self._world.lose(self._name)
            raise RayActorError from None
        except Exception as error:
            raise _crossed(error) from None
        self._world.point(f"after {label}")
        return _crossed(result)

    def _label(self, method: str, args: tuple[Any, ...]) -> str:
        who = self._name.partition("-")[0]
        if method == "act":
            return f"{who} act {args[2]}"
        if method == "append":
            return f"{who} append {'+'.join(_label(p) for p in args[2])}"
        if method == "call":
            return f"{who} {args[0]}"
        return f"{who} {method}"


def _label(payload: Any) -> str:
    name = getattr(payload, "step", "") or getattr(payload, "phase", "")
    return f"{payload.kind} {name}".strip()


def _quiet_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)


def _crossed(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def connect(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Let orchestrator and host find each other in `world`, and retry without waiting."""
    for module in ("orchestrator", "owners", "placement", "host"):
        monkeypatch.setattr(f"agents.{module}.actor", world.actor)
    monkeypatch.setattr("agents.driver._BACKOFF_S", 0.001)
    monkeypatch.setattr("agents.driver._MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr("agents.effects._ASK_AGAIN_S", (0.001,) * 6)
    monkeypatch.setattr("ray.cancel", lambda *_args, **_options: None)
