"""An effect broken off at a connector that can't tell: a person is asked, nobody guesses."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.control import resolve
from agents.events import EffectParked, EffectResolved
from agents.journal_sql import SqlJournal
from agents.state import RunState, fold
from agents.timeline import timeline
from agents.tools import TOOLS
from agents.workflows import support
from cluster.errors import Conflict, InvalidInput, NotFound, Unavailable
from cluster.settings import AgentsSection
from serve.cli import app
from tests.fakes import ticket
from tests.traced import TICKET, Models
from tests.world import GOVERNED, Crash, World, connect

STEP = "2:refund"


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setitem(TOOLS, "refund", replace(TOOLS["refund"], lookup=False))
    world = World(
        tmp_path, partial(support.work, parts=Models().parts()), AgentsSection(**GOVERNED)
    )
    connect(monkeypatch, world)
    world.connector.open_tickets([ticket(TICKET)])
    yield world
    await world.stop()


async def parked(world: World, point: str) -> str:
    """A run whose refund was broken off at `point`, after the next start."""
    world.faults[point] = [Crash()]
    run = await world.submit("k", TICKET)
    await world.until(lambda: world.dead)
    await world.stop()
    world.start()
    await world.until(lambda: STEP in state(world, run).parked)
    await world.until(lambda: not world.orchestrator._driver.busy)
    return run


def state(world: World, run: str) -> RunState:
    return fold(run, world.journal.read(run))


def refunds(world: World) -> int:
    return int(world.connector.counts()["refunds"])


async def goes_on(world: World, run: str) -> RunState:
    await world.orchestrator.look_again(run)
    (ended,) = await world.ended(run)
    assert ended.ended is not None and ended.ended.decision == "replied"
    assert world.journal.verify(run) == ended.seq
    return ended


async def test_what_may_have_been_done_is_not_done_again(world: World) -> None:
    run = await parked(world, "after connector refund")
    assert refunds(world) == 1
    since = world.trace[world.trace.index("after connector refund") :]
    assert "before connector lookup" not in since
    key = state(world, run).open_effects[STEP].key
    receipt: dict[str, Any] = world.connector.find(key) or {}
    resolve(world.journal, run, STEP, done=True, by="ann", receipt=receipt)
    ended = await goes_on(world, run)
    assert refunds(world) == 1
    assert ended.receipts[STEP] == {**receipt, "by": "ann"}


async def test_what_a_person_found_not_done_is_done_once(world: World) -> None:
    run = await parked(world, "before connector refund")
    assert refunds(world) == 0
    resolve(world.journal, run, STEP, done=False, by="ann", note="the bank has nothing")
    await goes_on(world, run)
    assert refunds(world) == 1


async def test_a_parked_run_waits_through_restarts_and_nothing_is_added_to_it(
    world: World,
) -> None:
    run = await parked(world, "after connector refund")
    before = state(world, run).seq
    for _ in range(2):
        await world.stop()
        world.start()
        await world.until(lambda: not world.orchestrator._driver.busy)
    assert state(world, run).seq == before
    assert await world.orchestrator.open() == 0


async def test_a_call_that_failed_on_the_way_is_parked_too(world: World) -> None:
    """Within one life: the connector was lost while it was asked."""
    world.faults["after connector refund"] = [Unavailable("connector", "gone")]
    run = await world.submit("k", TICKET)
    await world.until(lambda: STEP in state(world, run).parked)
    assert refunds(world) == 1


async def test_only_a_parked_step_is_resolved_and_only_once(world: World) -> None:
    run = await parked(world, "before connector refund")
    for wrong, error in (
        (partial(resolve, world.journal, "run-9", STEP, done=True, by="a"), NotFound),
        (partial(resolve, world.journal, run, "reply", done=True, by="a"), Conflict),
        (partial(resolve, world.journal, run, STEP, done=True, by=" "), InvalidInput),
        (partial(resolve, world.journal, run, STEP, done=True, by="a" * 3000), InvalidInput),
        (
            partial(resolve, world.journal, run, STEP, done=False, by="a", receipt={"x": 1}),
            InvalidInput,
        ),
    ):
        with pytest.raises(error):
            wrong()
    resolve(world.journal, run, STEP, done=False, by="ann")
    with pytest.raises(Conflict, match="not parked"):
        resolve(world.journal, run, STEP, done=True, by="ben")


async def test_of_two_persons_at_once_one_is_heard(world: World) -> None:
    run = await parked(world, "before connector refund")
    late = Late(world.journal)
    with pytest.raises(Conflict, match="no longer its last"):
        resolve(late, run, STEP, done=True, by="ben")  # type: ignore[arg-type]
    said = [
        e.payload for e in world.journal.read(run) if isinstance(e.payload, EffectResolved)
    ]  # fmt: skip
    assert [(s.by, s.done) for s in said] == [("ann", False)]


class Late:
    """A journal whose reader is overtaken by ann."""

    def __init__(self, inner: SqlJournal) -> None:
        self._inner = inner

    def read(self, run: str) -> Any:
        events = self._inner.read(run)
        resolve(self._inner, run, STEP, done=False, by="ann")
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_parked_runs_are_found_looked_at_and_resolved_from_the_command_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    run = await parked(world, "before connector refund")

    def call(*words: str) -> str:
        done = CliRunner().invoke(app, ["runs", *words])
        assert done.exit_code == 0, (done.output, done.exception)
        return str(done.output)

    assert run in call("list", "--status", "parked")
    assert "can't tell whether it was done" in call("show", run)
    wrong = CliRunner().invoke(app, ["runs", "resolve", run, STEP, "--done", "--by", "a",
                                     "--receipt", "[1]"])  # fmt: skip
    assert isinstance(wrong.exception, InvalidInput)
    assert "not done, says ann" in call("resolve", run, STEP, "--not-done", "--by", "ann")
    await goes_on(world, run)
    shown = [e for e in timeline(world.journal.read(run)) if e.name == f"{STEP} refund"]
    assert [e.state for e in shown] == ["done"]
    events = [e.payload for e in world.journal.read(run)]
    assert sum(isinstance(e, EffectParked) for e in events) == 1
    assert refunds(world) == 1
