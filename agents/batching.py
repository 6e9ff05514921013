"""Calls between two actors, many at once in one.

A call between Ray actors costs about as much for one as for sixty. What is asked for in the same
turn of an event loop goes together; answers come back as they are there, so that nobody waits for a
slower one that went along. A call that has no company goes by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from cluster.errors import Unavailable
from cluster.session import own

Call = tuple[str, tuple[Any, ...]]
"""A method's name and its arguments."""

_THREADS: Final = 8


@dataclass(frozen=True)
class Answer:
    """What became of call number `index` of a batch: its `value`, or the `error` that it raised."""

    index: int
    value: Any = None
    error: BaseException | None = None


class Batches:
    """Calls of the actor that `target` gives; it has to have `many`, as the two below do it."""

    def __init__(self, target: Callable[[], Any]) -> None:
        self._target = target
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def do(self, method: str, *args: Any) -> Any:
        """What `method` of the actor answers; raises what it raises, and RayError when the actor
        is lost."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(((method, args), done))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await done

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._together(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _together(self, batch: list[tuple[Call, asyncio.Future[Any]]]) -> None:
        error: BaseException = Unavailable("actor", "it gave no answer")
        try:
            if len(batch) == 1:
                ((method, args), done) = batch[0]
                _settle(done, Answer(0, await getattr(self._target(), method).remote(*args)))
                return
            calls = [call for call, _ in batch]
            answers = self._target().many.options(num_returns="streaming").remote(calls)
            async for answered in answers:
                for answer in await answered:
                    _settle(batch[answer.index][1], answer)
        except BaseException as caught:
            # Whoever asked is told, whatever it was: it is their call that failed.
            error = caught
        for _, done in batch:
            _settle(done, Answer(0, error=error))


async def answered(calls: Sequence[Coroutine[Any, Any, Any]]) -> AsyncIterator[list[Answer]]:
    """For `many` of an actor with an event loop: the answers in groups, as they are there."""
    loop = asyncio.get_running_loop()
    numbers = {loop.create_task(call): number for number, call in enumerate(calls)}
    left = set(numbers)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        yield [_answer(numbers[task], task.exception(), task) for task in done]


class Threaded:
    """`many` for an actor with threads."""

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        # Kept: a thread takes longer to begin than most calls take.
        return ThreadPoolExecutor(_THREADS)

    def many(self, calls: Sequence[Call]) -> Iterator[list[Answer]]:
        """The answers in groups, as they are there."""
        numbers = {
            self._pool.submit(getattr(self, method), *args): number
            for number, (method, args) in enumerate(calls)
        }
        left = set(numbers)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            yield [_answer(numbers[future], future.exception(), future) for future in done]


def _answer(
    index: int, error: BaseException | None, done: Future[Any] | asyncio.Task[Any]
) -> Answer:
    if error is None:
        return Answer(index, done.result())
    return Answer(index, error=own(error) if isinstance(error, Exception) else error)


def _settle(done: asyncio.Future[Any], answer: Answer) -> None:
    if done.done():
        return
    if isinstance(answer.error, asyncio.CancelledError):
        done.cancel()
    elif answer.error is not None:
        done.set_exception(answer.error)
    else:
        done.set_result(answer.value)
