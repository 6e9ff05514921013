"""Group commit: what many runs have to write at once goes to disk in one transaction.

A full sync takes about as long for one step as for a hundred. While a commit is on its way, what
arrives is collected for the next one; nobody waits for company.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from cluster.errors import Overloaded

T = TypeVar("T")

MAX_WAITING: Final = 10_000
_MAX_GROUP: Final = 256


class Together(Protocol):
    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all of `work` in one transaction; each one's result, or the error that it raised."""


class Commits:
    """The one way to a journal, or to the accounts, from an event loop. Its work is done in the
    order of asking, by one thread: commits take turns anyway, and the loop stays free."""

    def __init__(self, journal: Together) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commits")
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def do(self, work: Callable[..., T], *args: Any) -> T:
        """The result of `work(*args)`, a method of the journal, once it is on disk.

        Raises what `work` raises, which undoes nothing but itself; Overloaded when MAX_WAITING
        wait already; Unavailable, as for all of its group, when the commit fails.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("journal", f"{MAX_WAITING} writes wait for the disk", 1.0)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((partial(work, *args), done))
        if self._writing is None:
            self._writing = loop.create_task(self._write())
        return await done

    def close(self) -> None:
        """Wait for the commit under way; nothing is written after it."""
        self._waiting.clear()
        self._thread.shutdown(wait=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                size = min(len(self._waiting), _MAX_GROUP)
                await self._commit([self._waiting.popleft() for _ in range(size)])
        finally:
            self._writing = None

    async def _commit(self, group: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> None:
        together = partial(self._journal.together, [work for work, _ in group])
        results: list[Any]
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, together)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # Whatever it was, those who wait are told; none of their work was done.
            results = [error] * len(group)
        for (_, done), result in zip(group, results, strict=True):
            if done.cancelled():
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
            else:
                done.set_result(result)
