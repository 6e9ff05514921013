"""The orchestrator: owns the journal, decides every step, does allowed ones once.

It sequences, and nothing else: `effects.py` does a step once, `driver.py` works turns, `endings.py`
ends what does not end by itself, `control.py` is what people do to runs, `schedules.py` begins runs
by the clock. A run belongs to the last epoch
that claimed it; writes under an older one are refused. A new life queues what is open; nothing runs
by being recovered alone.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ray.exceptions import GetTimeoutError, RayActorError

from agents import control
from agents.batching import Answer, Batches, Call, answered
from agents.driver import Driver
from agents.effects import Effects, Step
from agents.endings import Endings
from agents.events import Event, RunOptions, WaitBegun, WaitEnded
from agents.facts import Thresholds, facts_for
from agents.journal import RunRow
from agents.journal_sql import SqlJournal
from agents.metrics import Metrics
from agents.placement import Placement, Spawn, no_spawn
from agents.policy import Decision, Policy, Request
from agents.registry import AgentRow, Registry, ScheduleRow
from agents.runs import Runs
from agents.schedules import Schedules
from agents.specs import AgentSpec, ScheduleSpec
from agents.state import AgentState, RunState, fold
from agents.timers import Timers
from agents.turn import Acted, Child
from agents.turn_queue import PRIORITIES
from agents.waits import Came, came
from cluster.errors import (
    Conflict,
    DeadlineExceeded,
    EffectUnknown,
    InvalidInput,
    MainspringError,
    NotFound,
    Overloaded,
    StaleEpoch,
    Unavailable,
)
from cluster.ids import Clock, SystemClock
from cluster.session import actor
from cluster.settings import AgentsSection
from cluster.telemetry import logger

NAME: Final = "orchestrator"
MAX_CHILDREN: Final = 1_000
RESCAN_S: Final = 5.0
_LOOK_AT_ALL: Final = 12

log = logger("orchestrator")


@dataclass(frozen=True)
class Names:
    """The named actors that the orchestrator works with."""

    connector: str
    hosts: tuple[str, ...]


class Orchestrator:
    """A named, single actor; see the module for its rules."""

    def __init__(
        self,
        make_journal: Callable[[], SqlJournal],
        policy: Callable[[], Policy],
        section: AgentsSection,
        thresholds: Thresholds,
        names: Names,
        spawn: Spawn = no_spawn,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._journal = make_journal()
        self._registry = Registry(self._journal, self._clock)
        self._policy = policy()
        self._section = section
        self._thresholds = thresholds
        self._connector_name = names.connector
        self._connector: Any = None
        self._connector_calls = Batches(self._find_connector)
        self._metrics = Metrics()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs = Runs(self._journal, self._registry)
        self._runs.on_move = self._moved
        self._effects = Effects(self._ask, self._runs.append, self._decide)
        endings = Endings(self._runs, self._effects, self._control)
        self._placement = Placement(names.hosts, spawn, self._clock)
        self._driver = Driver(
            self._runs, self._placement, section, self._clock, self._metrics,
            endings.give_up, endings.close,
        )  # fmt: skip
        self._timers = Timers(self._clock, self._look)
        # What an earlier life left open is taken up before anything new, and before any caller.
        rows = self._journal.open_runs()
        for row in rows:
            if row.status == "open":
                self._driver.enqueue(row.run_id, row.tenant, row.agent, row.priority)
        self._in_background(self._look_through(rows))
        self._schedules = Schedules(
            self._registry, self._runs.commits, self._clock, self.submit
        )  # fmt: skip
        self._rescanning = asyncio.get_running_loop().create_task(self._rescan())

    def pid(self) -> int:
        return os.getpid()

    async def open(self) -> int:
        """How many runs are queued or being worked on."""
        return self._driver.open()

    # --- runs

    async def submit(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any],
        options: RunOptions | None = None,
    ) -> str:  # fmt: skip
        """Accept a run and return its id; the same key gives the same run. Overloaded when
        `max_open_runs` want a turn already."""
        if self._driver.open() >= self._section.max_open_runs:
            raise Overloaded("runs", f"{self._section.max_open_runs} are open", 5.0)
        options = options or RunOptions()
        run_id, new = await self._runs.commits.do(
            self._journal.create, tenant, key, workflow, agent, {**given, "tenant": tenant},
            options,
        )  # fmt: skip
        if new:
            self._driver.enqueue(run_id, tenant, agent, options.priority)
            if options.deadline_at is not None:
                self._timers.at(options.deadline_at, run_id)
        return run_id

    async def read(self, run_id: str) -> RunState:
        """A run's state; NotFound when there is none."""
        return await self._runs.state(run_id)

    async def wait(self, run_ids: list[str], timeout_s: float) -> list[RunState]:
        """The states of those runs that have ended; returns when one more ends than at the call,
        when all have, or after `timeout_s` seconds."""
        before = -1
        deadline = self._clock.monotonic() + timeout_s
        with self._runs.watched(run_ids) as moved:
            while True:
                moved.clear()
                states = [await self._runs.state(r) for r in run_ids]
                ended = [s for s in states if s.ended is not None]
                if len(ended) == len(run_ids) or len(ended) > before >= 0:
                    return ended
                before = len(ended) if before < 0 else before
                if not await _set_within(moved, deadline - self._clock.monotonic()):
                    return ended

    async def events(
        self, run_id: str, after: int, timeout_s: float, limit: int = 500
    ) -> tuple[list[Event], bool]:
        """A run's events behind number `after`, waiting up to `timeout_s` seconds for the first,
        and whether the run has ended with them. InvalidInput when it has no event `after`."""
        deadline = self._clock.monotonic() + timeout_s
        with self._runs.watched([run_id]) as moved:
            while True:
                moved.clear()
                state = await self._runs.state(run_id)
                if not 0 <= after <= state.seq:
                    raise InvalidInput("after", after, f"0 to {state.seq}, the run's last event")
                if state.seq > after or state.ended is not None:
                    break
                if not await _set_within(moved, deadline - self._clock.monotonic()):
                    break
        events = await self._runs.events(run_id, after, limit)
        last = events[-1].seq if events else after
        return events, state.ended is not None and last >= state.seq

    async def verify(self, run_id: str) -> int:
        """The number of events in a run's hash chain; DataError where it is broken."""
        return await self._runs.commits.do(self._journal.verify, run_id)

    async def signal(self, run_id: str, name: str, value: dict[str, Any], by: str) -> None:
        """See `agents.control.signal`."""
        await self._control(control.signal, run_id, name, value, by)

    async def pause(self, run_id: str, by: str, reason: str = "") -> None:
        """See `agents.control.pause`."""
        await self._control(control.pause, run_id, by, reason)

    async def resume(self, run_id: str, by: str) -> None:
        """See `agents.control.resume`."""
        await self._control(control.resume, run_id, by)

    async def cancel(self, run_id: str, by: str, reason: str = "", undo: bool = False) -> None:
        """See `agents.control.cancel`."""
        await self._control(control.cancel, run_id, by, reason, undo)

    async def retry(self, run_id: str, by: str) -> str:
        """See `agents.control.retry`."""
        return str(await self._control(control.retry, run_id, by))

    async def fork(self, run_id: str, after: int, key: str, agent: str | None = None) -> str:
        """See `agents.control.fork`."""
        return str(await self._control(control.fork, run_id, after, key, agent))

    async def look_again(self, run_id: str) -> None:
        """Take up a run that was changed in the journal by somebody else. NotFound when there is
        no such run."""
        self._runs.forget(run_id)
        await self._looked(run_id)

    # --- what a turn asks for: agents.turn.Office

    async def many(self, calls: Sequence[Call]) -> AsyncIterator[list[Answer]]:
        """Several calls of these methods; see `agents.batching`."""
        async for answers in answered([getattr(self, method)(*args) for method, args in calls]):
            yield answers

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """See `agents.turn.Office`."""
        await self._runs.append(run_id, epoch, payloads)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """See `agents.turn.Office`. Facts come from the journal, not from the caller."""
        state = await self._runs.owned(run_id, epoch)
        began = self._clock.monotonic()
        outcome = "broken"
        try:
            acted = await self._effects.act(state, Step(step, tool, args))
            outcome = "done" if acted.receipt is not None else acted.decision.answer
            outcome = "refused" if acted.refusal is not None else outcome
            return acted
        except EffectUnknown:
            outcome = "parked"
            self._metrics.parked()
            raise
        finally:
            self._metrics.step(tool, outcome, self._clock.monotonic() - began)

    async def begin_wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        """See `agents.turn.Office`."""
        state = await self._runs.owned(run_id, epoch)
        if state.waiting is None or state.waiting.step != wait.step:
            state = await self._runs.append(run_id, epoch, [wait])
        return await self._come(state)

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        """See `agents.turn.Office`. InvalidInput for more than MAX_CHILDREN."""
        if len(children) > MAX_CHILDREN:
            raise InvalidInput("children", len(children), f"at most {MAX_CHILDREN} runs")
        state = await self._runs.owned(run_id, epoch)
        options = RunOptions(
            priority=state.options.priority, attempts=state.options.attempts, parent=run_id
        )
        # An agent has one turn at a time: children of one agent would only queue up.
        return [
            await self.submit(
                state.tenant, f"child:{run_id}:{step}:{i}", child.workflow,
                child.agent or f"{state.agent}/{step}/{i}", child.input, options,
            )
            for i, child in enumerate(children)
        ]  # fmt: skip

    async def agent(self, tenant: str, agent: str) -> AgentState:
        """What an agent remembers of its ended runs, from the journal."""
        return await self._runs.agent(tenant, agent)

    # --- agents and schedules

    async def define_agent(self, tenant: str, spec: AgentSpec) -> AgentRow:
        """See `agents.registry.Registry.define`."""
        row = await self._runs.commits.do(self._registry.define, tenant, spec)
        self._runs.forget_agent(tenant, spec.id)
        return row

    async def find_agent(self, tenant: str, agent: str) -> AgentRow:
        """A registered agent; NotFound when there is none."""
        return await self._runs.commits.do(self._registry.agent, tenant, agent)

    async def list_agents(self, tenant: str, after: str, limit: int) -> list[AgentRow]:
        """See `agents.registry.Registry.agents`."""
        return await self._runs.commits.do(self._registry.agents, tenant, after, limit)

    async def list_runs(
        self, tenant: str, status: str | None, agent: str | None, limit: int
    ) -> list[RunState]:
        """The states of a tenant's newest runs, the newest first."""
        listed = partial(self._journal.runs, tenant, status, agent, limit=limit)
        rows = await self._runs.commits.do(listed)
        return [await self._runs.state(row.run_id) for row in reversed(rows)]

    async def replay(self, tenant: str, agent: str) -> tuple[AgentState, int, bool]:
        """An agent's state, folded again from its runs' events; how many these are, and whether it
        is the state that is held. DataError when a run's chain is broken."""
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
        self._runs.forget_agent(tenant, spec.id)
        await self.fork(run_id, after, f"agent:{spec.id}:{run_id}", spec.id)
        return row

    async def schedule(self, tenant: str, spec: ScheduleSpec) -> ScheduleRow:
        """See `agents.schedules.Schedules.add`."""
        return await self._schedules.add(tenant, spec)

    async def schedules(self, tenant: str) -> list[ScheduleRow]:
        """A tenant's schedules by name."""
        return self._schedules.of(tenant)

    async def unschedule(self, tenant: str, name: str) -> None:
        """Keep a schedule no longer. NotFound when there is none."""
        await self._schedules.remove(tenant, name)

    async def metrics(self) -> bytes:
        """In Prometheus' text format."""
        counts = await self._runs.commits.do(self._journal.counts)
        queued = {p: self._driver.queue.waiting(p) for p in PRIORITIES}
        return self._metrics.text(counts, queued)

    async def close(self) -> None:
        """Stop all that goes on; nothing is written afterwards."""
        self._rescanning.cancel()
        self._timers.close()
        self._schedules.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._driver.stop()
        self._runs.commits.close()

    # --- inside

    async def _control(self, what: Callable[..., Any], run_id: str, *args: Any) -> Any:
        """Do something to a run in the journal, and look at what follows."""
        result = await self._runs.commits.do(what, self._journal, run_id, *args)
        self._runs.forget(run_id)
        made = [result] if isinstance(result, str) else []
        state = await self._runs.state(run_id)
        if state.status == "paused" or state.cancelled is not None:
            self._driver.break_off(run_id)
        for touched in (run_id, *made):
            await self._looked(touched)
        return result

    async def _rescan(self) -> None:
        """Take up what nobody works on: a run that another owner took and left, that the command
        line changed while we could not be told, or whose timer was another owner's."""
        for count in itertools.count(1):
            await asyncio.sleep(RESCAN_S)
            try:
                rows = await self._runs.commits.do(self._journal.open_runs)
            except MainspringError as error:
                log.warning("open runs can't be listed: %s", error)
                continue
            for row in rows:
                if row.status == "open" and row.run_id not in self._driver:
                    self._runs.forget(row.run_id)
                    self._driver.enqueue(row.run_id, row.tenant, row.agent, row.priority)
            late = self._clock.now() - RESCAN_S
            everything = count % _LOOK_AT_ALL == 0
            await self._look_through(
                [r for r in rows if everything or (r.wait_until or late) < late]
            )

    def _moved(self, state: RunState) -> None:
        if state.ended is not None and state.options.parent:
            self._look(state.options.parent)

    def _look(self, run_id: str) -> None:
        """Look at a run soon: time or another run may have brought what it waits for."""
        self._in_background(self._looked_safely(run_id))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_through(self, rows: Sequence[RunRow]) -> None:
        """Set the timers of what an earlier life left waiting, and end waits whose time has come
        since. One by one: there may be many."""
        for row in rows:
            if row.status != "open":
                self._runs.forget(row.run_id)
            if row.status != "open" or row.deadline_at is not None:
                await self._looked_safely(row.run_id)

    async def _looked_safely(self, run_id: str) -> None:
        try:
            await self._looked(run_id)
        except MainspringError as error:
            log.warning("run %s: %s", run_id, error)
            if not isinstance(error, (StaleEpoch, NotFound)):
                self._timers.at(self._clock.now() + 1.0, run_id)

    async def _looked(self, run_id: str) -> None:
        """Queue the run if it can go on, or set the timer for what can change that."""
        state = await self._runs.state(run_id)
        if state.ended is not None:
            return
        deadline = state.options.deadline_at
        if deadline is not None and state.cancelled is None and not state.parked:
            if deadline <= self._clock.now():
                await self._control(
                    control.cancel, run_id, NAME, "its deadline has passed", False, "failed"
                )
                return
            self._timers.at(deadline, run_id)
        if state.status == "waiting":
            await self._come(state)
            state = await self._runs.state(run_id)
        if state.status == "open":
            self._driver.enqueue_state(state)

    async def _come(self, state: RunState) -> Came | None:
        """End the run's wait when what it waits for has come; else set its timer."""
        wait = state.waiting
        while state.waiting is not None and wait is not None and state.ended is None:
            others = [await self._runs.state(r) for r in wait.runs]
            found = came(state, self._clock.now(), others)
            if found is None:
                if wait.until is not None:
                    self._timers.at(wait.until, state.run_id)
                return None
            ended = WaitEnded(step=wait.step, value=found.value)
            try:
                await self._runs.append(state.run_id, state.epoch, [ended], after=state.seq)
                return found
            except StaleEpoch:
                raise
            except Conflict:
                # Something came in between: a signal, or the end of this very wait.
                self._runs.forget(state.run_id)
                state = await self._runs.state(state.run_id)
        known = wait is not None and wait.step in state.waited
        return Came(state.waited[wait.step]) if wait is not None and known else None

    async def _decide(self, state: RunState, step: Step) -> Decision:
        agent = await self._runs.agent(state.tenant, state.agent)
        facts = facts_for(step.tool, step.args, state, agent, self._thresholds)
        return self._policy.decide(Request(step.tool, str(state.input.get("ticket", "")), facts))

    async def _ask(self, method: str, *args: Any) -> Any:
        """Call the connector; its own errors come through, a lost or slow one is Unavailable."""
        timeout = self._section.connector_timeout_s
        try:
            return await asyncio.wait_for(self._connector_calls.do(method, *args), timeout)
        except (RayActorError, GetTimeoutError) as error:
            raise Unavailable("connector", type(error).__name__) from error
        except TimeoutError:
            raise DeadlineExceeded(f"connector {method}", timeout) from None

    def _find_connector(self) -> Any:
        if self._connector is None:
            self._connector = actor(self._connector_name)
        return self._connector


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
