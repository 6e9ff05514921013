"""How a replica is found and how it leaves: its own HTTP port, its lease in the directory, and an
end that no request notices.

Leaving is one way: the lease is given up for good before anything else, so that a renewal can't
bring the replica back. Then it answers on until the gateways have noticed, closes the port, which
sends latecomers to another replica, and lets the requests in work end.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from ray.exceptions import RayError

from cluster.telemetry import logger
from serve.directory import NOTICED_S, RENEW_S, Replica
from serve.listener import App, Guarded, Listener

log = logger("presence")


class Presence:
    """One replica before the gateways. `directory` finds the directory's handle anew each time:
    it may have restarted."""

    def __init__(self, app: App, secret: str, directory: Callable[[], Any], drain_s: float) -> None:
        self._guard = Guarded(app, secret)
        self._directory, self._drain_s = directory, drain_s
        self._replica: Replica | None = None

    async def open(self, host: str) -> str:
        """Listen at a free port of `host`; the URL."""
        sock = socket.create_server((host, 0))
        config = uvicorn.Config(
            self._guard, loop="none", lifespan="off", access_log=False, log_level="warning",
            timeout_keep_alive=75, timeout_graceful_shutdown=math.ceil(self._drain_s),
        )  # fmt: skip
        self._listener = Listener(config)
        self._listening = asyncio.ensure_future(self._listener.serve(sockets=[sock]))
        while not self._listener.started:
            await asyncio.sleep(0.01)
        return f"http://{host}:{sock.getsockname()[1]}"

    async def announce(self, replica: Replica, at_once: int) -> None:
        """Enter the directory and stay there. `at_once` requests run, more of them wait."""
        self._replica = replica
        await self._directory().register.remote(replica)
        self._lease = asyncio.ensure_future(self._keep_lease(replica, at_once))

    async def leave(self) -> None:
        """Withdraw, and return when the last request has ended or `drain_s` are over."""
        if self._replica is not None:
            self._lease.cancel()
            try:
                await self._directory().withdraw.remote(self._replica.id)
            except (RayError, ValueError) as error:
                log.warning("%s leaves without notice: %s", self._replica.application, error)
            await asyncio.sleep(NOTICED_S)
        self._listener.should_exit = True
        await self._listening

    async def _keep_lease(self, replica: Replica, at_once: int) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            running = min(self._guard.in_work, at_once)
            waiting = self._guard.in_work - running
            try:
                if not await self._directory().renew.remote(replica.id, running, waiting):
                    await self._directory().register.remote(replica)
            except (RayError, ValueError) as error:
                # The directory is restarting: the next round finds it and registers again.
                log.warning("lease of %s not renewed: %s", replica.application, error)
