"""A turn does each phase once in the life of a run, and adds nothing after its end."""

from pathlib import Path
from typing import Any

import pytest

from agents.turn import Turn
from cluster.errors import Conflict, StaleEpoch
from tests.fakes import FakeClock, Office, connector, ticket


class Work:
    """A phase's work that counts how often it was done."""

    def __init__(self, clock: FakeClock, error: Exception | None = None) -> None:
        self.times = 0
        self._clock = clock
        self._error = error

    async def __call__(self) -> dict[str, Any]:
        self.times += 1
        self._clock.step(1.5)
        if self._error is not None:
            raise self._error
        return {"times": self.times}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    desk = connector(tmp_path)
    desk.open_tickets([ticket("T-001")])
    return Office(desk, "T-001")


def _turn(office: Office, clock: FakeClock, epoch: int = 0) -> Turn:
    return Turn(office.state, epoch, office.agent, office, clock)


async def test_a_phase_is_done_once_and_its_duration_is_kept(office: Office) -> None:
    clock = FakeClock()
    work = Work(clock)
    assert await _turn(office, clock).phase("plan", work) == {"times": 1}
    assert office.state.seconds == {"plan": 1.5}
    assert await _turn(office, clock).phase("plan", work) == {"times": 1}
    assert work.times == 1


async def test_a_phase_that_fails_is_not_done_and_is_tried_again(office: Office) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="broken"):
        await _turn(office, clock).phase("plan", Work(clock, ValueError("broken")))
    assert office.state.phases == {}
    assert await _turn(office, clock).phase("plan", Work(clock)) == {"times": 1}


async def test_a_turn_that_was_overtaken_can_write_nothing(office: Office) -> None:
    clock = FakeClock()
    with pytest.raises(StaleEpoch):
        await _turn(office, clock, epoch=7).phase("plan", Work(clock))
    assert office.state.phases == {}


async def test_nothing_is_added_after_the_end(office: Office) -> None:
    turn = office.turn()
    await turn.end("escalated", "no plan", {"plan": ""})
    assert office.state.ended is not None
    assert office.state.ended.decision == "escalated"
    with pytest.raises(Conflict):
        await turn.end("replied", "after all", {})
    with pytest.raises(Conflict):
        await turn.phase("plan", Work(FakeClock()))


async def test_an_effect_asked_for_twice_is_done_once(office: Office) -> None:
    args = {"reason": "needs_person", "summary": "x"}
    first = await office.turn().act("escalate", "escalate", args)
    again = await office.turn().act("escalate", "escalate", args)
    assert first.receipt == again.receipt
    assert office.connector.counts()["escalations"] == 1
