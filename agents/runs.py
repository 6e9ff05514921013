"""The runs that an orchestrator works with: their states, kept in step with the journal.

Everything is written through here. What is in memory is the fold of what is on disk; when an answer
of the journal was lost, memory is forgotten and folded anew.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from agents.commits import Commits
from agents.events import Event
from agents.journal import Journal, RunRow
from agents.registry import Registry
from agents.specs import AgentSpec
from agents.state import AgentState, RunState, apply, fold
from cluster.errors import NotFound, StaleEpoch

_KEPT_ENDED: Final = 5_000
_KEPT_AGENTS: Final = 10_000
_SNAPSHOT_EVERY: Final = 20


class Runs:
    """States by run and by agent. `owns(tenant, agent)` says whose runs are ours: of others an open
    state is not kept, since nobody says when it moves. `on_move` is told of every state that came
    after another."""

    def __init__(
        self, journal: Journal, registry: Registry, owns: Callable[[str, str], bool]
    ) -> None:
        self.journal = journal
        self.registry = registry
        self._owns = owns
        self.commits = Commits(journal)
        self.on_move: Callable[[RunState], None] = lambda _state: None
        self._open: dict[str, RunState] = {}
        self._ended: OrderedDict[str, RunState] = OrderedDict()
        self._agents: OrderedDict[tuple[str, str], AgentState] = OrderedDict()
        self._specs: OrderedDict[tuple[str, str], AgentSpec | None] = OrderedDict()
        self._watchers: dict[str, set[asyncio.Event]] = {}

    async def state(self, run_id: str) -> RunState:
        """A run's state; NotFound when there is no such run."""
        known = self._open.get(run_id) or self._ended.get(run_id)
        if known is None:
            known = fold(run_id, await self.commits.do(self.journal.read, run_id))
            self._keep(known)
        return known

    async def owned(self, run_id: str, epoch: int) -> RunState:
        """A run's state; StaleEpoch when it is not in this epoch."""
        state = await self.state(run_id)
        if epoch > state.epoch:
            # Another owner has claimed it since; what is in memory is older than that.
            self.forget(run_id)
            state = await self.state(run_id)
        if epoch != state.epoch:
            raise StaleEpoch(f"run {run_id}", f"epoch {epoch} was overtaken by {state.epoch}")
        return state

    async def claim(self, run_id: str, reason: str) -> int:
        """The run's new epoch; see `Journal.claim`."""
        try:
            return await self.commits.do(self.journal.claim, run_id, reason)
        finally:
            # A write whose answer was lost may have been done: the journal knows, memory does not.
            self.forget(run_id)

    async def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any],
        beside: Callable[[], None] | None = None, after: int | None = None,
    ) -> RunState:  # fmt: skip
        """The state after these events; see `Journal.append`. `beside` is written in the same
        transaction."""

        def write() -> list[Event]:
            events = self.journal.append(run_id, epoch, payloads, after)
            if beside is not None:
                beside()
            return events

        await self.state(run_id)
        events = await self.commits.do(write)
        # Again: a turn that timed out may have added to its run while this was being written.
        state = await self.state(run_id)
        for event in events:
            if event.seq == state.seq + 1:
                state = apply(state, event)
        if events and state.seq < events[-1].seq:
            # Somebody else has added to the run, as the command line does.
            self.forget(run_id)
            state = await self.state(run_id)
        self._keep(state)
        if state.ended is not None:
            await self._remember(state)
        for watcher in self._watchers.get(run_id, ()):
            watcher.set()
        self.on_move(state)
        return state

    def forget(self, run_id: str) -> None:
        """Fold the run anew when it is next asked for."""
        self._open.pop(run_id, None)

    async def agent(self, tenant: str, agent: str) -> AgentState:
        """What an agent remembers of its ended runs."""
        key = (tenant, agent)
        if key not in self._agents:
            found = await self.commits.do(self.registry.snapshot, tenant, agent)
            state = found or AgentState(agent)
            # Until a look finds nothing new: a run may end while others are being read.
            while missing := await self._not_in(state, tenant):
                for run_id in missing:
                    state = state.after(await self.state(run_id))
            self._agents[key] = state
            if len(self._agents) > _KEPT_AGENTS:
                self._agents.popitem(last=False)
        self._agents.move_to_end(key)
        return self._agents[key]

    def forget_agent(self, tenant: str, agent: str) -> None:
        """Its runs are other ones now, and it may be registered."""
        self._agents.pop((tenant, agent), None)
        self._specs.pop((tenant, agent), None)

    async def _not_in(self, state: AgentState, tenant: str) -> list[str]:
        rows = await self.commits.do(self.journal.runs, tenant, "ended", state.agent)
        return [row.run_id for row in rows if not state.knows(row.run_id)]

    async def spec(self, tenant: str, agent: str) -> AgentSpec | None:
        """How an agent was registered; None for one that was not."""
        key = (tenant, agent)
        if key not in self._specs:
            try:
                row = await self.commits.do(self.registry.agent, tenant, agent)
                self._specs[key] = row.spec
            except NotFound:
                self._specs[key] = None
            if len(self._specs) > _KEPT_AGENTS:
                self._specs.popitem(last=False)
        return self._specs[key]

    async def events(self, run_id: str, after: int, limit: int) -> list[Event]:
        """See `Journal.read`."""
        return await self.commits.do(self.journal.read, run_id, after, limit)

    @contextmanager
    def watched(self, run_ids: Sequence[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of these runs moves."""
        watcher = asyncio.Event()
        for run_id in run_ids:
            self._watchers.setdefault(run_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            for run_id in run_ids:
                others = self._watchers.get(run_id, set())
                others.discard(watcher)
                if not others:
                    self._watchers.pop(run_id, None)

    async def open_rows(self) -> list[RunRow]:
        """Our runs that have not ended, oldest first."""
        rows = await self.commits.do(self.journal.open_runs)
        return [row for row in rows if self._owns(row.tenant, row.agent)]

    def _keep(self, state: RunState) -> None:
        if state.ended is None:
            if self._owns(state.tenant, state.agent):
                self._open[state.run_id] = state
            return
        self._open.pop(state.run_id, None)
        self._ended[state.run_id] = state
        if len(self._ended) > _KEPT_ENDED:
            self._ended.popitem(last=False)

    async def _remember(self, run: RunState) -> None:
        key = (run.tenant, run.agent)
        if key not in self._agents:
            return
        state = self._agents[key] = self._agents[key].after(run)
        if len(state.turns) % _SNAPSHOT_EVERY == 0:
            await self.commits.do(self.registry.keep_snapshot, run.tenant, state)
