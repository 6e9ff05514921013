"""Calls go together when they are asked for together, and each gets its own answer."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from ray.exceptions import RayActorError

from agents.batching import Answer, Batches, Call, Threaded, answered
from cluster.errors import NotFound


class Actor:
    """Answers like one with an event loop; `together` are the sizes of its batches."""

    def __init__(self) -> None:
        self.alone: list[str] = []
        self.together: list[int] = []
        self.slow = asyncio.Event()
        self.lost = False

    async def double(self, number: int) -> int:
        self.alone.append("double")
        return 2 * number

    async def refuse(self, what: str) -> None:
        raise NotFound("thing", what)

    async def wait(self) -> str:
        await self.slow.wait()
        return "at last"

    async def many(self, calls: Sequence[Call]) -> AsyncIterator[list[Answer]]:
        self.together.append(len(calls))
        async for answers in answered([getattr(self, name)(*args) for name, args in calls]):
            yield answers


class Remote:
    """A handle on it, as Ray gives one."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return Method(self._actor, name)


class Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def options(self, **_: Any) -> "Method":
        return self

    def remote(self, *args: Any) -> Any:
        if self._actor.lost:
            raise RayActorError
        given = getattr(self._actor, self._name)(*args)
        return self._streamed(given) if self._name == "many" else given

    async def _streamed(self, given: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for part in given:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            done.set_result(part)
            yield done


async def test_what_is_asked_for_together_goes_together() -> None:
    actor = Actor()
    calls = Batches(lambda: Remote(actor))
    assert await calls.do("double", 4) == 8
    assert (actor.together, actor.alone) == ([], ["double"])
    assert await asyncio.gather(*(calls.do("double", i) for i in range(20))) == list(
        range(0, 40, 2)
    )
    assert actor.together == [20]


async def test_each_gets_its_own_error() -> None:
    calls = Batches(lambda: Remote(actor))
    actor = Actor()
    told = await asyncio.gather(
        calls.do("double", 1), calls.do("refuse", "x"), calls.do("double", 2),
        return_exceptions=True,
    )  # fmt: skip
    assert [told[0], told[2]] == [2, 4]
    assert isinstance(told[1], NotFound)
    with pytest.raises(NotFound, match="'y'"):
        await calls.do("refuse", "y")


async def test_nobody_waits_for_a_slower_one_that_went_along() -> None:
    actor = Actor()
    calls = Batches(lambda: Remote(actor))
    slow = asyncio.ensure_future(calls.do("wait"))
    quick = asyncio.ensure_future(calls.do("double", 1))
    assert await asyncio.wait_for(quick, 5) == 2
    assert not slow.done()
    assert actor.together == [2]
    actor.slow.set()
    assert await asyncio.wait_for(slow, 5) == "at last"


async def test_all_are_told_when_the_actor_is_lost() -> None:
    actor = Actor()
    actor.lost = True
    calls = Batches(lambda: Remote(actor))
    told = await asyncio.gather(*(calls.do("double", i) for i in range(3)), return_exceptions=True)
    assert [type(t) for t in told] == [RayActorError] * 3
    actor.lost = False
    assert await calls.do("double", 1) == 2


async def test_who_no_longer_waits_disturbs_nobody() -> None:
    actor = Actor()
    calls = Batches(lambda: Remote(actor))
    gone = asyncio.ensure_future(calls.do("wait"))
    stays = asyncio.ensure_future(calls.do("double", 1))
    assert await stays == 2
    gone.cancel()
    actor.slow.set()
    await asyncio.sleep(0.01)
    assert gone.cancelled()
    assert await calls.do("double", 2) == 4


class Blocking(Threaded):
    def __init__(self) -> None:
        self.go_on = threading.Event()

    def double(self, number: int) -> int:
        return 2 * number

    def wait(self) -> str:
        assert self.go_on.wait(5)
        return "at last"

    def refuse(self) -> None:
        raise NotFound("thing", "x")


def test_threads_answer_as_they_are_ready_and_each_for_itself() -> None:
    blocking = Blocking()
    groups = blocking.many([("wait", ()), ("double", (1,)), ("refuse", ()), ("double", (2,))])
    found: dict[int, Answer] = {}
    while len(found) < 3:
        found |= {a.index: a for a in next(groups)}
    assert 0 not in found
    blocking.go_on.set()
    found |= {a.index: a for group in groups for a in group}
    assert [found[i].value for i in (0, 1, 3)] == ["at last", 2, 4]
    assert isinstance(found[2].error, NotFound)
