"""Agents over hosts: found by name alone, moved only when their host is lost."""

from typing import Any

import pytest

from agents.placement import LOST_FOR_S, Placement, no_spawn, own_host
from cluster.errors import Unavailable
from tests.fakes import FakeClock

HOSTS = [f"host-{i}" for i in range(4)]
AGENTS = [f"a-{i}" for i in range(400)]


def places(placement: Placement) -> dict[str, str]:
    return {agent: placement.place("t", agent) for agent in AGENTS}


def test_agents_are_spread_evenly_and_every_owner_finds_the_same_place() -> None:
    found = places(Placement(HOSTS, no_spawn, FakeClock()))
    assert found == places(Placement(HOSTS[::-1], no_spawn, FakeClock()))
    for host in HOSTS:
        assert 60 < list(found.values()).count(host) < 140


def test_when_a_host_is_lost_only_its_agents_move_and_they_come_back() -> None:
    clock = FakeClock()
    placement = Placement(HOSTS, no_spawn, clock)
    before = places(placement)
    placement.lost("host-1")
    during = places(placement)
    assert "host-1" not in during.values()
    assert len({during[a] for a in AGENTS if before[a] == "host-1"}) == 3
    assert all(during[a] == before[a] for a in AGENTS if before[a] != "host-1")
    clock.step(LOST_FOR_S)
    assert places(placement) == before


def test_when_all_hosts_are_lost_an_agent_still_has_a_place() -> None:
    placement = Placement(["host-0"], no_spawn, FakeClock())
    placement.lost("host-0")
    assert placement.place("t", "a") == "host-0"


def test_an_isolated_agent_has_an_actor_of_its_own_that_ends_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr("agents.placement.ray.kill", killed.append)
    spawned: list[str] = []
    clock = FakeClock()

    def spawn(host: str) -> str:
        spawned.append(host)
        return f"handle of {host}"

    placement = Placement(["host-0"], spawn, clock)
    host = placement.place("t", "a", isolated=True)
    assert host == own_host("t", "a") != own_host("u", "a")
    assert placement.handle(host) == placement.handle(host) == f"handle of {host}"
    assert spawned == [host]
    clock.step(50)
    placement.handle(host)
    clock.step(50)
    assert placement.retire(60) == []
    clock.step(11)
    assert placement.retire(60) == [host]
    assert killed == [f"handle of {host}"]
    placement.handle(host)
    assert spawned == [host, host]


def test_without_a_way_to_start_them_isolated_agents_are_unavailable() -> None:
    placement = Placement(["host-0"], no_spawn, FakeClock())
    with pytest.raises(Unavailable, match="isolated"):
        placement.handle(placement.place("t", "a", isolated=True))
