"""Whether requests can be answered: every model has generated a token of late, but for those whose
engines sleep, which start when they are asked."""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.responses import JSONResponse, Response

from cluster.errors import MainspringError
from cluster.ids import Clock
from serve.calls import Call, Engines
from serve.catalog import Catalog
from serve.problems import Problem
from serve.routing import Route

READY_FOR_S: Final = 10.0
PROBE_S: Final = 20.0


class Readiness:
    """Ready when every model has generated a token; a success is believed for READY_FOR_S. Never
    while the stack is `draining`: who balances load goes elsewhere then."""

    def __init__(
        self, catalog: Catalog, engines: Engines, clock: Clock,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._draining = draining
        self._catalog, self._engines, self._clock = catalog, engines, clock
        self._until = float("-inf")
        self._lock = asyncio.Lock()

    async def answer(self) -> Response:
        """GET /readyz: 200, or 503 with what is missing."""
        if self._draining():
            said = "not ready: the stack is being drained"
            return Problem(503, said, "not_ready", None, 2.0).response()
        async with self._lock:
            if self._clock.monotonic() < self._until:
                return JSONResponse({"status": "ready"})
            names = [m.id for m in self._catalog.models]
            found = await asyncio.gather(*(self._probe(name) for name in names))
            missing = {n: m for n, m in zip(names, found, strict=True) if m is not None}
            if not missing:
                self._until = self._clock.monotonic() + READY_FOR_S
                return JSONResponse({"status": "ready"})
        what = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        return Problem(503, f"not ready: {what}", "not_ready", None, 2.0).response()

    async def _probe(self, name: str) -> str | None:
        """Have a model generate one token. None when it did, else what is missing."""
        load = self._engines.load()[name]
        if not load.replicas:
            return None if load.wakes else "no live engine"
        payload = {"messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
        now = self._clock.monotonic()
        call = Call(payload, "probe", now, now + PROBE_S, probe=True)
        try:
            answer = await self._engines.send(Route((name,), "probe", 0.0), call)
        except MainspringError as error:
            return str(error)
        answer.release(200)
        return None
