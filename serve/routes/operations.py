"""Routes for who runs the gateway: is it up, is it ready, how is it doing."""

from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from cluster.errors import MainspringError
from cluster.telemetry import logger
from serve.metering import Meter
from serve.readiness import Readiness
from serve.routes.runs import Office

log = logger("gateway")

METRICS_S: Final = 3.0


class OperationsRoutes:
    """`tellers` answer `metrics` with Prometheus' text; one that does not is left out."""

    def __init__(self, ready: Readiness, meter: Meter, tellers: Sequence[Office]) -> None:
        self._ready, self._meter, self._tellers = ready, meter, tellers

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/healthz", self.healthz, methods=["GET"])
        routes.add_api_route("/readyz", self.readyz, methods=["GET"])
        routes.add_api_route("/metrics", self.metrics, methods=["GET"])
        return routes

    async def healthz(self) -> Response:
        """GET /healthz"""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """GET /readyz"""
        return await self._ready.answer()

    async def metrics(self) -> Response:
        """GET /metrics"""
        text = self._meter.text()
        for teller in self._tellers:
            try:
                text += await teller.ask("metrics", timeout_s=METRICS_S)
            except MainspringError as error:
                log.warning("metrics without some: %s", error)
        return Response(text, media_type="text/plain; version=0.0.4")
