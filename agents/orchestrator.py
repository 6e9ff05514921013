"""The orchestrator: owns the journal, decides every step, does allowed ones once.

It sequences, and nothing else: `effects.py` does a step once, `driver.py` works turns,
`recovery.py` sees who goes on when, `endings.py` ends what does not end by itself, `schedules.py`
begins runs by the clock; `people_office.py` and `agent_office.py` are what people and callers ask
for. A run belongs to the last epoch that claimed it; writes under an older one are refused. A new
life queues what is open; nothing runs by being recovered alone. Several orchestrators share the
runs by agent (`owners.py`).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ray
from prometheus_client.core import Metric
from ray.exceptions import GetTimeoutError, RayActorError

from agents.agent_office import AgentOffice
from agents.approvals import Approvals, Asking
from agents.audit import Audit, Seals
from agents.autonomy import Autonomy
from agents.batching import Answer, Call, answered
from agents.driver import Driver
from agents.effects import Effects, Step
from agents.endings import Endings
from agents.events import Event, RunOptions, WaitBegun
from agents.facts import Standing, Thresholds, facts_for
from agents.intents import Mint
from agents.journal_sql import SqlJournal
from agents.links import Address, Link, Listener, performed
from agents.list_office import ListOffice
from agents.listed import Listed
from agents.meters import Meters
from agents.metrics import METRICS_S, Metrics, as_text
from agents.origins import Known, outside
from agents.owners import NAME, TIMEOUT_S, Owners
from agents.packs import Packs
from agents.people_office import PeopleOffice
from agents.placement import Placement, Spawn, no_spawn
from agents.policy import Decision, Policy, Request
from agents.recovery import Recovery
from agents.registry import Registry
from agents.runs import Runs
from agents.schedules import Schedules
from agents.state import RunState
from agents.toolbox import Toolbox, of_server
from agents.tools import pack_of
from agents.turn import Acted, Child
from agents.turn_queue import PRIORITIES
from agents.waits import Came
from cluster import tracing
from cluster.errors import (
    DeadlineExceeded,
    EffectUnknown,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from cluster.ids import Clock, SystemClock
from cluster.session import actor
from cluster.settings import AgentsSection
from cluster.telemetry import logger

MAX_CHILDREN: Final = 1_000
_POLL_S: Final = 0.25

log = logger("orchestrator")


@dataclass(frozen=True)
class Names:
    """The named actors that an orchestrator works with, and those that share the runs."""

    connector: str
    hosts: tuple[str, ...]
    orchestrators: tuple[str, ...] = (NAME,)
    servers: str = "servers"


class Orchestrator(PeopleOffice, AgentOffice, ListOffice):
    """A named actor, `number` of those in `names`; see the module for its rules."""

    def __init__(
        self,
        make_journal: Callable[[], SqlJournal],
        policy: Callable[[], Policy],
        mint: Callable[[], Mint],
        section: AgentsSection,
        thresholds: Thresholds,
        names: Names,
        spawn: Spawn = no_spawn,
        clock: Clock | None = None,
        number: int = 0,
        audit: Callable[[SqlJournal], Audit] | None = None,
        packs: Callable[[], Packs] = Packs,
        desks: Spawn | None = None,
    ) -> None:
        """`desks` finds the connector of a pack by its actor's name, or starts it."""
        self._clock = clock or SystemClock()
        self._journal = make_journal()
        self._registry = Registry(self._journal, self._clock)
        self._packs = packs()
        self._read_policy = policy
        self._policy = policy()
        self._section = section
        self._thresholds = thresholds
        self._connectors: dict[str, Any] = {}
        self._connector_calls = Link(partial(self._find_connector, names.connector))
        self._server_calls = Link(partial(self._find_connector, names.servers))
        self._pack_calls = {
            pack.name: Link(partial(self._find_connector, pack.actor, desks))
            for pack in self._packs.values()
        }
        self._toolbox = Toolbox(section.servers)
        self._listener = Listener(partial(performed, self))
        self._owners = Owners(names.orchestrators)
        self._name = names.orchestrators[number]
        self._metrics = Metrics(self._name)
        self._runs = Runs(self._journal, self._registry, self._owns)
        self._runs.on_move = self._moved
        commits = self._runs.commits
        self._meters = Meters(self._journal, commits, self._clock)
        self._autonomy = Autonomy(section.autonomy, self._journal, commits, self._clock)
        self._listed = Listed(self._journal)
        self._approvals = Approvals(self._journal, self._clock)
        asking = Asking(section.approvals, self._clock)
        self._effects = Effects(
            self._ask, self._runs.append, self._decide, mint(), self._meters, self._approvals,
            asking, self._clock, section.max_rate_wait_s, self._toolbox,
        )  # fmt: skip
        endings = Endings(self._runs, self._effects, self._control)
        self._placement = Placement(names.hosts, spawn, self._clock)
        shares = len(names.orchestrators)
        self._max_open_runs = max(1, section.max_open_runs // shares)
        self._driver = Driver(
            self._runs, self._placement, section, self._clock, self._metrics,
            endings.give_up, endings.close, self._name, shares,
        )  # fmt: skip
        rows = [r for r in self._journal.open_runs() if self._owns(r.tenant, r.agent)]
        self._recovery = Recovery(
            self._runs, self._driver, self._clock, self._control, self._passed_on, rows, asking
        )
        # One of them seals what all have journaled, and looks at the clock.
        first = self._name == self._owners.names[0]
        self._seals = (
            Seals(audit(self._journal), self._listed, commits) if audit and first else None
        )
        self._schedules = (
            Schedules(self._registry, self._runs.commits, self._clock, self.submit)
            if first
            else None
        )

    def pid(self) -> int:
        return os.getpid()

    async def open(self) -> int:
        """How many runs are queued or being worked on."""
        return self._driver.open()

    async def drain(self, on: bool) -> int:
        """Begin no more turns, or take that back; how many are being worked on. A new life of the
        orchestrator begins turns again."""
        return self._driver.hold(on)

    # --- runs

    async def submit(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any],
        options: RunOptions | None = None,
    ) -> str:  # fmt: skip
        """Accept a run and return its id; the same key gives the same run. Overloaded when
        `max_open_runs` want a turn already."""
        if not self._owns(tenant, agent):
            return str(
                await self._at(
                    tenant, agent, "submit", tenant, key, workflow, agent, given, options
                )
            )
        if self._driver.open() >= self._max_open_runs:
            raise Overloaded("runs", f"{self._max_open_runs} are open", 5.0)
        options = options or RunOptions()
        run_id, new = await self._runs.commits.do(
            self._journal.create, tenant, key, workflow, agent, {**given, "tenant": tenant},
            options,
        )  # fmt: skip
        if new:
            self._driver.enqueue(run_id, tenant, agent, options.priority)
            if options.deadline_at is not None:
                self._recovery.timers.at(options.deadline_at, run_id)
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
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return ended
                # Nobody tells us when another owner's run moves.
                ours = all(self._owns(s.tenant, s.agent) for s in states)
                await _set_within(moved, left if ours else min(left, _POLL_S))

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
                if not self._owns(state.tenant, state.agent):
                    return await self._followed_at_its_owner(state, after, timeout_s, limit)
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

    async def look_again(self, run_id: str) -> None:
        """Take up a run that was changed in the journal by somebody else. NotFound when there is
        no such run."""
        self._runs.forget(run_id)
        state = await self._runs.state(run_id)
        if state.status == "paused" or state.cancelled is not None:
            self._driver.break_off(run_id)
        await self._recovery.looked(run_id)

    # --- what a turn asks for: agents.turn.Office

    async def listening(self) -> Address | None:
        """Where hosts of this machine call it; None outside of Ray."""
        return await self._listener.address() if ray.is_initialized() else None

    async def many(self, calls: Sequence[Call]) -> AsyncIterator[list[Answer]]:
        """Several calls of these methods; see `agents.batching`."""
        async for answers in answered([getattr(self, method)(*args) for method, args in calls]):
            yield answers

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """See `agents.turn.Office`."""
        await self._runs.append(run_id, epoch, payloads)
        self._metrics.told(payloads)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """See `agents.turn.Office`. Facts come from the journal, not from the caller."""
        state = await self._runs.owned(run_id, epoch)
        began = self._clock.monotonic()
        outcome = "broken"
        span = tracing.begin(
            f"execute_tool {tool}", parent=tracing.of_run(run_id),
            gen_ai__operation__name="execute_tool", gen_ai__tool__name=tool,
            mainspring__step=step, mainspring__run_id=run_id,
            mainspring__workflow=state.workflow, mainspring__tenant=state.tenant,
        )  # fmt: skip
        try:
            with tracing.within(span):
                acted = await self._effects.act(state, Step(step, tool, args))
            outcome = "done" if acted.receipt is not None else acted.decision.answer
            outcome = "refused" if acted.refusal is not None else outcome
            decision = acted.decision
            span.set(mainspring__decision=decision.answer, mainspring__rule=decision.rule)
            return acted
        except EffectUnknown:
            outcome = "parked"
            self._metrics.parked()
            raise
        finally:
            self._metrics.step(tool, outcome, self._clock.monotonic() - began)
            span.set(mainspring__outcome=outcome)
            span.end(outcome if outcome in {"broken", "parked"} else "")

    async def begin_wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        """See `agents.turn.Office`."""
        state = await self._runs.owned(run_id, epoch)
        if state.waiting is None or state.waiting.step != wait.step:
            state = await self._runs.append(run_id, epoch, [wait])
        return await self._recovery.come(state)

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        """See `agents.turn.Office`. InvalidInput for more than MAX_CHILDREN."""
        if len(children) > MAX_CHILDREN:
            raise InvalidInput("children", len(children), f"at most {MAX_CHILDREN} runs")
        state = await self._runs.owned(run_id, epoch)
        options, known = state.options, Known.of(state)
        # An agent has one turn at a time: children of one agent would only queue up.
        return [
            await self.submit(
                state.tenant, f"child:{run_id}:{step}:{i}", child.workflow,
                child.agent or f"{state.agent}/{step}/{i}", child.input,
                RunOptions(
                    priority=child.priority or options.priority, attempts=options.attempts,
                    parent=run_id, untrusted=outside(child.input, known),
                ),
            )
            for i, child in enumerate(children)
        ]  # fmt: skip

    async def metrics(self) -> bytes:
        """Those of all orchestrators in Prometheus' text format; one that is away has none."""
        others = [n for n in self._owners.names if n != self._name]
        asked = [self._owners.ask(n, "own_metrics", timeout_s=METRICS_S) for n in others]
        told = await asyncio.gather(*asked, return_exceptions=True)
        counts = await self._runs.commits.do(self._journal.counts)
        families = [t for t in told if not isinstance(t, BaseException)]
        approvals = await self._runs.commits.do(self._approvals.waiting)
        return as_text([*families, await self.own_metrics()], counts, approvals)

    async def own_metrics(self) -> list[Metric]:
        """What this orchestrator has counted."""
        return self._metrics.collect({p: self._driver.queue.waiting(p) for p in PRIORITIES})

    async def close(self) -> None:
        """Stop all that goes on; nothing is written afterwards."""
        if self._schedules is not None:
            self._schedules.close()
        if self._seals is not None:
            await self._seals.close()
        await self._recovery.close()
        await self._driver.stop()
        self._runs.commits.close()

    # --- inside

    async def _passed_on(self, state: RunState) -> bool:
        """See `agents.recovery.PassOn`. An owner that is away looks by itself when it is back."""
        if self._owns(state.tenant, state.agent):
            return False
        try:
            await self._at(state.tenant, state.agent, "look_again", state.run_id)
        except (Unavailable, DeadlineExceeded) as error:
            log.warning("run %s: %s", state.run_id, error)
        return True

    async def _followed_at_its_owner(
        self, state: RunState, after: int, timeout_s: float, limit: int
    ) -> tuple[list[Event], bool]:
        owner = self._owners.of(state.tenant, state.agent)
        told: tuple[list[Event], bool] = await self._owners.ask(
            owner, "events", state.run_id, after, timeout_s, limit, timeout_s=timeout_s + TIMEOUT_S
        )
        return told

    async def _control(self, what: Callable[..., Any], run_id: str, *args: Any) -> Any:
        """Do something to a run in the journal, and look at what follows."""
        result = await self._runs.commits.do(what, self._journal, run_id, *args)
        for touched in (run_id, *([result] if isinstance(result, str) else [])):
            await self.look_again(touched)
        return result

    def _moved(self, state: RunState) -> None:
        if state.waiting is not None and state.waiting.until is not None:
            self._recovery.timers.at(state.waiting.until, state.run_id)
        if state.ended is not None:
            self._metrics.ended(state)
        if state.ended is not None and state.options.parent:
            self._recovery.look(state.options.parent)

    async def read_policy(self) -> None:
        """Decide by the policy as its files have it now. ConfigError, and nothing changes, when it
        is wrong."""
        self._policy = await asyncio.to_thread(self._read_policy)

    async def _decide(self, state: RunState, step: Step, settled: Collection[str]) -> Decision:
        agent = await self._runs.agent(state.tenant, state.agent)
        used = await self._meters.used(state.tenant, step.tool)
        level = await self._autonomy.level(state.tenant, state.workflow)
        standing = Standing(level, used.hour_count, used.day_cents, int(used.frees_at) + 1)
        facts = facts_for(step.tool, step.args, state, agent, self._thresholds, standing)
        if of_server(step.tool):
            facts |= self._toolbox.facts(step.tool, state.workflow)
        facts |= self._packs.facts(step.tool, step.args, state, standing)
        return self._policy.decide(
            Request(step.tool, state.subject, facts, state.workflow), settled
        )

    async def _ask(self, tool: str, method: str, *args: Any) -> Any:
        """Call a tool's connector; its own errors come through, a lost or slow one is
        Unavailable."""
        timeout = self._toolbox.timeout_s(tool, self._section.connector_timeout_s)
        calls = self._server_calls if of_server(tool) else self._connector_calls
        calls = self._pack_calls.get(pack_of(tool), calls)
        try:
            async with asyncio.timeout(timeout):
                return await calls.do(method, *args)
        except (RayActorError, GetTimeoutError) as error:
            raise Unavailable("connector", type(error).__name__) from error
        except TimeoutError:
            raise DeadlineExceeded(f"connector {method}", timeout) from None

    def _find_connector(self, name: str, find: Spawn | None = None) -> Any:
        if name not in self._connectors:
            self._connectors[name] = (find or actor)(name)
        return self._connectors[name]


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
