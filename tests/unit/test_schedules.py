"""Runs that begin by the clock: one a due time, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import schedules as module
from agents.commits import Commits
from agents.cron import next_time
from agents.events import RunOptions
from agents.journal_sql import SqlJournal
from agents.registry import Registry
from agents.schedules import Schedules
from agents.specs import ScheduleSpec
from cluster.errors import InvalidInput, NotFound, Overloaded
from tests.fakes import CountingIds, FakeClock

MINUTELY = ScheduleSpec(name="tick", cron="* * * * *", workflow="w", agent="a", input={"n": 1})


class Kept:
    """Schedules over a real registry; `begun` lists what they submitted."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(1_795_000_000.0)
        self.journal = SqlJournal("sqlite:///j.db", folder, self.clock, CountingIds())
        self.commits = Commits(self.journal)
        self.begun: list[tuple[str, dict[str, Any]]] = []
        self.refuse = 0
        self.start()

    def start(self) -> None:
        """As another life would."""
        registry = Registry(self.journal, self.clock)
        self.schedules = Schedules(registry, self.commits, self.clock, self._submit)

    async def _submit(
        self, _tenant: str, key: str, _workflow: str, _agent: str, given: dict[str, Any],
        options: RunOptions,
    ) -> str:  # fmt: skip
        if self.refuse:
            self.refuse -= 1
            raise Overloaded("runs", "too many are open")
        assert options.priority == "background"
        self.begun.append((key, given))
        return f"run_{len(self.begun)}"

    async def settled(self) -> list[str]:
        """The keys that were begun, once the schedules have looked a few times."""
        await asyncio.sleep(0.05)
        return [key for key, _ in self.begun]


@pytest.fixture
async def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    monkeypatch.setattr(module, "_LOOK_S", 0.002)
    kept = Kept(tmp_path)
    yield kept
    kept.schedules.close()
    kept.commits.close()
    kept.journal.close()


async def test_each_due_time_begins_one_run_that_knows_when_it_was_due(kept: Kept) -> None:
    row = await kept.schedules.add("t", MINUTELY)
    assert await kept.settled() == []
    kept.clock.step(row.next_at - kept.clock.now())
    assert await kept.settled() == [f"schedule:tick:{row.next_at:.0f}"]
    assert kept.begun[0][1] == {"n": 1, "due_at": row.next_at}
    kept.clock.step(60)
    assert len(await kept.settled()) == 2


async def test_what_was_missed_while_nothing_ran_is_made_up_by_one_run(kept: Kept) -> None:
    row = await kept.schedules.add("t", MINUTELY)
    kept.schedules.close()
    kept.clock.step(3_600)
    kept.start()
    assert await kept.settled() == [f"schedule:tick:{row.next_at:.0f}"]
    assert kept.schedules.of("t")[0].next_at > kept.clock.now()


async def test_a_due_time_that_was_refused_is_tried_again(kept: Kept) -> None:
    row = await kept.schedules.add("t", MINUTELY)
    kept.refuse = 3
    kept.clock.step(60)
    assert await kept.settled() == [f"schedule:tick:{row.next_at:.0f}"]


async def test_a_removed_schedule_begins_nothing(kept: Kept) -> None:
    await kept.schedules.add("t", MINUTELY)
    await kept.schedules.remove("t", "tick")
    kept.clock.step(600)
    assert await kept.settled() == []
    with pytest.raises(NotFound):
        await kept.schedules.remove("t", "tick")


async def test_schedules_are_a_tenants_own_and_limited(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SCHEDULES", 1)
    await kept.schedules.add("t", MINUTELY)
    await kept.schedules.add("u", MINUTELY)
    await kept.schedules.add("t", MINUTELY.model_copy(update={"cron": "0 3 * * *"}))
    assert [r.spec.cron for r in kept.schedules.of("t")] == ["0 3 * * *"]
    with pytest.raises(InvalidInput, match="at most 1"):
        await kept.schedules.add("t", MINUTELY.model_copy(update={"name": "other"}))


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 9 * * *", "UTC", 1_795_000_000.0, 1_795_078_800.0),
        # 2026-10-25 is the day on which Berlin's clocks go back.
        ("0 3 * * *", "Europe/Berlin", 1_792_890_000.0, 1_792_893_600.0),
    ],
)
def test_the_next_time_is_that_of_the_zone(
    cron: str, zone: str, after: float, expected: float
) -> None:
    assert next_time(cron, zone, after) == expected


@pytest.mark.parametrize(
    ("cron", "zone", "field"),
    [
        ("", "UTC", "cron"), ("* * * *", "UTC", "cron"), ("61 * * * *", "UTC", "cron"),
        ("0 0 31 2 *", "UTC", "cron"), ("* * * * *", "Mars/Olympus", "zone"),
        ("* * * * *", "../etc/passwd", "zone"),
    ],
)  # fmt: skip
def test_a_line_that_never_comes_true_and_an_unknown_zone_are_refused(
    cron: str, zone: str, field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        next_time(cron, zone, 1_795_000_000.0)
    assert refused.value.name == field
