"""The directory as a gateway sees it, and what it sees of the gateway."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cluster.ids import Clock
from cluster.telemetry import logger
from serve.directory import LEASE_S, Demand, Online, Replica, Seen, find_directory

log = logger("gateway")

POLL_S: Final = 0.5


class Watch:
    """The directory's replicas as last seen; older than a lease they count no more."""

    def __init__(
        self,
        directory: str,
        clock: Clock,
        gateway: str,
        online: Callable[[], Online],
        demands: Callable[[], Mapping[str, Demand]],
    ) -> None:
        """`gateway` is this one's name there, `online` what it tells of its clients and `demands`
        of each model's."""
        self._directory, self._clock = directory, clock
        self._gateway, self._online, self._demands = gateway, online, demands
        self._seen = Seen([])
        self._at = float("-inf")
        self._task = asyncio.ensure_future(self._poll())

    def replicas(self) -> Sequence[Replica]:
        fresh = self._clock.monotonic() - self._at < LEASE_S
        return self._seen.replicas if fresh else ()

    def draining(self) -> bool:
        """Whether nothing new is to be begun, as last heard."""
        return self._seen.draining

    def stop(self) -> None:
        self._task.cancel()

    async def _poll(self) -> None:
        from ray.exceptions import RayError

        while True:
            try:
                report = find_directory(self._directory).report
                self._seen = await report.remote(self._gateway, self._online(), self._demands())
                self._at = self._clock.monotonic()
            except (RayError, ValueError) as error:
                log.warning("the directory does not answer: %s", error)
            await asyncio.sleep(POLL_S)
