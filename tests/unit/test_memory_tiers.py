"""What lives in the process only."""

import pytest

from cluster.errors import NotFound
from memory.records import Query
from memory.tiers import Echoes, Ephemeral
from tests.memories import START, Ticking, Words, said


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def own(clock: Ticking) -> Ephemeral:
    return Ephemeral(Words(), clock, most=3, ttl_s=60)


async def texts(own: Ephemeral, question: str, tenant: str = "shop") -> list[str]:
    hits = await own.recall(Query(tenant, question, k=10, min_score=0.1))
    return sorted(hit.record.text for hit in hits)


async def test_it_is_found_until_its_time_is_over(own: Ephemeral, clock: Ticking) -> None:
    line = said("the blue lamp")
    assert await own.remember([line, line]) == 1
    assert await own.remember([line]) == 0
    assert await texts(own, "blue lamp") == ["the blue lamp"]
    clock.time = START + 60
    assert await texts(own, "blue lamp") == []
    with pytest.raises(NotFound):
        await own.get("shop", line.id)


async def test_a_records_own_end_may_come_earlier(own: Ephemeral, clock: Ticking) -> None:
    await own.remember([said("short", expires_at=START + 5), said("long", expires_at=START + 500)])
    clock.time = START + 10
    assert [r.text for r in await own.listed("shop")] == ["long"]
    clock.time = START + 60
    assert await own.listed("shop") == []


async def test_beyond_its_size_the_oldest_goes(own: Ephemeral) -> None:
    for n in range(5):
        await own.remember([said(f"lamp {n}")])
    assert [r.text for r in await own.listed("shop")] == ["lamp 2", "lamp 3", "lamp 4"]


async def test_forgetting_by_id_or_subject_keeps_to_the_tenant(own: Ephemeral) -> None:
    mine, theirs = said("my lamp", subject="ann"), said("my lamp", subject="ann", tenant="other")
    await own.remember([mine, theirs])
    assert await own.forget("shop", [theirs.id]) == 0
    assert await own.forget("shop", subject="ann") == 1
    assert await texts(own, "lamp", "shop") == []
    assert await texts(own, "lamp", "other") == ["my lamp"]


async def test_echoes_are_bounded_and_forgotten(own: Ephemeral) -> None:
    echoes = Echoes()
    line = said("The  Blue lamp")
    await own.remember([line])
    hits = await own.recall(Query("shop", "blue lamp", session="s1"))
    echoes.hear(Query("shop", "blue lamp", session="s1"), hits)
    assert echoes.heard(said("the blue LAMP"))
    assert not echoes.heard(said("the blue lamp", session="s2"))
    for n in range(1_000):
        echoes.hear(Query("shop", "blue lamp", session=f"x{n}"), hits)
    assert not echoes.heard(said("the blue lamp"))
    assert echoes.heard(said("the blue lamp", session="x999"))
    echoes.forget("shop")
    assert not echoes.heard(said("the blue lamp", session="x999"))
