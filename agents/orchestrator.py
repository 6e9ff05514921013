"""The orchestrator: owns the journal, decides every step, does allowed ones once.

How an effect is done once, whatever dies in between, stands in `agents/effects.py`. A run belongs
to the last epoch that claimed it; writes under an older one are refused.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from zlib import crc32

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from agents.commits import Commits
from agents.effects import Effects
from agents.events import RunEnded, StepDecided, TurnFailed
from agents.facts import Thresholds, facts_for
from agents.journal import Journal
from agents.policy import Decision, Policy, Request
from agents.recovery import open_runs
from agents.state import AgentState, RunState, apply, fold
from agents.turn import Acted
from cluster.errors import (
    Conflict,
    DeadlineExceeded,
    EffectUnknown,
    MainspringError,
    Overloaded,
    StaleEpoch,
    Unavailable,
)
from cluster.session import actor, own
from cluster.settings import AgentsSection
from cluster.telemetry import logger

NAME: Final = "orchestrator"
MAX_FAILURES: Final = 3
MAX_LOSSES: Final = 20
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 8.0
_MAX_REASON: Final = 2_000
_KEPT_FINISHED: Final = 5_000
_KEPT_AGENTS: Final = 10_000

log = logger("orchestrator")


@dataclass(frozen=True)
class Names:
    """The named actors that the orchestrator works with."""

    connector: str
    hosts: tuple[str, ...]


class Orchestrator:
    """A named, single actor; see the module for its one rule."""

    def __init__(
        self,
        make_journal: Callable[[], Journal],
        policy: Callable[[], Policy],
        section: AgentsSection,
        thresholds: Thresholds,
        names: Names,
    ) -> None:
        self._journal = make_journal()
        self._policy = policy()
        self._section = section
        self._thresholds = thresholds
        self._names = names
        self._commits = Commits(self._journal)
        self._effects = Effects(self._ask, self._append)
        self._states: dict[str, RunState] = {}
        self._handles: dict[str, Any] = {}
        self._finished: OrderedDict[str, RunState] = OrderedDict()
        self._agents: OrderedDict[str, AgentState] = OrderedDict()
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._changed = asyncio.Condition()
        self._ends = 0
        self._slots = asyncio.Semaphore(section.concurrency * len(names.hosts))
        # What an earlier life left open is taken up before anything new, and before any caller.
        for run_id in open_runs(self._journal):
            self._enqueue(run_id)
        self._dispatcher = asyncio.get_running_loop().create_task(self._dispatch())

    def pid(self) -> int:
        return os.getpid()

    async def open(self) -> int:
        """How many runs are queued or being worked on."""
        return len(self._queued) + len(self._driving)

    async def submit(
        self, tenant: str, key: str, workflow: str, agent: str, given: dict[str, Any]
    ) -> str:
        """Accept a run and return its id; the same key gives the same run. Overloaded when
        `max_open_runs` are open already."""
        if len(self._queued) + len(self._driving) >= self._section.max_open_runs:
            raise Overloaded("runs", f"{self._section.max_open_runs} are open", 5.0)
        run_id, new = await self._commits.do(
            self._journal.create, tenant, key, workflow, agent, {**given, "tenant": tenant}
        )
        if new:
            self._enqueue(run_id)
        return run_id

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """See `agents.turn.Office`."""
        await self._append(run_id, epoch, payloads)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """See `agents.turn.Office`. Facts come from the journal, not from the caller."""
        state = await self._state(run_id)
        if epoch != state.epoch:
            raise StaleEpoch(f"run {run_id}", f"epoch {epoch} was overtaken by {state.epoch}")
        decided = state.decisions.get(step)
        if decided is not None and (decided.tool, decided.args) != (tool, args):
            raise Conflict(f"run {run_id}", f"step {step} was {decided.tool}, now asked as {tool}")
        if decided is not None:
            decision = Decision(decided.answer, decided.rule, decided.reason)
            if decision.answer != "allow":
                return Acted(decision)
            if step in state.receipts:
                return Acted(decision, receipt=state.receipts[step])
            if step in state.refusals:
                refused = state.refusals[step]
                return Acted(decision, refusal=(refused.code, refused.reason))
            if step in state.open_effects:
                return await self._effects.resume(state, epoch, step, decision)
            # A person found that it was not done.
            return await self._effects.begin(state, epoch, step, decision, [], tool, args)
        agent = await self._agent(state)
        facts = facts_for(tool, args, state, agent, self._thresholds)
        ticket = str(state.input.get("ticket", ""))
        decision = self._policy.decide(Request(tool, ticket, facts))
        taken = StepDecided(
            step=step, tool=tool, args=args, answer=decision.answer, rule=decision.rule,
            reason=decision.reason,
        )  # fmt: skip
        if decision.answer != "allow":
            await self._append(run_id, epoch, [taken])
            return Acted(decision)
        return await self._effects.begin(state, epoch, step, decision, [taken], tool, args)

    async def read(self, run_id: str) -> RunState:
        """A run's state; NotFound when there is none."""
        return await self._state(run_id)

    async def agent(self, tenant: str, agent: str) -> AgentState:
        """What an agent remembers of its finished runs, from the journal."""
        rows = await self._commits.do(self._journal.runs, tenant, "ended", agent)
        state = AgentState(agent)
        for row in rows:
            state = state.after(await self._state(row.run_id))
        return state

    async def wait(self, run_ids: list[str], timeout_s: float) -> list[RunState]:
        """The states of those runs that have ended; returns when one more ends than at the call,
        when all have, or after `timeout_s` seconds."""
        before = -1
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            ends = self._ends
            states = [await self._state(r) for r in run_ids]
            ended = [s for s in states if s.ended is not None]
            if len(ended) == len(run_ids) or len(ended) > before >= 0:
                return ended
            before = len(ended) if before < 0 else before
            left = deadline - loop.time()
            if left <= 0:
                return ended
            async with self._changed:
                if ends != self._ends:
                    continue  # one ended while the states were being read
                try:
                    await asyncio.wait_for(self._changed.wait(), left)
                except TimeoutError:
                    return ended

    async def resume(self, run_id: str) -> None:
        """Take up a run whose parked effect was resolved. NotFound when there is no such run."""
        self._states.pop(run_id, None)
        if (await self._state(run_id)).ended is None:
            self._enqueue(run_id)

    async def verify(self, run_id: str) -> int:
        """The number of events in a run's hash chain; DataError where it is broken."""
        return await self._commits.do(self._journal.verify, run_id)

    def _enqueue(self, run_id: str) -> None:
        if run_id not in self._queued and run_id not in self._driving:
            self._queued.add(run_id)
            self._waiting.put_nowait(run_id)

    async def _dispatch(self) -> None:
        while True:
            run_id = await self._waiting.get()
            await self._slots.acquire()
            self._queued.discard(run_id)
            task = asyncio.create_task(self._drive(run_id))
            self._driving[run_id] = task
            task.add_done_callback(partial(self._driven, run_id))

    def _driven(self, run_id: str, _task: asyncio.Task[None]) -> None:
        self._driving.pop(run_id, None)
        self._slots.release()

    async def _drive(self, run_id: str) -> None:
        """Work on a run until it ends, is given up, or belongs to somebody else."""
        delay, losses, reason = _BACKOFF_S, 0, "queued"
        while True:
            code = "internal_error"
            try:
                if (await self._state(run_id)).parked:
                    return  # until a person has resolved it
                epoch = await self._claim(run_id, reason)
                await self._work(run_id, epoch)
                return
            except (StaleEpoch, EffectUnknown):
                return
            except RayActorError as error:
                losses += 1
                code, reason = "host_lost", f"host lost: {type(error).__name__}"
            except MainspringError as error:
                code, reason = error.code, str(own(error))
            except Exception as error:
                # The outermost loop: whatever a turn raised is recorded with its run.
                log.exception("turn of %s failed", run_id)
                reason = f"{type(error).__name__}: {error}"
            # A lost host is nobody's fault: the run is simply taken up again, within a bound.
            forgiven = code == "host_lost" and losses <= MAX_LOSSES
            if not forgiven and await self._failed(run_id, code, reason):
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_BACKOFF_S)

    async def _claim(self, run_id: str, reason: str) -> int:
        try:
            return await self._commits.do(self._journal.claim, run_id, reason)
        finally:
            # A write whose answer was lost may have been done: the journal knows, memory does not.
            self._states.pop(run_id, None)

    async def _work(self, run_id: str, epoch: int) -> None:
        state = await self._state(run_id)
        timeout = self._section.turn_timeout_s
        # All turns of an agent go to one host, which lets one at a time work: what the agent
        # has given back so far is then complete whenever a refund is decided.
        place = crc32(f"{state.input.get('tenant')}/{state.agent}".encode())
        call = self._handle(self._names.hosts[place % len(self._names.hosts)]).work.remote(
            state, epoch
        )
        try:
            await asyncio.wait_for(call, timeout)
        except TimeoutError:
            ray.cancel(call, force=False)
            raise DeadlineExceeded(f"turn of {run_id}", timeout) from None
        if (await self._state(run_id)).ended is None:
            raise Unavailable(f"turn of {run_id}", "it returned without an outcome")

    async def _failed(self, run_id: str, code: str, reason: str) -> bool:
        """Journal a failed turn; after the last try the run goes to a person. True when over."""
        failed = TurnFailed(code=code, reason=reason[:_MAX_REASON])
        try:
            state = await self._state(run_id)
            if state.ended is not None:
                await self._ended(state)
                return True
            state = await self._append(run_id, state.epoch, [failed])
            if state.failures < MAX_FAILURES:
                return False
            # One text for every attempt, so that the hand-over keeps its key.
            args = {"reason": "failed turns", "summary": f"given up after {MAX_FAILURES} turns"}
            handed = await self.act(run_id, state.epoch, "give-up", "escalate", args)
            why = f"failed turns: {reason}"[:_MAX_REASON]
            decision = "escalated" if handed.receipt is not None else "failed"
            await self._append(
                run_id, state.epoch, [RunEnded(decision=decision, reason=why, result={})]
            )
        except (StaleEpoch, EffectUnknown):
            return True
        except (MainspringError, RayError) as error:
            log.error("run %s: the hand-over failed too: %s", run_id, error)
            return False
        return True

    async def _ask(self, method: str, *args: Any) -> Any:
        """Call the connector; its own errors come through, a lost or slow one is Unavailable."""
        timeout = self._section.connector_timeout_s
        try:
            handle = self._handle(self._names.connector)
            return await asyncio.wait_for(getattr(handle, method).remote(*args), timeout)
        except (RayActorError, GetTimeoutError) as error:
            raise Unavailable("connector", type(error).__name__) from error
        except TimeoutError:
            raise DeadlineExceeded(f"connector {method}", timeout) from None

    def _handle(self, name: str) -> Any:
        # A restarted actor keeps its handle; asking Ray for it each time would block the loop.
        if name not in self._handles:
            self._handles[name] = actor(name)
        return self._handles[name]

    async def _state(self, run_id: str) -> RunState:
        known = self._states.get(run_id) or self._finished.get(run_id)
        if known is None:
            known = fold(run_id, await self._commits.do(self._journal.read, run_id))
            self._keep(known)
        return known

    def _keep(self, state: RunState) -> None:
        if state.ended is None:
            self._states[state.run_id] = state
            return
        self._states.pop(state.run_id, None)
        self._finished[state.run_id] = state
        if len(self._finished) > _KEPT_FINISHED:
            self._finished.popitem(last=False)

    async def _agent(self, state: RunState) -> AgentState:
        key = f"{state.input.get('tenant')}/{state.agent}"
        if key not in self._agents:
            self._agents[key] = await self.agent(str(state.input.get("tenant")), state.agent)
            if len(self._agents) > _KEPT_AGENTS:
                self._agents.popitem(last=False)
        return self._agents[key]

    async def _append(self, run_id: str, epoch: int, payloads: list[Any]) -> RunState:
        await self._state(run_id)
        events = await self._commits.do(self._journal.append, run_id, epoch, payloads)
        # Again: a turn that timed out may have added to its run while this was being written.
        state = await self._state(run_id)
        for event in events:
            if event.seq == state.seq + 1:
                state = apply(state, event)
        self._keep(state)
        if state.ended is not None:
            await self._ended(state)
        return state

    async def _ended(self, state: RunState) -> None:
        key = f"{state.input.get('tenant')}/{state.agent}"
        if key in self._agents:
            self._agents[key] = self._agents[key].after(state)
        async with self._changed:
            self._ends += 1
            self._changed.notify_all()
