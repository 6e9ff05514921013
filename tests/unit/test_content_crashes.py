"""The content workflow inside the real orchestrator: after a crash at any point a piece is
published once, and what it had is written back once."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.host import Workflow
from agents.packs import PackParts
from agents.state import RunState
from cluster.ids import SystemClock
from tests.content import BRIEF, GoodWriter
from tests.fakes import ListRecaller
from tests.packs import shipped
from tests.world import Crash, World, Worlds

PACK = shipped("content")
ENGAGEMENT = {
    "task": "engagement", "subject": "the-new-oak-lamp", "channel": "site", "views": 90,
    "clicks": 9,
}  # fmt: skip


def work() -> Workflow:
    parts = PackParts(
        GoodWriter(), ListRecaller(), "planner", "routine", 5.0, SystemClock()  # type: ignore[arg-type]
    )  # fmt: skip
    return partial(PACK.worked, parts=parts)


@pytest.fixture
def usual_work() -> Workflow:
    return work()


def points(*steps: tuple[str, str]) -> list[str]:
    """Both sides of all that is written and done for these steps and tools."""
    of = [
        what
        for step, tool in steps
        for what in (
            f"append step_decided {step}+effect_started {step}", f"connector {tool}",
            f"append effect_done {step}",
        )
    ]  # fmt: skip
    return [f"{side} {what}" for what in (*of, "append run_ended") for side in ("before", "after")]


def made(worlds: Worlds) -> World:
    return worlds.make(others={"content": work()}, packs=("content",))


async def ended(world: World, key: str, given: dict[str, Any]) -> RunState:
    agent = f"content/{given.get('subject') or 'the-new-oak-lamp'}"
    run = await world.orchestrator.submit("default", key, "content", agent, PACK.read(given))
    (state,) = await world.ended(run)
    return state


async def crashed(world: World, key: str, given: dict[str, Any], point: str) -> None:
    """A run that meets a power cut at `point`, and a new life of everything."""
    world.faults[point] = [Crash()]
    agent = f"content/{given.get('subject') or 'the-new-oak-lamp'}"
    await world.orchestrator.submit("default", key, "content", agent, PACK.read(given))
    await world.until(lambda: world.dead)
    await world.stop()
    world.start()


@pytest.mark.parametrize(
    "point", points(("discover", "content.discover"), ("publish", "content.publish"))
)
async def test_a_piece_is_published_once(worlds: Worlds, tmp_path: Path, point: str) -> None:
    world = made(worlds)
    await crashed(world, "k", BRIEF, point)
    state = await ended(world, "k", BRIEF)
    assert state.ended is not None and state.ended.decision == "published"
    kinds = [e["kind"] for e in world.desk("content").effects()]
    assert kinds.count("publish") == 1
    assert len(list((tmp_path / "packs/content/files/published").glob("*.md"))) == 1
    assert world.journal.verified(state.run_id)


@pytest.mark.parametrize("point", points(("engage", "content.engage")))
async def test_engagement_is_written_back_once(worlds: Worlds, point: str) -> None:
    world = made(worlds)
    await ended(world, "first", BRIEF)
    await crashed(world, "k", ENGAGEMENT, point)
    state = await ended(world, "k", ENGAGEMENT)
    assert state.ended is not None and state.ended.decision == "recorded"
    kinds = [e["kind"] for e in world.desk("content").effects()]
    assert (kinds.count("publish"), kinds.count("engage")) == (1, 1)
