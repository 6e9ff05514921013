"""Works on runs until they end, wait, or belong to somebody else: one turn after the other.

A turn that breaks off is tried again after a growing, jittered time; after the run's last attempt
it is handed over. A lost host, or a part that is away, as an engine is that still loads, is
nobody's fault: the run is taken up again without an attempt being counted, within a bound. A run
that rests between two attempts, or waits, holds no slot.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayActorError

from agents.control import GIVE_UP
from agents.metrics import Metrics
from agents.placement import Placement
from agents.runs import Runs
from agents.state import RunState
from agents.turn_queue import Queued, TurnQueue
from cluster.errors import (
    Conflict,
    DataError,
    DeadlineExceeded,
    EffectUnknown,
    InvalidInput,
    MainspringError,
    NotFound,
    Overloaded,
    StaleEpoch,
    Unavailable,
)
from cluster.ids import Clock, jittered
from cluster.session import own
from cluster.settings import AgentsSection
from cluster.telemetry import logger

MAX_LOSSES: Final = 20
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 4.0

log = logger("driver")

GiveUp = Callable[[str, str, str, bool], Awaitable[bool]]
"""Journals a run's broken turn by code and reason; hands it over after the last attempt, which the
last argument says it was. True when the run is over."""
Close = Callable[[RunState], Awaitable[None]]
"""Ends a run that was cancelled."""


@dataclass
class _Trouble:
    """What a run has met since it last got on, at `since` (seconds of the monotonic clock): `done`
    counts what it had done by then."""

    since: float
    delay: float = field(default_factory=lambda: _BACKOFF_S)
    losses: int = 0
    reason: str = "queued"
    done: int = 0

    def met(self, state: RunState, now: float) -> None:
        """Begin anew when the run has got on since."""
        done = len(state.phases) + len(state.receipts) + len(state.waited)
        if done > self.done:
            self.delay, self.losses, self.done, self.since = _BACKOFF_S, 0, done, now


class Driver:
    """`enqueue` lets a run wait for its turn; the rest goes by itself. `owner` is the name under
    which hosts find its orchestrator, which has one of so many `shares` of the slots."""

    def __init__(
        self, runs: Runs, placement: Placement, section: AgentsSection, clock: Clock,
        metrics: Metrics, give_up: GiveUp, close: Close, owner: str, shares: int,
    ) -> None:  # fmt: skip
        slots = max(1, section.concurrency * section.hosts // shares)
        self.queue = TurnQueue(slots, max(1, slots - section.interactive_slots))
        self._runs, self._placement, self._section = runs, placement, section
        self._clock, self._metrics = clock, metrics
        self._give_up, self._close = give_up, close
        self._owner = owner
        self._troubles: dict[str, _Trouble] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._keeping = asyncio.get_running_loop().create_task(self._keep_house())
        self._again: dict[str, Queued] = {}
        self._held = False
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether a turn is being worked on."""
        return bool(self._working)

    def hold(self, on: bool) -> int:
        """Begin no more turns, or take that back; how many are being worked on."""
        self._held = on
        self._begin()
        return len(self._working)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self.queue or run_id in self._resting

    def open(self) -> int:
        """How many runs wait for a turn, are worked on, or rest before the next attempt."""
        return len(self.queue) + len(self._resting)

    def enqueue(self, run_id: str, tenant: str, agent: str, priority: Any) -> None:
        """Let a run wait for its turn. One that is worked on now is looked at again afterwards."""
        if rest := self._resting.pop(run_id, None):
            rest.cancel()
        turn = Queued(run_id, tenant, agent, priority, self._clock.monotonic())
        if run_id in self._working:
            self._again[run_id] = turn
            return
        self.queue.add(turn)
        self._begin()

    def enqueue_state(self, state: RunState) -> None:
        """As `enqueue`."""
        self.enqueue(state.run_id, state.tenant, state.agent, state.options.priority)

    def break_off(self, run_id: str) -> None:
        """Stop the turn under way, if there is one; what it has journaled stays."""
        if task := self._working.get(run_id):
            task.cancel()

    async def stop(self) -> None:
        """Stop all turns."""
        for rest in self._resting.values():
            rest.cancel()
        self._resting, self._again = {}, {}
        tasks = [self._keeping, *self._working.values()]
        self._working = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_house(self) -> None:
        """End the actors of isolated agents that are idle, but none that works."""
        idle_s = max(self._section.idle_s, self._section.turn_timeout_s)
        while True:
            await asyncio.sleep(idle_s / 4)
            for host in self._placement.retire(idle_s):
                log.info("put %s to sleep", host)

    def _begin(self) -> None:
        while not self._held and (turn := self.queue.next()):
            self._metrics.waited(turn.priority, self._clock.monotonic() - turn.since)
            task = self._loop.create_task(self._turn(turn))
            self._working[turn.run_id] = task
            task.add_done_callback(partial(self._done, turn))

    def _done(self, turn: Queued, task: asyncio.Task[None]) -> None:
        if self._working.pop(turn.run_id, None) is None:
            return  # stopped
        self.queue.done(turn.run_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("run %s: %s", turn.run_id, error, exc_info=error)
        if again := self._again.pop(turn.run_id, None):
            self.enqueue(again.run_id, again.tenant, again.agent, again.priority)
        self._begin()

    async def _turn(self, turn: Queued) -> None:
        """One attempt, and what follows from how it went."""
        began = self._clock.monotonic()
        again = False
        try:
            again = await self._attempt(turn)
        finally:
            self._metrics.turn(turn.priority, again, self._clock.monotonic() - began)
        if again:
            self._rest(turn)
        else:
            self._troubles.pop(turn.run_id, None)

    async def _attempt(self, turn: Queued) -> bool:
        """Whether the run has to be tried again after a while."""
        now = self._clock.monotonic()
        trouble = self._troubles.setdefault(turn.run_id, _Trouble(now))
        try:
            state = await self._runs.state(turn.run_id)
            if state.status != "open":
                return False
            trouble.met(state, now)
            if state.cancelled is not None:
                await self._close(state)
                return False
            if GIVE_UP in state.decisions:
                # It was being handed over when the last life ended: it is a person's already.
                return not await self._give_up(turn.run_id, "given_up", trouble.reason, True)
            epoch = await self._runs.claim(turn.run_id, trouble.reason)
            if epoch > 1:
                self._metrics.taken_up()
            await self._work(turn.run_id, epoch)
            return False
        except (StaleEpoch, EffectUnknown):
            self._runs.forget(turn.run_id)
            return False
        except Exception as error:
            # The outermost loop: whatever a turn raised is recorded with its run.
            code = self._meet(trouble, error, turn.run_id)
            if self._forgives(trouble, error, now):
                return True
            # Asking again would be answered the same.
            last = isinstance(error, (InvalidInput, NotFound, Conflict))
            return not await self._give_up(turn.run_id, code, trouble.reason, last)

    def _meet(self, trouble: _Trouble, error: Exception, run_id: str) -> str:
        """Write down what broke a turn off; its code."""
        if isinstance(error, RayActorError):
            trouble.losses += 1
            trouble.reason = f"host lost: {type(error).__name__}"
            return "host_lost"
        if isinstance(error, MainspringError):
            trouble.reason = str(own(error))
            return error.code
        log.error("turn of %s failed", run_id, exc_info=error)
        trouble.reason = f"{type(error).__name__}: {error}"
        return "internal_error"

    def _forgives(self, trouble: _Trouble, error: Exception, now: float) -> bool:
        """Whether the run may try again without this being counted as an attempt."""
        if isinstance(error, RayActorError):
            return trouble.losses <= MAX_LOSSES
        away = isinstance(error, (Unavailable, Overloaded))
        return away and now - trouble.since < self._section.patience_s

    async def _work(self, run_id: str, epoch: int) -> None:
        state = await self._runs.state(run_id)
        timeout = self._section.turn_timeout_s
        spec = await self._runs.spec(state.tenant, state.agent)
        host = self._placement.place(state.tenant, state.agent, bool(spec and spec.isolated))
        call = self._placement.handle(host).work.remote(state, epoch, self._owner, spec)
        try:
            await asyncio.wait_for(call, timeout)
        except TimeoutError:
            ray.cancel(call, force=False)
            raise DeadlineExceeded(f"turn of {run_id}", timeout) from None
        except asyncio.CancelledError:
            ray.cancel(call, force=False)
            raise
        except RayActorError:
            self._placement.lost(host)
            raise
        if (await self._runs.state(run_id)).status == "open":
            # The turn may have written through another owner, which memory here does not know of.
            self._runs.forget(run_id)
        if (await self._runs.state(run_id)).status == "open":
            raise DataError(f"turn of {run_id}", "it returned without an outcome")

    def _rest(self, turn: Queued) -> None:
        """Let it wait for its next turn a while."""
        trouble = self._troubles[turn.run_id]
        delay = jittered(trouble.delay)
        trouble.delay = min(trouble.delay * 2, _MAX_BACKOFF_S)
        self._resting[turn.run_id] = self._loop.call_later(delay, self._rested, turn)

    def _rested(self, turn: Queued) -> None:
        del self._resting[turn.run_id]
        self.enqueue(turn.run_id, turn.tenant, turn.agent, turn.priority)
