"""The agent host: a Ray actor that holds agents and works their turns.

An agent's state is the fold of its finished runs. The host keeps it between turns; after a
restart it asks the journal for it again. Two turns of one agent never run at once.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from agents.orchestrator import NAME as ORCHESTRATOR
from agents.state import AgentState, RunState
from agents.turn import Acted, Turn
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.session import actor

Workflow = Callable[[Turn], Awaitable[None]]
_MAX_AGENTS: Final = 10_000


class RemoteOffice:
    """`agents.turn.Office` over the named orchestrator; its handle outlives its restarts."""

    def __init__(self) -> None:
        self._found: Any = None

    @property
    def _orchestrator(self) -> Any:
        if self._found is None:
            self._found = actor(ORCHESTRATOR)
        return self._found

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        await self._orchestrator.append.remote(run_id, epoch, payloads)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        acted: Acted = await self._orchestrator.act.remote(run_id, epoch, step, tool, args)
        return acted

    async def agent(self, tenant: str, agent: str) -> AgentState:
        state: AgentState = await self._orchestrator.agent.remote(tenant, agent)
        return state

    async def run(self, run_id: str) -> RunState:
        state: RunState = await self._orchestrator.read.remote(run_id)
        return state


class AgentHost:
    """Works turns. `make_workflows` builds, inside the actor, the workflows by name."""

    def __init__(self, make_workflows: Callable[[], dict[str, Workflow]]) -> None:
        self._workflows = make_workflows()
        self._office = RemoteOffice()
        self._clock = SystemClock()
        self._agents: OrderedDict[str, AgentState] = OrderedDict()
        # A lock lives as long as a turn holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def pid(self) -> int:
        return os.getpid()

    async def work(self, run: RunState, epoch: int) -> None:
        """Work on `run` under `epoch` until it ends. InvalidInput for an unknown workflow."""
        workflow = self._workflows.get(run.workflow)
        if workflow is None:
            raise InvalidInput("workflow", run.workflow, f"one of {sorted(self._workflows)}")
        key = f"{run.input['tenant']}/{run.agent}"
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            agent = await self._agent(key, str(run.input["tenant"]), run.agent)
            await workflow(Turn(run, epoch, agent, self._office, self._clock))
            self._agents[key] = agent.after(await self._office.run(run.run_id))

    async def agent(self, tenant: str, agent: str) -> AgentState:
        """The state of one agent, from memory or from the journal."""
        return await self._agent(f"{tenant}/{agent}", tenant, agent)

    async def _agent(self, key: str, tenant: str, agent: str) -> AgentState:
        if key not in self._agents:
            self._agents[key] = await self._office.agent(tenant, agent)
            while len(self._agents) > _MAX_AGENTS:
                self._agents.popitem(last=False)
        self._agents.move_to_end(key)
        return self._agents[key]
