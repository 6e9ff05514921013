"""Who may begin: reserves the worst case of a request before any work, settles it afterwards.

Writes go through one thread in groups, so that the event loop stays free and a hundred requests
cost one turn at the database. A caller without any limit is let in without a write; should a budget
be set while it works, it is charged as far as that budget is free.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final

from agents.commits import Commits
from cluster.errors import MainspringError, Overloaded, Unavailable
from cluster.ids import Clock, Ids, jittered
from cluster.telemetry import logger
from serve.accounts import Accounts
from serve.budget_table import BudgetTable
from serve.budgets import Caller, Limits, Worst
from serve.ledger import Used
from serve.reservations import Reservations

log = logger("admission")

FRESH_S: Final = 1.0
_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.2
_REMEMBERED: Final = 4_096


@dataclass(frozen=True)
class Hold:
    """A request that was let in. It must `leave`, once. `reserved` where a limit holds for it."""

    id: str
    caller: Caller
    reserved: bool = False


class Admission:
    """One a gateway process. Without `accounts` everybody is let in and nothing is recorded."""

    def __init__(
        self, accounts: Accounts | None, clock: Clock, ids: Ids, margin_s: float = 10.0
    ) -> None:
        self._clock, self._ids = clock, ids
        self._reservations = self._commits = self._budgets = None
        if accounts is not None:
            self._reservations = Reservations(accounts, clock, margin_s)
            self._budgets = BudgetTable(accounts)
            self._commits = Commits(accounts)
        self._limited: dict[str, tuple[float, bool]] = {}
        self._under_way: set[asyncio.Task[Any]] = set()

    async def enter(self, caller: Caller, limits: Limits, worst: Worst, seconds: float) -> Hold:
        """Let a request in that will have ended after `seconds`.

        Raises BudgetExceeded or RateLimited when it does not fit, Unavailable when the database
        does not answer: a limit that cannot be looked up is not passed.
        """
        hold = Hold(self._ids.new("hold"), caller)
        if self._reservations is None or self._commits is None:
            return hold
        if not limits.any and not await self._any_budget(caller.tenant):
            return hold
        hold = replace(hold, reserved=True)
        reserve = self._reservations.reserve
        writing = self._start(self._commits.do(reserve, hold.id, caller, limits, worst, seconds))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._start(self._undo(writing, hold))
            raise
        return hold

    def leave(self, hold: Hold, used: Used | None) -> asyncio.Task[int | None]:
        """End a request: charge for what it used, or release what it held when None. The task ends
        when that is on disk, with what was charged, nano-dollars, or with None when it could not be
        written; it goes on if nobody waits for it, and never raises."""
        return self._start(self._settle(hold, used))

    async def close(self) -> None:
        """Wait until everybody who left is settled."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._commits is not None:
            self._commits.close()

    async def _settle(self, hold: Hold, used: Used | None) -> int | None:
        if self._reservations is None or self._commits is None:
            return None
        for attempt in range(_TRIES):
            try:
                settle = self._reservations.settle
                return await self._commits.do(settle, hold.id, hold.caller, used)
            except (Unavailable, Overloaded) as error:
                log.warning("%s is not settled yet: %s", hold.id, error)
                await asyncio.sleep(jittered(_FIRST_PAUSE_S * 2**attempt))
        # Its reservation ends with its lease; this line is all that is left of what it used.
        log.error("%s is not in the ledger: %s %s", hold.id, hold.caller, used)
        return None

    async def _undo(self, writing: asyncio.Task[Any], hold: Hold) -> None:
        await asyncio.wait({writing})
        if not writing.cancelled() and writing.exception() is None:
            await self._settle(hold, None)

    async def _any_budget(self, tenant: str) -> bool:
        assert self._budgets is not None and self._commits is not None
        at, there = self._limited.get(tenant, (float("-inf"), False))
        if self._clock.monotonic() - at < FRESH_S:
            return there
        there = await self._commits.do(self._budgets.limited, tenant)
        if len(self._limited) >= _REMEMBERED:
            self._limited.clear()
        self._limited[tenant] = (self._clock.monotonic(), there)
        return there

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, MainspringError):
                log.error("unforeseen: %r", error)
