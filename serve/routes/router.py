"""`/v1/router`: what predicts which model answers right, what quality costs by it, and which
version of it is in use. For administrators of the stack's own tenant."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from cluster.telemetry import logger
from serve.callers import principal_of
from serve.catalog import Catalog, cost_usd
from serve.description import reads
from serve.keys import Forbidden
from serve.quality_versions import Versions
from serve.schemas import Body, parse_body, read

TYPICAL: Final = (500, 200)
"""Tokens of the prompt and of the answer that the curve's prices are of."""
log = logger("router")


class UseRequest(Body):
    """`POST /v1/router/use`."""

    version: int = Field(ge=1)


class RouterRoutes:
    """The handlers over the versions in `folder`."""

    def __init__(self, folder: Path, catalog: Catalog, tenant: str) -> None:
        self._versions, self._catalog, self._tenant = Versions(folder), catalog, tenant

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/router", self.all, methods=["GET"])
        routes.add_api_route("/v1/router/use", self.use, methods=["POST"])
        return routes

    async def all(self, http: Request) -> Response:
        """GET /v1/router: the versions, and quality against cost by the one in use"""
        self._require(http)
        return JSONResponse(await asyncio.to_thread(self._told))

    @reads(UseRequest)
    async def use(self, http: Request) -> Response:
        """POST /v1/router/use: back to an earlier version, or on to a later one"""
        self._require(http)
        version = read(UseRequest, parse_body(await http.body())).version
        await asyncio.to_thread(self._versions.use, version)
        log.info("version %s is in use, said %s", version, principal_of(http).key)
        return JSONResponse(await asyncio.to_thread(self._told))

    def _told(self) -> dict[str, Any]:
        current = self._versions.current()
        versions = [
            {"version": n, "in_use": n == current, **self._versions.metrics(n)}
            for n in self._versions.all()
        ]
        return {"object": "router", "version": current, "versions": versions, **self._curve()}

    def _curve(self) -> dict[str, Any]:
        """Empty where the stack does not have the models that the head knows."""
        head = self._versions.head()
        known = {model.id: model for model in self._catalog.models}
        if head is None or not all(name in known for name in head.models):
            return {"curve": [], "request_tokens": list(TYPICAL)}
        prices = [cost_usd(known[name], *TYPICAL) for name in head.models]
        curve = [asdict(mix) for mix in head.curve(prices)]
        return {"curve": curve, "request_tokens": list(TYPICAL)}

    def _require(self, http: Request) -> None:
        if principal_of(http).tenant != self._tenant:
            raise Forbidden("admin of the stack's own tenant")
