"""Timers, signals, children, deadlines, pauses, cancellations, retries and forks, over restarts."""

import asyncio
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agents import control, driver, recovery
from agents.events import RunOptions, RunStarted, WaitBegun, WaitEnded
from agents.journal_sql import SqlJournal
from agents.state import RunState, fold
from agents.turn import Child, Turn
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from cluster.ids import SystemClock, SystemIds
from tests.world import Crash, World, Worlds

Work = Callable[[Turn], Awaitable[None]]
T = "T-001"


async def begin(world: World, key: str = "k", agent: str = "a", **options: Any) -> str:
    given = {"ticket": T}
    return await world.orchestrator.submit(
        "default", key, "support", agent, given, RunOptions(**options)
    )


async def stands(world: World, run: str, status: str) -> RunState:
    """The run's state once it has this status, and no turn is under way."""
    async with asyncio.timeout(10):
        while True:
            state = fold(run, world.journal.read(run))
            if state.status == status and not world.orchestrator._driver.busy:
                return state
            await asyncio.sleep(0.005)


async def restart(world: World) -> None:
    await world.stop()
    world.start()


async def sleeping(turn: Turn) -> None:
    async def look() -> dict[str, Any]:
        return {"at": time.time()}

    before = await turn.phase("before", look)
    await turn.sleep("nap", 0.15)
    after = await turn.phase("after", look)
    await turn.end("rested", "awake", {"slept": after["at"] - before["at"]})


async def listening(turn: Turn) -> None:
    first = await turn.signal("one", "word", timeout_s=float(turn.run.input.get("limit", 60)))
    second = await turn.signal("two", "word", timeout_s=60.0) if first else None
    await turn.end("heard", "", {"first": first, "second": second})


async def sure() -> dict[str, Any]:
    """What policy asks for before a ticket is assigned."""
    return {"intent": "order_status", "confidence": 0.95, "out_of_scope": 0.0, "gate": True}


async def forever(turn: Turn) -> None:
    await turn.phase("intent", sure)
    await turn.act("assign", "assign", {"queue": "q"})
    await turn.signal("never", "never")


async def stubborn(turn: Turn) -> None:
    await asyncio.sleep(60)


async def test_a_timer_holds_no_host_and_goes_on_after_its_time(worlds: Worlds) -> None:
    world = worlds.make(sleeping)
    run = await begin(world)
    waiting = await stands(world, run, "waiting")
    assert waiting.waiting is not None
    assert waiting.waiting.awaited == "timer"
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert 0.15 <= state.ended.result["slept"] < 5
    assert world.journal.verify(run) == state.seq


async def test_a_timer_outlives_its_process_and_one_missed_meanwhile_goes_on_at_once(
    worlds: Worlds,
) -> None:
    world = worlds.make(sleeping)
    run = await begin(world)
    await stands(world, run, "waiting")
    await world.stop()
    await asyncio.sleep(0.3)
    world.start()
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.decision == "rested"
    assert state.phases["before"]["at"] < state.phases["after"]["at"]


async def test_signals_are_taken_in_order_whether_sent_before_or_after_the_wait(
    worlds: Worlds,
) -> None:
    world = worlds.make(listening)
    run = await begin(world)
    await stands(world, run, "waiting")
    await world.orchestrator.signal(run, "other", {"n": 0}, "ann")
    await world.orchestrator.signal(run, "word", {"n": 1}, "ann")
    await world.orchestrator.signal(run, "word", {"n": 2}, "bob")
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.result == {
        "first": {"value": {"n": 1}, "by": "ann"}, "second": {"value": {"n": 2}, "by": "bob"},
    }  # fmt: skip
    assert [s.name for s in state.signals] == ["other"]


async def test_what_another_process_added_is_not_lost_on_the_owner(worlds: Worlds) -> None:
    """The command line adds a signal to the journal and can't tell the orchestrator."""
    go_on = asyncio.Event()

    async def working(turn: Turn) -> None:
        async def look() -> dict[str, Any]:
            await go_on.wait()
            return {}

        await turn.phase("look", look)
        told = await turn.signal("one", "word", timeout_s=30.0)
        await turn.end("heard", "", {"told": told})

    world = worlds.make(working)
    run = await begin(world)
    await world.until(lambda: "before host work" in world.trace)
    other = SqlJournal("sqlite:///journal.db", world.folder, SystemClock(), SystemIds())
    control.signal(other, run, "word", {"n": 1}, "ann")
    other.close()
    go_on.set()
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.result["told"] == {"value": {"n": 1}, "by": "ann"}
    assert state.failures == 0
    assert fold(run, world.journal.read(run)) == state


