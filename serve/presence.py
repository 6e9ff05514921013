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
from dataclasses import dataclass, replace
from typing import Any

import uvicorn
from ray.exceptions import RayError

from cluster.telemetry import logger
from serve.directory import LOOK_S, NOTICED_S, RENEW_S, Replica
from serve.listener import App, Guarded, Listener

log = logger("presence")


@dataclass(frozen=True)
class State:
    """What an engine says of itself: requests that it generates for, and the share of its KV cache
    in use."""

    running: int = 0
    kv_usage: float = 0.0


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

    async def announce(self, replica: Replica, state: Callable[[], State]) -> None:
        """Enter the directory and stay there, with what `state` tells now and again."""
        self._replica = replica
        await self._directory().register.remote(replica)
        self._lease = asyncio.ensure_future(self._keep_lease(replica, state))

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

    async def _keep_lease(self, replica: Replica, state: Callable[[], State]) -> None:
        """Renews it in time, and at once when what is told changes."""
        told, renewed = replica, 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._now(replica, state())
            renewed += LOOK_S
            if now == told and renewed < RENEW_S:
                continue
            told, renewed = now, 0.0
            try:
                if not await self._directory().renew.remote(now):
                    await self._directory().register.remote(now)
            except (RayError, ValueError) as error:
                # The directory is restarting: the next round finds it and registers again.
                log.warning("lease of %s not renewed: %s", replica.application, error)

    def _now(self, replica: Replica, state: State) -> Replica:
        """What came in over HTTP and does not generate yet waits."""
        waiting = max(0, self._guard.in_work - state.running)
        kv_usage = round(state.kv_usage, 2)
        return replace(replica, running=state.running, waiting=waiting, kv_usage=kv_usage)
