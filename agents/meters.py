"""What a tenant's agents have spent: the rates that policy decides on.

A row is written with the start of the effect, in one transaction, and counts whether or not the
connector then did it. Between the look at a rate and that write nobody else of this orchestrator
decides on the same tenant and tool. Not covered: several orchestrators of one tenant may each let a
step through at the same moment, so that a rate is exceeded by at most one step each.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from sqlalchemy import text

from agents.commits import Commits
from agents.journal_sql import SqlJournal
from agents.tools import TOOLS
from cluster.ids import Clock

HOUR_S: Final = 3_600.0
DAY_S: Final = 86_400.0
_ADD = text(
    "INSERT INTO spending VALUES (:r, :s, :t, :tool, :at, :c) ON CONFLICT (run_id, step) DO NOTHING"
)
_USED = text(
    "SELECT coalesce(sum(CASE WHEN at > :hour THEN 1 ELSE 0 END), 0), coalesce(sum(cents), 0),"
    " min(CASE WHEN at > :hour THEN at END) FROM spending"
    " WHERE tenant = :t AND tool = :tool AND at > :day"
)


@dataclass(frozen=True)
class Used:
    """How often a tool was used in the last hour, and whose oldest leaves it at `frees_at`; the
    cents of the last day."""

    hour_count: int = 0
    day_cents: int = 0
    frees_at: float = 0.0


class Meters:
    """Of the tools that have an amount; the others are not counted."""

    def __init__(self, journal: SqlJournal, commits: Commits, clock: Clock) -> None:
        self._journal, self._commits, self._clock = journal, commits, clock
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, tenant: str, tool: str) -> AsyncIterator[None]:
        """The time from the look at a rate to the write that moves it."""
        if not _amount(tool):
            yield
            return
        lock = self._locks.setdefault((tenant, tool), asyncio.Lock())
        async with lock:
            yield

    async def used(self, tenant: str, tool: str) -> Used:
        """What counts now."""
        if not _amount(tool):
            return Used()
        return await self._commits.do(self._used, tenant, tool)

    def spent(
        self, tenant: str, run_id: str, step: str, tool: str, args: dict[str, Any]
    ) -> Callable[[], None] | None:
        """What writes this step down, within the transaction that starts it."""
        name = _amount(tool)
        if not name:
            return None
        given = {
            "r": run_id, "s": step, "t": tenant, "tool": tool, "at": self._clock.now(),
            "c": int(args.get(name, 0)),
        }  # fmt: skip
        return partial(self._add, given)

    def _add(self, given: dict[str, Any]) -> None:
        with self._journal.connection() as connection:
            connection.execute(_ADD, given)

    def _used(self, tenant: str, tool: str) -> Used:
        now = self._clock.now()
        given = {"t": tenant, "tool": tool, "hour": now - HOUR_S, "day": now - DAY_S}
        with self._journal.connection() as connection:
            count, cents, oldest = connection.execute(_USED, given).one()
        return Used(int(count), int(cents), float(oldest) + HOUR_S if oldest is not None else 0.0)


def _amount(tool: str) -> str:
    return TOOLS[tool].amount if tool in TOOLS else ""
