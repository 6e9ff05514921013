"""The directory as a gateway sees it."""

import asyncio
from collections.abc import Sequence
from typing import Final

from cluster.ids import Clock
from cluster.telemetry import logger
from serve.directory import LEASE_S, Replica, find_directory

log = logger("gateway")

POLL_S: Final = 0.5


class Watch:
    """The directory's replicas as last seen; older than a lease they count no more."""

    def __init__(self, directory: str, clock: Clock) -> None:
        self._directory, self._clock = directory, clock
        self._seen: list[Replica] = []
        self._at = float("-inf")
        self._task = asyncio.ensure_future(self._poll())

    def replicas(self) -> Sequence[Replica]:
        fresh = self._clock.monotonic() - self._at < LEASE_S
        return self._seen if fresh else ()

    def stop(self) -> None:
        self._task.cancel()

    async def _poll(self) -> None:
        from ray.exceptions import RayError

        while True:
            try:
                self._seen = await find_directory(self._directory).snapshot.remote()
                self._at = self._clock.monotonic()
            except (RayError, ValueError) as error:
                log.warning("the directory does not answer: %s", error)
            await asyncio.sleep(POLL_S)
