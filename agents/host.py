"""The agent host: a Ray actor that holds agents and works their turns.

An agent's state is the fold of its ended runs. The host keeps it between turns; an agent that was
not asked for a while is put to sleep, and activated again from the journal. Two turns of one agent
never run at once.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from weakref import WeakValueDictionary

import ray

from agents.chat import on_behalf
from agents.events import WaitBegun
from agents.links import Link
from agents.specs import AgentSpec
from agents.state import AgentState, RunState
from agents.turn import Acted, Child, Suspended, Turn
from agents.waits import Came
from cluster import telemetry, tracing
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.session import NAMESPACE, actor

Workflow = Callable[[Turn], Awaitable[None]]
log = telemetry.logger("host")

_MAX_AGENTS: Final = 10_000
IDLE_S: Final = 300.0


class RemoteOffice:
    """`agents.turn.Office` over the orchestrator of this name; its handle outlives its restarts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: Any = None
        self._calls = Link(self._orchestrator)

    def _orchestrator(self) -> Any:
        if self._found is None:
            self._found = actor(self._name)
        return self._found

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        await self._calls.do("append", run_id, epoch, payloads)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        acted: Acted = await self._calls.do("act", run_id, epoch, step, tool, args)
        return acted

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        found: Came | None = await self._calls.do("begin_wait", run_id, epoch, wait)
        return found

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        ids: list[str] = await self._calls.do("spawn", run_id, epoch, step, list(children))
        return ids

    async def agent(self, tenant: str, agent: str) -> AgentState:
        state: AgentState = await self._calls.do("agent", tenant, agent)
        return state

    async def run(self, run_id: str) -> RunState:
        state: RunState = await self._calls.do("read", run_id)
        return state


def start_host(make_workflows: Callable[[], dict[str, Workflow]], idle_s: float, name: str) -> Any:
    """The host actor of this name; it is started when there is none. It restarts by itself, and no
    call of it is repeated by Ray: what may be done again is for the orchestrator to know."""
    return (
        ray.remote(AgentHost)
        .options(
            name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_task_retries=0, max_concurrency=1000,
        )
        .remote(make_workflows, idle_s)
    )  # fmt: skip


class AgentHost:
    """Works turns. `make_workflows` builds, inside the actor, the workflows by name."""

    def __init__(
        self, make_workflows: Callable[[], dict[str, Workflow]], idle_s: float = IDLE_S
    ) -> None:
        self._workflows = make_workflows()
        self._offices: dict[str, RemoteOffice] = {}
        self._clock = SystemClock()
        self._idle_s = idle_s
        # By when they were last asked for, the longest ago first.
        self._agents: OrderedDict[tuple[str, str], AgentState] = OrderedDict()
        self._asked: dict[tuple[str, str], float] = {}
        # A lock lives as long as a turn holds or awaits it.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def pid(self) -> int:
        return os.getpid()

    async def awake(self) -> int:
        """How many agents are held."""
        self._put_to_sleep()
        return len(self._agents)

    async def work(
        self, run: RunState, epoch: int, owner: str, spec: AgentSpec | None = None
    ) -> None:
        """Work on `run` under `epoch` of the orchestrator `owner` until it ends or waits.
        InvalidInput for an unknown workflow."""
        workflow = self._workflows.get(run.workflow)
        if workflow is None:
            raise InvalidInput("workflow", run.workflow, f"one of {sorted(self._workflows)}")
        key = (run.tenant, run.agent)
        office = self._office(owner)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            agent = await self.agent(owner, *key)
            billed, named = on_behalf.set(_payer(run)), telemetry.run_id.set(run.run_id)
            began = self._clock.monotonic()
            try:
                with _traced(run) as span:
                    try:
                        await workflow(Turn(run, epoch, agent, office, self._clock, spec))
                    except Suspended:
                        span.set(mainspring__suspended=True)
                        log.info("%s waits", run.workflow)
                        return
                    seconds = self._clock.monotonic() - began
                    log.info("%s worked in %.2f s", run.workflow, seconds)
            finally:
                on_behalf.reset(billed)
                telemetry.run_id.reset(named)
            self._agents[key] = agent.after(await office.run(run.run_id))

    async def agent(self, owner: str, tenant: str, agent: str) -> AgentState:
        """The state of one agent, from memory or from its owner."""
        key = (tenant, agent)
        if key not in self._agents:
            self._agents[key] = await self._office(owner).agent(*key)
        self._agents.move_to_end(key)
        self._asked[key] = self._clock.monotonic()
        self._put_to_sleep()
        return self._agents[key]

    def _office(self, owner: str) -> RemoteOffice:
        return self._offices.setdefault(owner, RemoteOffice(owner))

    def _put_to_sleep(self) -> None:
        """Let go of who was not asked for a while, and of the longest idle ones when too many."""
        since = self._clock.monotonic() - self._idle_s
        while self._agents:
            key = next(iter(self._agents))
            if len(self._agents) <= _MAX_AGENTS and self._asked[key] > since:
                return
            del self._agents[key], self._asked[key]


def _traced(run: RunState) -> AbstractContextManager[tracing.Span]:
    """A turn, in the trace of its run."""
    return tracing.span(
        f"invoke_agent {run.workflow}", "internal", tracing.of_run(run.run_id),
        gen_ai__operation__name="invoke_agent", gen_ai__agent__name=run.workflow,
        gen_ai__agent__id=run.agent, mainspring__run_id=run.run_id, mainspring__tenant=run.tenant,
    )  # fmt: skip


def _payer(run: RunState) -> dict[str, str]:
    return {
        "tenant": run.tenant, "agent": run.agent, "run": run.run_id, "workflow": run.workflow,
    }  # fmt: skip
