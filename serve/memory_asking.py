"""How commands ask the memory: the running stack's, else the data folder's, which they open.

While an answer is awaited, the work's progress is asked for and told.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from cluster.errors import DeadlineExceeded
from cluster.ids import SystemClock
from cluster.settings import Settings

TIMEOUT_S: Final = 3_600.0
_POLL_S: Final = 0.3

Watched = Callable[[int, int], None]
"""Told how much is done, of how much."""


class Asking(Protocol):
    """A memory to ask."""

    def ask(self, method: str, *args: Any, work: str = "", watched: Watched | None = None) -> Any:
        """What `method` of the memory answers; `watched` is told how far the `work` is, a name in
        `Memory.progress`. DeadlineExceeded after an hour."""

    def wait(self, seconds: float) -> None:
        """Let it go on with what it does in the background."""


@contextmanager
def opened(settings: Settings) -> Iterator[Asking]:
    """The memory of the settings' data folder. Conflict, naming the process, when another one than
    a stack has it open."""
    from serve.running import find, home_of

    running = find(settings.data_dir)
    if running is None:
        with asyncio.Runner() as runner:
            here = _Here(settings, runner)
            try:
                yield here
            finally:
                here.close()
        return
    from serve.lifecycle import joined

    with joined(running, home_of(settings.data_dir)) as actors:
        yield _There(actors("memory"))


def asked(
    settings: Settings, method: str, *args: Any, work: str = "", watched: Watched | None = None
) -> Any:
    """One question to the memory; see Asking."""
    with opened(settings) as memory:
        return memory.ask(method, *args, work=work, watched=watched)


class _Here:
    """A memory opened by this process. Its background work goes on while it is asked or waited."""

    def __init__(self, settings: Settings, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._memory: Any = runner.run(_memory_of(settings))

    def ask(self, method: str, *args: Any, work: str = "", watched: Watched | None = None) -> Any:
        return self._runner.run(self._answer(method, args, work, watched))

    def wait(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))

    def close(self) -> None:
        self._runner.run(self._memory.close())

    async def _answer(
        self, method: str, args: tuple[Any, ...], work: str, watched: Watched | None
    ) -> Any:
        answer = asyncio.ensure_future(getattr(self._memory, method)(*args))
        while watched is not None:
            done, _ = await asyncio.wait([answer], timeout=_POLL_S)
            if done:
                break
            watched(*(await self._memory.progress()).get(work, (0, 0)))
        return await answer


async def _memory_of(settings: Settings) -> Any:
    from memory.embed import MiniLM
    from memory.service import Memory

    return Memory(settings.memory, settings.data_dir.resolve(), MiniLM(), SystemClock())


class _There:
    """The memory actor of a running stack."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, method: str, *args: Any, work: str = "", watched: Watched | None = None) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        from cluster.session import own

        answer = getattr(self._actor, method).remote(*args)
        try:
            if watched is not None:
                self._watch(answer, work, watched)
            return ray.get(answer, timeout=TIMEOUT_S)
        except GetTimeoutError:
            raise DeadlineExceeded("memory", TIMEOUT_S) from None
        except RayError as error:
            raise own(error) from None

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def _watch(self, answer: Any, work: str, watched: Watched) -> None:
        import ray

        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            done, _ = ray.wait([answer], timeout=_POLL_S)
            if done:
                return
            watched(*ray.get(self._actor.progress.remote(), timeout=60).get(work, (0, 0)))
