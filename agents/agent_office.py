"""What callers ask of agents and schedules; the orchestrator is this and more.

An agent is asked for at the orchestrator that owns it, a schedule at the first one.
"""

from collections.abc import Callable
from typing import Any

from agents import control
from agents.events import RunOptions
from agents.journal_sql import SqlJournal
from agents.owners import Owners
from agents.registry import AgentRow, Registry, ScheduleRow
from agents.runs import Runs
from agents.schedules import Schedules
from agents.specs import AgentSpec, ScheduleSpec
from agents.state import AgentState, fold
from cluster.errors import Conflict, NotFound


class AgentOffice:
    """The part of an orchestrator that keeps agents and schedules."""

    _name: str
    _journal: SqlJournal
    _registry: Registry
    _runs: Runs
    _owners: Owners
    _schedules: Schedules | None

    async def submit(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any],
        options: RunOptions | None = None,
    ) -> str:  # fmt: skip
        """See `agents.orchestrator.Orchestrator.submit`."""
        raise NotImplementedError

    async def fork(self, run_id: str, after: int, key: str, agent: str | None = None) -> str:
        """See `agents.control.fork`."""
        raise NotImplementedError

    async def _control(self, what: Callable[..., Any], run_id: str, *args: Any) -> Any:
        raise NotImplementedError

    async def agent(self, tenant: str, agent: str) -> AgentState:
        """What an agent remembers of its ended runs, from the journal."""
        if not self._owns(tenant, agent):
            state: AgentState = await self._at(tenant, agent, "agent", tenant, agent)
            return state
        return await self._runs.agent(tenant, agent)

    async def define_agent(self, tenant: str, spec: AgentSpec) -> AgentRow:
        """See `agents.registry.Registry.define`."""
        if not self._owns(tenant, spec.id):
            made: AgentRow = await self._at(tenant, spec.id, "define_agent", tenant, spec)
            return made
        row = await self._runs.commits.do(self._registry.define, tenant, spec)
        self._runs.forget_agent(tenant, spec.id)
        return row

    async def find_agent(self, tenant: str, agent: str) -> AgentRow:
        """A registered agent; NotFound when there is none."""
        return await self._runs.commits.do(self._registry.agent, tenant, agent)

    async def list_agents(self, tenant: str, after: str, limit: int) -> list[AgentRow]:
        """See `agents.registry.Registry.agents`."""
        return await self._runs.commits.do(self._registry.agents, tenant, after, limit)

    async def replay(self, tenant: str, agent: str) -> tuple[AgentState, int, bool]:
        """An agent's state, folded again from its runs' events; how many these are, and whether it
        is the state that is held. DataError when a run's chain is broken."""
        if not self._owns(tenant, agent):
            found: tuple[AgentState, int, bool] = await self._at(
                tenant, agent, "replay", tenant, agent
            )
            return found
        state, count = AgentState(agent), 0
        for row in await self._runs.commits.do(self._journal.runs, tenant, "ended", agent):
            events = await self._runs.commits.do(self._journal.verified, row.run_id)
            count += len(events)
            state = state.after(fold(row.run_id, events))
        return state, count, state == await self._runs.agent(tenant, agent)

    async def message(self, tenant: str, agent: str, key: str, given: dict[str, Any]) -> str:
        """The run that an agent's message becomes; the same key gives the same run. NotFound for
        an agent that is not registered, Conflict for one that was stopped."""
        row = await self.find_agent(tenant, agent)
        if row.status == "stopped":
            raise Conflict(f"agent {agent}", "it was stopped")
        options = RunOptions(priority=row.spec.priority)
        return await self.submit(tenant, key, row.spec.workflow, agent, given, options)

    async def stop_agent(self, tenant: str, agent: str, by: str) -> int:
        """Take no more messages for an agent and cancel its open runs; how many were."""
        await self._runs.commits.do(self._registry.stop, tenant, agent)
        cancelled = 0
        for row in await self._runs.commits.do(self._journal.runs, tenant, None, agent):
            if row.status in {"open", "waiting", "paused"}:
                await self._control(control.cancel, row.run_id, by, "the agent was stopped")
                cancelled += 1
        return cancelled

    async def fork_agent(
        self, tenant: str, agent: str, spec: AgentSpec, run_id: str, after: int
    ) -> AgentRow:
        """A new agent that remembers what `agent` did up to event `after` of its run `run_id`, and
        goes on with that run by itself. NotFound when the run is not that agent's."""
        theirs = await self._runs.commits.do(self._journal.runs, tenant, None, agent)
        before = [row.run_id for row in theirs]
        if run_id not in before:
            raise NotFound("run", run_id)
        row = await self.define_agent(tenant, spec)
        for earlier in before[: before.index(run_id)]:
            state = await self._runs.state(earlier)
            if state.ended is not None:
                await self._control(
                    control.copy, earlier, f"agent:{spec.id}:{earlier}", spec.id
                )  # fmt: skip
        await self.forget_agent(tenant, spec.id)
        await self.fork(run_id, after, f"agent:{spec.id}:{run_id}", spec.id)
        return row

    async def forget_agent(self, tenant: str, agent: str) -> None:
        """Read from the journal what an agent remembers when it is next asked for."""
        if not self._owns(tenant, agent):
            await self._at(tenant, agent, "forget_agent", tenant, agent)
        self._runs.forget_agent(tenant, agent)

    async def schedule(self, tenant: str, spec: ScheduleSpec) -> ScheduleRow:
        """See `agents.schedules.Schedules.add`."""
        if self._schedules is None:
            row: ScheduleRow = await self._at_first("schedule", tenant, spec)
            return row
        return await self._schedules.add(tenant, spec)

    async def schedules(self, tenant: str) -> list[ScheduleRow]:
        """A tenant's schedules by name."""
        if self._schedules is None:
            rows: list[ScheduleRow] = await self._at_first("schedules", tenant)
            return rows
        return self._schedules.of(tenant)

    async def unschedule(self, tenant: str, name: str) -> None:
        """Keep a schedule no longer. NotFound when there is none."""
        if self._schedules is None:
            await self._at_first("unschedule", tenant, name)
        else:
            await self._schedules.remove(tenant, name)

    def _owns(self, tenant: str, agent: str) -> bool:
        return self._owners.of(tenant, agent) == self._name

    async def _at(self, tenant: str, agent: str, method: str, *args: Any) -> Any:
        """What the owner of this agent answers."""
        return await self._owners.ask(self._owners.of(tenant, agent), method, *args)

    async def _at_first(self, method: str, *args: Any) -> Any:
        return await self._owners.ask(self._owners.names[0], method, *args)
