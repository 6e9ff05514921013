"""Who goes on when: what an earlier life left open, what time or another run sets free, and what
somebody else changed in the journal. It queues runs and ends waits; it works on none."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from agents import control
from agents.approvals import Asking
from agents.driver import Driver
from agents.events import WaitEnded
from agents.journal import RunRow
from agents.owners import NAME
from agents.runs import Runs
from agents.state import RunState
from agents.timers import Timers
from agents.waits import Came, came
from cluster.errors import Conflict, MainspringError, NotFound, StaleEpoch
from cluster.ids import Clock
from cluster.telemetry import logger

RESCAN_S: Final = 5.0
_LOOK_AT_ALL: Final = 12

log = logger("recovery")

Control = Callable[..., Awaitable[Any]]
"""Does one of `agents.control` to a run and looks at what follows."""
PassOn = Callable[[RunState], Awaitable[bool]]
"""Tells another owner to look at its run; False when the run is ours."""


class Recovery:
    """Looks after the runs of one owner. `rows` are those that its earlier life left open: they are
    taken up before anything new, and before any caller."""

    def __init__(
        self, runs: Runs, driver: Driver, clock: Clock, control: Control, pass_on: PassOn,
        rows: Sequence[RunRow], asking: Asking,
    ) -> None:  # fmt: skip
        self._runs, self._driver, self._clock = runs, driver, clock
        self._control, self._pass_on = control, pass_on
        self._asking = asking
        self.timers = Timers(clock, self.look)
        self._tasks: set[asyncio.Task[None]] = set()
        for row in rows:
            if row.status == "open":
                driver.enqueue(row.run_id, row.tenant, row.agent, row.priority)
        self._in_background(self._look_through(rows))
        self._in_background(self._rescan())

    async def close(self) -> None:
        """Look after nothing any more."""
        self.timers.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self, run_id: str) -> None:
        """Look at a run soon: time or another run may have brought what it waits for."""
        self._in_background(self._looked_safely(run_id))

    async def looked(self, run_id: str) -> None:
        """Queue the run if it can go on, or set the timer for what can change that. NotFound when
        there is no such run."""
        state = await self._runs.state(run_id)
        if state.ended is not None or await self._pass_on(state):
            return
        deadline = state.options.deadline_at
        if deadline is not None and state.cancelled is None and not state.parked:
            if deadline <= self._clock.now():
                await self._control(
                    control.cancel, run_id, NAME, "its deadline has passed", False, "failed"
                )
                return
            self.timers.at(deadline, run_id)
        if state.status == "waiting":
            await self.come(state)
            state = await self._runs.state(run_id)
        if state.status == "open":
            self._driver.enqueue_state(state)

    async def come(self, state: RunState) -> Came | None:
        """End the run's wait when what it waits for has come; else set its timer."""
        wait = state.waiting
        while state.waiting is not None and wait is not None and state.ended is None:
            others = [await self._runs.state(r) for r in wait.runs]
            found = came(state, self._clock.now(), others)
            payloads = (
                self._asking.reminder(state, self._clock.now())
                if found is None
                else [WaitEnded(step=wait.step, value=found.value)]
            )
            if not payloads:
                if wait.until is not None:
                    self.timers.at(wait.until, state.run_id)
                return None
            try:
                state = await self._runs.append(
                    state.run_id, state.epoch, payloads, after=state.seq
                )
                if found is not None:
                    return found
                wait = state.waiting
            except StaleEpoch:
                raise
            except Conflict:
                # Something came in between: a signal, or the end of this very wait.
                self._runs.forget(state.run_id)
                state = await self._runs.state(state.run_id)
        known = wait is not None and wait.step in state.waited
        return Came(state.waited[wait.step]) if wait is not None and known else None

    async def _rescan(self) -> None:
        """Take up what nobody works on: a run that another owner took and left, that the command
        line changed while we could not be told, or whose timer was another owner's."""
        for count in itertools.count(1):
            await asyncio.sleep(RESCAN_S)
            try:
                rows = await self._runs.open_rows()
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

    async def _look_through(self, rows: Sequence[RunRow]) -> None:
        """Set the timers of what waits, and end waits whose time has come. One by one: there may
        be many."""
        for row in rows:
            if row.status != "open":
                self._runs.forget(row.run_id)
            if row.status != "open" or row.deadline_at is not None:
                await self._looked_safely(row.run_id)

    async def _looked_safely(self, run_id: str) -> None:
        try:
            await self.looked(run_id)
        except MainspringError as error:
            log.warning("run %s: %s", run_id, error)
            if not isinstance(error, (StaleEpoch, NotFound)):
                self.timers.at(self._clock.now() + 1.0, run_id)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
