"""Group commit: who waits together is written together, and each gets its own answer."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agents import commits as module
from agents.commits import Commits
from cluster.errors import NotFound, Overloaded, Unavailable


class SlowDisk:
    """A journal that commits when it is let; `groups` holds the sizes of its transactions."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.broken = False
        self._let = threading.Semaphore(0)

    def let(self, commits: int = 1) -> None:
        self._let.release(commits)

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        self.groups.append(len(work))
        assert self._let.acquire(timeout=10)
        if self.broken:
            raise Unavailable("database", "no room")
        results: list[Any] = []
        for call in work:
            try:
                results.append(call())
            except NotFound as error:
                results.append(error)
        return results


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def commits(disk: SlowDisk) -> Commits:
    return Commits(disk)  # type: ignore[arg-type]


def missing() -> None:
    raise NotFound("run", "run-9")


async def begun(commits: Commits, *work: Callable[[], Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.ensure_future(commits.do(w)) for w in work]
    await asyncio.sleep(0.05)
    return tasks


async def test_what_comes_during_a_commit_is_one_commit(disk: SlowDisk, commits: Commits) -> None:
    first = await begun(commits, lambda: 0)
    rest = await begun(commits, *(lambda i=i: i for i in range(1, 6)))
    disk.let(2)
    assert await asyncio.gather(*first, *rest) == [0, 1, 2, 3, 4, 5]
    assert disk.groups == [1, 5]


async def test_one_that_fails_fails_alone(disk: SlowDisk, commits: Commits) -> None:
    first, *rest = await begun(commits, lambda: 0, lambda: 1, missing, lambda: 2)
    disk.let(2)
    done = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [d for d in done if not isinstance(d, NotFound)] == [0, 1, 2]
    assert isinstance(done[2], NotFound)


async def test_a_commit_that_fails_fails_for_its_group_and_the_next_goes_on(
    disk: SlowDisk, commits: Commits
) -> None:
    disk.broken = True
    tasks = await begun(commits, lambda: 0)
    disk.let()
    with pytest.raises(Unavailable, match="no room"):
        await tasks[0]
    disk.broken = False
    disk.let()
    assert await commits.do(lambda: 1) == 1


async def test_who_gives_up_waiting_does_not_hold_the_others_up(
    disk: SlowDisk, commits: Commits
) -> None:
    first = await begun(commits, lambda: 0)
    gone, other = await begun(commits, lambda: 1, lambda: 2)
    gone.cancel()
    disk.let(2)
    assert await first[0] == 0
    assert await other == 2


async def test_a_queue_that_is_full_says_so(
    disk: SlowDisk, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    tasks = await begun(commits, lambda: 0)
    tasks += await begun(commits, lambda: 1, lambda: 2)
    with pytest.raises(Overloaded, match="2 writes wait"):
        await commits.do(lambda: 3)
    disk.let(2)
    assert await asyncio.gather(*tasks) == [0, 1, 2]
