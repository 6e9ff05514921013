"""Runs that begin by the clock.

A schedule's run has the time it was due in its key, so one due time is one run, whoever fires it
and however often. Times missed while nothing ran are made up by one run, not by one each.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agents.commits import Commits
from agents.cron import next_time
from agents.events import RunOptions
from agents.registry import Registry, ScheduleRow
from agents.specs import ScheduleSpec
from cluster.errors import InvalidInput, MainspringError
from cluster.ids import Clock
from cluster.telemetry import logger

MAX_SCHEDULES: Final = 1_000
_LOOK_S: Final = 1.0

Submit = Callable[[str, str, str, str, dict[str, Any], RunOptions], Awaitable[str]]

log = logger("schedules")


class Schedules:
    """Fires what is due, and keeps the list."""

    def __init__(self, registry: Registry, commits: Commits, clock: Clock, submit: Submit) -> None:
        self._registry, self._commits = registry, commits
        self._clock, self._submit = clock, submit
        self._rows = {(r.tenant, r.spec.name): r for r in registry.schedules()}
        self._task = asyncio.get_running_loop().create_task(self._fire())

    def of(self, tenant: str) -> list[ScheduleRow]:
        """A tenant's schedules by name."""
        return [row for (whose, _), row in sorted(self._rows.items()) if whose == tenant]

    async def add(self, tenant: str, spec: ScheduleSpec) -> ScheduleRow:
        """Begin to keep a schedule, in place of an older one of its name. InvalidInput for a line
        that never comes true, and for more than MAX_SCHEDULES of a tenant."""
        row = ScheduleRow(tenant, spec, next_time(spec.cron, spec.zone, self._clock.now()))
        if (tenant, spec.name) not in self._rows and len(self.of(tenant)) >= MAX_SCHEDULES:
            raise InvalidInput("name", spec.name, f"one of at most {MAX_SCHEDULES} schedules")
        await self._commits.do(self._registry.schedule, row)
        self._rows[tenant, spec.name] = row
        return row

    async def remove(self, tenant: str, name: str) -> None:
        """Keep a schedule no longer. NotFound when there is none."""
        await self._commits.do(self._registry.unschedule, tenant, name)
        self._rows.pop((tenant, name), None)

    def close(self) -> None:
        self._task.cancel()

    async def _fire(self) -> None:
        while True:
            for row in [r for r in self._rows.values() if r.next_at <= self._clock.now()]:
                try:
                    await self._begin(row)
                except MainspringError as error:
                    # It stays due; the next look tries again.
                    log.warning("schedule %s: %s", row.spec.name, error)
            await asyncio.sleep(_LOOK_S)

    async def _begin(self, row: ScheduleRow) -> None:
        spec = row.spec
        key = f"schedule:{spec.name}:{row.next_at:.0f}"
        options = RunOptions(priority=spec.priority)
        given = {**spec.input, "due_at": row.next_at}
        await self._submit(row.tenant, key, spec.workflow, spec.agent, given, options)
        due = next_time(spec.cron, spec.zone, max(self._clock.now(), row.next_at))
        later = ScheduleRow(row.tenant, spec, due)
        await self._commits.do(self._registry.schedule, later)
        self._rows[row.tenant, spec.name] = later
