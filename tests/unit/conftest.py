"""Worlds for the tests of runs; see tests/world.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.host import Workflow
from agents.turn import Turn
from tests.world import Worlds


async def _ending(turn: Turn) -> None:
    await turn.end("done", "", {})


@pytest.fixture
def usual_work() -> Workflow:
    """What a world's runs do when a test does not say it; a test module may override it."""
    return _ending


@pytest.fixture
async def worlds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual_work: Workflow
) -> AsyncIterator[Worlds]:
    worlds = Worlds(tmp_path, monkeypatch, usual_work)
    yield worlds
    await worlds.stop()