async def test_a_wait_that_another_owner_began_is_ended_by_who_is_left(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RESCAN_S", 0.02)
    world = worlds.make(sleeping)
    run = await begin(world)
    await stands(world, run, "waiting")
    # Another owner claims it and sets a timer of its own; then it is gone.
    other = SqlJournal("sqlite:///journal.db", world.folder, SystemClock(), SystemIds())
    epoch = other.claim(run, "another owner")
    until = time.time() + 0.1
    other.append(run, epoch, [WaitBegun(step="nap", awaited="timer", until=until)])
    other.close()
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert (state.ended.decision, state.failures) == ("rested", 0)


async def test_a_signal_that_does_not_come_in_time_is_none(worlds: Worlds) -> None:
    async def brief(turn: Turn) -> None:
        told = await turn.signal("one", "word", timeout_s=0.05)
        await turn.end("heard", "", {"told": told})

    world = worlds.make(brief)
    (state,) = await world.ended(await begin(world))
    assert state.ended is not None
    assert state.ended.result == {"told": None}


@pytest.mark.parametrize(
    "point",
    [
        "before append wait_begun one", "after append wait_begun one",
        "before append signal_sent+wait_ended one",
        "after append signal_sent+wait_ended one",
    ],
)  # fmt: skip
async def test_after_a_crash_around_a_wait_it_goes_on_and_no_signal_is_lost_that_was_taken(
    worlds: Worlds, point: str
) -> None:
    world = worlds.make(listening)
    world.faults[point] = [Crash()]
    run = await begin(world)
    if "signal" in point:
        await stands(world, run, "waiting")
        with pytest.raises(Crash):
            await world.orchestrator.signal(run, "word", {"n": 1}, "ann")
    await world.until(lambda: world.dead)
    await restart(world)
    taken = "after append signal" in point
    for number in range(1 + taken, 3):
        async with asyncio.timeout(10):
            while len(fold(run, world.journal.read(run)).waited) < number - 1:
                await asyncio.sleep(0.005)
        await world.orchestrator.signal(run, "word", {"n": number}, "ann")
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.decision == "heard", state.ended
    assert [state.ended.result[k]["value"]["n"] for k in ("first", "second")] == [1, 2]


def family(kinds: list[str], limit: float | None = None) -> Work:
    async def parent(turn: Turn) -> None:
        children = [Child(kind, {"n": i}) for i, kind in enumerate(kinds)]
        told = await turn.children("fan", children, timeout_s=limit)
        await turn.end("gathered", "", {"told": told})

    return parent


async def doubled(turn: Turn) -> None:
    await turn.sleep("nap", 0.02)
    await turn.end("done", "", {"n": 2 * turn.run.input["n"]})


async def test_children_run_beside_each_other_and_come_back_in_order(worlds: Worlds) -> None:
    world = worlds.make(family(["doubled"] * 5), {"doubled": doubled})
    (state,) = await world.ended(await begin(world))
    assert state.ended is not None
    told = state.ended.result["told"]
    assert [t["result"]["n"] for t in told] == [0, 2, 4, 6, 8]
    rows = world.journal.runs(parent=state.run_id)
    assert sorted(r.run_id for r in rows) == sorted(t["run"] for t in told)


@pytest.mark.parametrize(
    "point",
    [
        "after create", "after append wait_begun fan", "before append wait_ended fan",
        "after append wait_ended fan", "before append wait_ended nap",
    ],
)  # fmt: skip
async def test_after_a_crash_no_child_is_begun_twice_and_none_is_waited_for_in_vain(
    worlds: Worlds, point: str
) -> None:
    world = worlds.make(family(["doubled"] * 3), {"doubled": doubled})
    run = await begin(world)
    world.faults[point] = [Crash()]
    await world.until(lambda: world.dead)
    await restart(world)
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert [t["result"]["n"] for t in state.ended.result["told"]] == [0, 2, 4]
    assert len(world.journal.runs(parent=run)) == 3


async def test_a_child_that_fails_is_told_and_does_not_break_its_parent(worlds: Worlds) -> None:
    async def bad(turn: Turn) -> None:
        raise InvalidInput("n", turn.run.input["n"], "another number")

    world = worlds.make(family(["bad", "doubled"]), {"doubled": doubled, "bad": bad})
    (state,) = await world.ended(await begin(world))
    assert state.ended is not None
    assert [t["decision"] for t in state.ended.result["told"]] == ["failed", "done"]


async def test_too_many_children_are_refused(worlds: Worlds) -> None:
    world = worlds.make(family(["doubled"] * 1001), {"doubled": doubled})
    (state,) = await world.ended(await begin(world))
    assert state.ended is not None
    assert "at most 1000" in state.ended.reason
    assert world.journal.runs(parent=state.run_id) == []


@pytest.mark.parametrize("work", [forever, stubborn], ids=["waiting", "working"])
async def test_a_run_that_is_past_its_deadline_ends_as_failed(worlds: Worlds, work: Work) -> None:
    world = worlds.make(work)
    run = await begin(world, deadline_at=time.time() + 0.2)
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert (state.ended.decision, state.ended.reason) == ("failed", "its deadline has passed")


async def test_a_deadline_that_passed_while_nothing_ran_ends_the_run_at_the_next_start(
    worlds: Worlds,
) -> None:
    world = worlds.make(forever)
    deadline_at = time.time() + 2
    run = await begin(world, deadline_at=deadline_at)
    await stands(world, run, "waiting")
    await world.stop()
    await asyncio.sleep(max(deadline_at - time.time(), 0) + 0.05)
    world.start()
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.decision == "failed"


@pytest.mark.parametrize("work", [forever, stubborn], ids=["waiting", "working"])
async def test_a_cancelled_run_ends_and_a_turn_under_way_is_broken_off(
    worlds: Worlds, work: Work
) -> None:
    world = worlds.make(work)
    run = await begin(world)
    await world.until(lambda: world.orchestrator._driver.busy)
    await world.orchestrator.cancel(run, "ann", "not needed")
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert (state.ended.decision, state.ended.reason) == ("cancelled", "not needed")
    with pytest.raises(Conflict, match="has ended"):
        await world.orchestrator.cancel(run, "bob")


async def test_what_was_done_is_undone_when_asked_for_and_only_then(worlds: Worlds) -> None:
    for key, undo in (("kept", False), ("undone", True)):
        world = worlds.make(forever)
        run = await begin(world, key)
        await stands(world, run, "waiting")
        assert world.connector.counts()["queues"] == 1
        await world.orchestrator.cancel(run, "ann", undo=undo)
        (state,) = await world.ended(run)
        assert state.ended is not None
        assert state.ended.result == ({"undone": ["assign"], "left": []} if undo else {})
        assert world.connector.counts()["queues"] == (0 if undo else 1)
        if not undo:
            await world.orchestrator.close()
            world.connector._desk._db.execute("delete from queues")
            await world.stop()


@pytest.mark.parametrize(
    "point",
    [
        "before append cancel_asked", "after append cancel_asked", "before claim", "after claim",
        "before connector withdraw", "after connector withdraw",
        "before append effect_done undo:assign", "after append effect_done undo:assign",
        "before append run_ended", "after append run_ended",
    ],
)  # fmt: skip
async def test_after_a_crash_a_cancellation_goes_on_and_undoes_once(
    worlds: Worlds, point: str
) -> None:
    world = worlds.make(forever)
    run = await begin(world)
    await stands(world, run, "waiting")
    world.faults[point] = [Crash()]
    try:
        await world.orchestrator.cancel(run, "ann", undo=True)
    except Crash:
        pass
    await world.until(lambda: world.dead)
    await restart(world)
    if fold(run, world.journal.read(run)).cancelled is None:
        await world.orchestrator.cancel(run, "ann", undo=True)
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.decision == "cancelled"
    assert world.connector.counts()["queues"] == 0
    assert state.ended.result == {"undone": ["assign"], "left": []}


async def test_cancelling_a_parent_cancels_its_children(worlds: Worlds) -> None:
    world = worlds.make(family(["forever", "forever"]), {"forever": forever})
    run = await begin(world)
    await stands(world, run, "waiting")
    children = [r.run_id for r in world.journal.runs(parent=run)]
    await world.orchestrator.cancel(run, "ann")
    states = await world.ended(run, *children)
    assert {s.ended.decision for s in states if s.ended} == {"cancelled"}


async def test_a_paused_run_is_left_alone_over_a_restart_until_it_is_resumed(
    worlds: Worlds,
) -> None:
    world = worlds.make(sleeping)
    run = await begin(world)
    await stands(world, run, "waiting")
    await world.orchestrator.pause(run, "ann", "lunch")
    await restart(world)
    await asyncio.sleep(0.3)
    assert fold(run, world.journal.read(run)).status == "paused"
    assert world.journal.row(run).status == "paused"
    with pytest.raises(Conflict, match="paused"):
        await world.orchestrator.pause(run, "bob")
    await world.orchestrator.resume(run, "ann")
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert state.ended.decision == "rested"
    with pytest.raises(Conflict):
        await world.orchestrator.resume(run, "ann")


async def test_a_turn_that_was_paused_under_way_can_write_no_more(worlds: Worlds) -> None:
    world = worlds.make(stubborn)
    run = await begin(world)
    await world.until(lambda: "before host work" in world.trace)
    await world.orchestrator.pause(run, "ann")
    state = await stands(world, run, "paused")
    assert state.epoch == 2
    await world.orchestrator.cancel(run, "ann")
    await world.ended(run)


async def flaky(turn: Turn) -> None:
    async def look() -> dict[str, Any]:
        return {"looked": turn.run.run_id}

    await turn.phase("intent", sure)
    seen = await turn.phase("look", look)
    await turn.act("assign", "assign", {"queue": "q"})
    if not turn.run.options.forked_from:
        raise InvalidInput("shelf", "empty", "a full one")
    await turn.end("done", "", seen)


async def test_a_retry_goes_on_where_the_run_failed_and_repeats_no_effect(worlds: Worlds) -> None:
    world = worlds.make(flaky)
    run = await begin(world)
    (failed,) = await world.ended(run)
    assert failed.ended is not None
    assert failed.ended.decision == "escalated"
    again = await world.orchestrator.retry(run, "ann")
    assert again == await world.orchestrator.retry(run, "bob") != run
    (state,) = await world.ended(again)
    assert state.ended is not None
    assert (state.ended.decision, state.ended.result) == ("done", {"looked": run})
    assert (state.options.forked_from, state.options.forked_at) == (run, failed.seq)
    assert world.connector.counts()["queues"] == 1
    assert world.journal.verify(again) == state.seq
    with pytest.raises(Conflict, match="it is done"):
        await world.orchestrator.retry(again, "ann")


async def test_a_fork_knows_what_was_by_then_and_does_the_rest_by_itself(worlds: Worlds) -> None:
    world = worlds.make(listening)
    run = await begin(world)
    for number in (1, 2):
        await world.orchestrator.signal(run, "word", {"n": number}, "ann")
    (state,) = await world.ended(run)
    events = world.journal.read(run)
    first = next(e.seq for e in events if isinstance(e.payload, WaitEnded))
    fork = await world.orchestrator.fork(run, first, "f")
    await stands(world, fork, "waiting" if _signals_left(events, first) == 0 else "ended")
    if _signals_left(events, first) == 0:
        await world.orchestrator.signal(fork, "word", {"n": 3}, "ann")
    (forked,) = await world.ended(fork)
    assert forked.ended is not None
    assert state.ended is not None
    assert forked.ended.result["first"] == state.ended.result["first"]
    assert fold(run, world.journal.read(run)) == state
    for wrong in (0, len(events) + 1, -1):
        with pytest.raises(InvalidInput, match="after"):
            await world.orchestrator.fork(run, wrong, f"f{wrong}")


def _signals_left(events: list[Any], after: int) -> int:
    return len(fold("r", events[:after]).signals)


async def test_events_are_followed_from_any_number_and_waited_for(worlds: Worlds) -> None:
    world = worlds.make(listening)
    run = await begin(world)
    waiting = await stands(world, run, "waiting")
    events, over = await world.orchestrator.events(run, 0, 1.0)
    assert [e.seq for e in events] == list(range(1, waiting.seq + 1))
    assert isinstance(events[0].payload, RunStarted)
    assert isinstance(events[-1].payload, WaitBegun)
    assert not over
    following = asyncio.ensure_future(world.orchestrator.events(run, waiting.seq, 10.0))
    await asyncio.sleep(0.02)
    assert not following.done()
    await world.orchestrator.signal(run, "word", {"n": 1}, "ann")
    later, _ = await following
    assert later[0].seq == waiting.seq + 1
    assert await world.orchestrator.events(run, waiting.seq, 0.0, limit=1) == (later[:1], False)
    for gone in (-1, 99_999):
        with pytest.raises(InvalidInput, match="after"):
            await world.orchestrator.events(run, gone, 0.0)
    with pytest.raises(NotFound):
        await world.orchestrator.events("run_none", 0, 0.0)


async def test_a_result_that_no_event_can_hold_fails_the_run_and_says_so(worlds: Worlds) -> None:
    async def large(turn: Turn) -> None:
        async def load() -> dict[str, Any]:
            return {"text": "x" * 10_000_000}

        await turn.phase("load", load)

    world = worlds.make(large)
    (state,) = await world.ended(await begin(world))
    assert state.ended is not None
    assert state.ended.decision == "escalated"
    assert "result of load" in state.ended.reason
    assert "at most 1000000" in state.ended.reason
    assert world.journal.verify(state.run_id) == state.seq


async def test_a_run_of_ten_thousand_steps_ends_and_is_recovered(worlds: Worlds) -> None:
    async def long(turn: Turn) -> None:
        async def nothing() -> dict[str, Any]:
            return {}

        for number in range(10_000):
            await turn.phase(str(number), nothing)
        await turn.end("done", "", {})

    world = worlds.make(long, turn_timeout_s=110.0)
    async with asyncio.timeout(110):
        run = await begin(world)
        while not (states := await world.orchestrator.wait([run], 5.0)):
            pass
    assert len(states[0].phases) == 10_000
    assert world.journal.verify(run) == 10_003


async def test_attempts_are_counted_since_the_run_last_got_on(worlds: Worlds) -> None:
    broken = {f"{step}{n}" for step in "abcd" for n in range(2)}

    async def look() -> dict[str, Any]:
        return {}

    async def shaky(turn: Turn) -> None:
        for step in "abcd":
            for n in range(2):
                if f"{step}{n}" in broken:
                    broken.discard(f"{step}{n}")
                    raise DataError("shelf", "it fell")
            await turn.phase(step, look)
        await turn.end("done", "", {})

    (state,) = await worlds.make(shaky).ended(await begin(worlds.made[0]))
    assert state.ended is not None
    assert (state.ended.decision, state.failures) == ("done", 8)


async def test_rest_between_attempts_holds_no_slot(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(turn: Turn) -> None:
        if turn.run.agent == "a":
            raise DataError("shelf", "it fell")
        await turn.end("done", "", {})

    world = worlds.make(broken, concurrency=1, interactive_slots=0)
    monkeypatch.setattr(driver, "_BACKOFF_S", 30.0)
    run = await begin(world)
    await world.until(lambda: fold(run, world.journal.read(run)).failures == 1)
    (state,) = await world.ended(await begin(world, "other", "b"))
    assert state.ended is not None
    assert state.ended.decision == "done"
    await world.until(lambda: not world.orchestrator._driver.busy)
    assert await world.orchestrator.open() == 1


async def test_the_workflow_that_the_readme_shows_runs(worlds: Worlds) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    shown = readme[readme.index("    async def work(turn):") :].split("\n\n", 1)[0]

    async def look() -> dict[str, Any]:
        return {"queue": "q", "tickets": [T, T]}

    async def asked(turn: Turn) -> None:
        await turn.end("done", "", {"ticket": turn.run.input["ticket"]})

    known: dict[str, Any] = {"Child": Child, "look": look}
    exec(textwrap.dedent(shown).replace("86_400", "0.01"), known)
    world = worlds.make(asked, {"readme": known["work"]})
    run = await world.orchestrator.submit("default", "k", "readme", "a", {"ticket": T})
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert [t["result"] for t in state.ended.result["told"]] == [{"ticket": T}] * 2
