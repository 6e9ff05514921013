"""A host holds who is asked for, and lets go of who is not."""

from typing import Any

import pytest

from agents import host as module
from agents.host import AgentHost
from agents.state import AgentState
from tests.fakes import FakeClock


class Office:
    """An orchestrator that counts how often it is asked for an agent."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def agent(self) -> "Office":
        return self

    @property
    def listening(self) -> "Office":
        return self

    async def remote(self, *agent: str) -> AgentState | None:
        if not agent:
            return None  # it listens nowhere: call it as Ray does
        self.asked.append("/".join(agent))
        return AgentState(agent[1])


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    office = Office()
    monkeypatch.setattr(module, "actor", lambda _name: office)
    return office


def held(monkeypatch: pytest.MonkeyPatch, clock: FakeClock, **limits: Any) -> AgentHost:
    monkeypatch.setattr(module, "SystemClock", lambda: clock)
    return AgentHost(dict, **limits)


async def test_an_agent_is_activated_once_and_put_to_sleep_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch, office: Office
) -> None:
    clock = FakeClock()
    host = held(monkeypatch, clock, idle_s=60.0)
    for name in ("a", "b"):
        await host.agent("orchestrator", "t", name)
        await host.agent("orchestrator", "t", name)
    assert office.asked == ["t/a", "t/b"]
    clock.step(50)
    await host.agent("orchestrator", "t", "b")
    clock.step(20)
    assert await host.awake() == 1
    await host.agent("orchestrator", "t", "b")
    await host.agent("orchestrator", "t", "a")
    assert office.asked == ["t/a", "t/b", "t/a"]


async def test_of_too_many_the_longest_idle_goes_first(
    monkeypatch: pytest.MonkeyPatch, office: Office
) -> None:
    monkeypatch.setattr(module, "_MAX_AGENTS", 2)
    host = held(monkeypatch, FakeClock(), idle_s=60.0)
    for name in ("a", "b", "a", "c"):
        await host.agent("orchestrator", "t", name)
    assert await host.awake() == 2
    await host.agent("orchestrator", "t", "a")
    assert office.asked == ["t/a", "t/b", "t/c"]
    await host.agent("orchestrator", "t", "b")
    assert office.asked[-1] == "t/b"
