"""`GET /v1/settings`: what the stack was started with, and where each value comes from."""

from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cluster.provenance import Setting
from serve.callers import principal_of
from serve.keys import Forbidden


class SettingsRoutes:
    """The handler. They are for who operates the stack: administrators of its own `tenant`."""

    def __init__(self, settings: Sequence[Setting], tenant: str) -> None:
        self._settings, self._tenant = settings, tenant

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/settings", self.all, methods=["GET"])
        return routes

    async def all(self, http: Request) -> Response:
        """GET /v1/settings: read-only, without secrets"""
        who = principal_of(http)
        if who.tenant != self._tenant or "admin" not in who.scopes:
            raise Forbidden("admin")
        return JSONResponse({"object": "list", "data": [asdict(one) for one in self._settings]})


def settings_routes(settings: Sequence[Setting], tenant: str) -> APIRouter:
    """The route over these settings."""
    return SettingsRoutes(settings, tenant).routes()
