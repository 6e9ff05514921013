"""Wakes runs when their time has come. Times are the wall clock's: a timer outlives its process."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

from cluster.ids import Clock

# A clock may be set; looking again at least this often bounds by how much a timer is late then.
_LOOK_AGAIN_S: Final = 5.0


class Timers:
    """Calls `wake(run_id)` at or after each time that was set. A run may be woken for nothing: who
    wakes has to look."""

    def __init__(self, clock: Clock, wake: Callable[[str], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._heap: list[tuple[float, str]] = []
        self._set: set[tuple[float, str]] = set()
        self._sooner = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def at(self, when: float, run_id: str) -> None:
        """Wake `run_id` at `when`, seconds since the epoch."""
        if (when, run_id) in self._set:
            return
        self._set.add((when, run_id))
        heapq.heappush(self._heap, (when, run_id))
        if self._heap[0] == (when, run_id):
            self._sooner.set()

    def close(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            now = self._clock.now()
            while self._heap and self._heap[0][0] <= now:
                due = heapq.heappop(self._heap)
                self._set.discard(due)
                self._wake(due[1])
            left = self._heap[0][0] - now if self._heap else _LOOK_AGAIN_S
            self._sooner.clear()
            try:
                await asyncio.wait_for(self._sooner.wait(), min(left, _LOOK_AGAIN_S))
            except TimeoutError:
                continue
