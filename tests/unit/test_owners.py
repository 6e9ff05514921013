"""Several orchestrators share the runs by agent; any of them may be asked about any run."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from agents import recovery
from agents.events import RunClaimed, RunOptions
from agents.orchestrator import Orchestrator
from agents.owners import NAME, Owners, orchestrator_names
from agents.specs import AgentSpec, ScheduleSpec
from agents.state import RunState
from agents.turn import Child, Turn
from cluster.errors import Unavailable
from cluster.settings import AgentsSection
from tests.world import GOVERNED, Crash, World, connect

COUNT: Final = 3
AGENTS: Final = [f"agent-{i}" for i in range(12)]


async def brief(turn: Turn) -> None:
    async def look() -> dict[str, Any]:
        return {"n": 1}

    await turn.phase("look", look)
    await turn.end("done", "", {"knows": len(turn.agent.turns)})


async def parent(turn: Turn) -> None:
    children = [Child("brief", {}, agent) for agent in AGENTS[:6]]
    told = await turn.children("fan", children, timeout_s=20)
    await turn.end("done", "", {"told": told})


async def listening(turn: Turn) -> None:
    told = await turn.signal("ear", "word")
    await turn.end("heard", "", {"told": told})


async def stubborn(turn: Turn) -> None:
    await asyncio.sleep(60)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    section = AgentsSection(orchestrators=COUNT, concurrency=12, **GOVERNED)
    workflows = {"brief": brief, "parent": parent, "listening": listening, "stubborn": stubborn}
    world = World(tmp_path, brief, section, **workflows)
    connect(monkeypatch, world)
    monkeypatch.setattr(recovery, "RESCAN_S", 0.05)
    yield world
    await world.stop()


async def begin(at: Orchestrator, workflow: str, agent: str, key: str = "") -> str:
    return await at.submit("t", key or f"k-{agent}", workflow, agent, {}, RunOptions())


def owner(world: World, agent: str) -> Orchestrator:
    names = orchestrator_names(COUNT)
    return world.orchestrators[names.index(Owners(names).of("t", agent))]


def others(world: World, agent: str) -> list[Orchestrator]:
    return [o for o in world.orchestrators if o is not owner(world, agent)]


async def stands(world: World, run: str, status: str) -> RunState:
    async with asyncio.timeout(10):
        while (state := await world.orchestrator.read(run)).status != status:
            await asyncio.sleep(0.005)
    return state


def claims(world: World, run: str) -> int:
    return sum(isinstance(e.payload, RunClaimed) for e in world.journal.read(run))


def test_an_agent_has_one_owner_and_the_owners_have_about_as_many_each() -> None:
    owners = Owners(orchestrator_names(4))
    assert owners.names[0] == NAME
    of = [owners.of("t", f"agent-{i}") for i in range(4_000)]
    assert of == [Owners(orchestrator_names(4)).of("t", f"agent-{i}") for i in range(4_000)]
    assert all(800 < n < 1_200 for n in Counter(of).values())


async def test_a_run_is_worked_once_by_its_owner_whoever_was_asked(world: World) -> None:
    runs = [await begin(world.orchestrators[i % COUNT], "brief", a) for i, a in enumerate(AGENTS)]
    states = await world.ended(*runs)
    assert [claims(world, s.run_id) for s in states] == [1] * len(AGENTS)
    assert len({id(owner(world, a)) for a in AGENTS}) == COUNT
    # The same key gives the same run at each of them.
    assert [await begin(o, "brief", AGENTS[0]) for o in world.orchestrators] == [runs[0]] * COUNT


async def test_what_an_agent_remembers_is_the_same_everywhere(world: World) -> None:
    for n in range(4):
        run = await begin(world.orchestrators[n % COUNT], "brief", "ann", f"k-{n}")
        (state,) = await world.ended(run)
        assert state.ended is not None
        assert state.ended.result == {"knows": n}
    remembered = [await o.agent("t", "ann") for o in world.orchestrators]
    assert remembered == [remembered[0]] * COUNT
    for at in world.orchestrators:
        assert (await at.replay("t", "ann"))[1:] == (16, True)


async def test_a_parent_is_woken_by_children_of_other_owners(world: World) -> None:
    run = await begin(world.orchestrator, "parent", "boss")
    (state,) = await world.ended(run)
    assert state.ended is not None
    assert [t["decision"] for t in state.ended.result["told"]] == ["done"] * 6
    assert len({id(owner(world, a)) for a in AGENTS[:6]}) == COUNT


async def test_signals_pauses_and_cancellations_reach_the_owner_from_any_other(
    world: World,
) -> None:
    for n, at in enumerate(others(world, "ear")):
        run = await begin(at, "listening", "ear", f"k-{n}")
        await stands(world, run, "waiting")
        await at.pause(run, "ann")
        await at.resume(run, "ann")
        await at.signal(run, "word", {"n": n}, "ann")
        (state,) = await world.ended(run)
        assert state.ended is not None
        assert state.ended.result["told"]["value"] == {"n": n}
    stuck = await begin(world.orchestrator, "stubborn", "ear", "stuck")
    await world.until(lambda: owner(world, "ear")._driver.busy)
    await others(world, "ear")[0].cancel(stuck, "ann")
    (state,) = await world.ended(stuck)
    assert state.ended is not None
    assert state.ended.decision == "cancelled"
    again = await others(world, "ear")[0].retry(stuck, "ann")
    assert (await stands(world, again, "open")).agent == "ear"


async def test_events_are_followed_from_any_of_them(world: World) -> None:
    at = others(world, "ear")[0]
    run = await begin(at, "listening", "ear")
    await stands(world, run, "waiting")
    seen, over = await at.events(run, 0, 0.0)
    assert not over
    following = asyncio.ensure_future(at.events(run, seen[-1].seq, 10.0))
    await asyncio.sleep(0.05)
    await at.signal(run, "word", {}, "ann")
    events, _ = await following
    assert events[0].seq == seen[-1].seq + 1


async def test_after_a_crash_each_takes_up_its_own(world: World) -> None:
    runs = [await begin(world.orchestrator, "listening", agent) for agent in AGENTS]
    for run in runs:
        await stands(world, run, "waiting")
    world.faults["before append signal_sent+wait_ended ear"] = [Crash()]
    with pytest.raises(Crash):
        await world.orchestrator.signal(runs[0], "word", {}, "ann")
    await world.stop()
    world.start()
    for n, run in enumerate(runs):
        await world.orchestrators[n % COUNT].signal(run, "word", {}, "ann")
    states = await world.ended(*runs)
    assert [s.failures for s in states] == [0] * len(runs)
    assert [world.journal.verify(s.run_id) for s in states] == [s.seq for s in states]


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_another_number_of_them_takes_up_what_is_open(world: World, count: int) -> None:
    runs = [await begin(world.orchestrator, "listening", agent) for agent in AGENTS]
    for run in runs:
        await stands(world, run, "waiting")
    await world.stop()
    world._section = AgentsSection(orchestrators=count, **GOVERNED)
    world.start()
    for n, run in enumerate(runs):
        await world.orchestrators[n % count].signal(run, "word", {}, "ann")
    states = await world.ended(*runs)
    assert [s.failures for s in states] == [0] * len(runs)


async def test_while_one_is_away_the_others_go_on(world: World) -> None:
    names = orchestrator_names(COUNT)
    away = next(a for a in AGENTS if owner(world, a) is world.orchestrators[2])
    here = [a for a in AGENTS if owner(world, a) is not world.orchestrators[2]]
    world.lose(names[2])
    with pytest.raises(Unavailable):
        await begin(world.orchestrator, "brief", away)
    states = await world.ended(*[await begin(world.orchestrator, "brief", a) for a in here])
    assert [s.failures for s in states] == [0] * len(here)
    assert b"mainspring_runs" in await world.orchestrator.metrics()


async def test_schedules_are_kept_by_one_and_told_by_all(world: World) -> None:
    spec = ScheduleSpec(name="nightly", cron="0 3 * * *", workflow="brief", agent="ann")
    made = await world.orchestrators[1].schedule("t", spec)
    assert [await o.schedules("t") for o in world.orchestrators] == [[made]] * COUNT
    await world.orchestrators[2].unschedule("t", "nightly")
    assert [await o.schedules("t") for o in world.orchestrators] == [[]] * COUNT


async def test_an_agent_forks_to_another_owner_with_what_it_remembers(world: World) -> None:
    await world.orchestrator.define_agent("t", AgentSpec(id="ann", workflow="brief"))
    runs = []
    for n in range(3):
        runs.append(await world.orchestrator.message("t", "ann", f"m-{n}", {"message": "hi"}))
        await world.ended(runs[-1])
    twin = next(a for a in AGENTS if owner(world, a) is not owner(world, "ann"))
    # Its owner believes that it knows the twin.
    assert (await owner(world, twin).agent("t", twin)).turns == ()
    spec = AgentSpec(id=twin, workflow="brief")
    await owner(world, "ann").fork_agent("t", "ann", spec, runs[2], 1)
    for run in world.journal.runs("t", None, twin):
        await world.ended(run.run_id)
    assert len((await world.orchestrator.agent("t", twin)).turns) == 3


async def test_metrics_are_those_of_all(world: World) -> None:
    await world.ended(*[await begin(world.orchestrator, "brief", a) for a in AGENTS])
    text = (await world.orchestrators[1].metrics()).decode()
    assert f'mainspring_runs{{status="ended"}} {len(AGENTS)}.0' in text
    assert text.count("# TYPE mainspring_turn_seconds histogram") == 1
    for name in orchestrator_names(COUNT):
        whole = f'orchestrator="{name}",outcome="whole",priority="interactive"'
        assert f"mainspring_turn_seconds_count{{{whole}}}" in text
