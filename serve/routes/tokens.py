"""`/tokenize` and `/detokenize`, as vLLM has them: how a model sees a text."""

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cluster.ids import Clock
from serve.admission import Admission
from serve.budgets import Worst
from serve.callers import caller_of, principal_of, request_id_of, tenant_of
from serve.calls import Call, Engines
from serve.catalog import Catalog
from serve.clients import unless_gone
from serve.description import reads
from serve.routing import Route
from serve.schemas import parse_body, read

PATHS: Final = ("/tokenize", "/detokenize")


class TokensRequest(BaseModel):
    """A model of one's own choice, and a prompt, messages or tokens: those are the engine's."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=256)


class TokenRoutes:
    """The handlers. They cost nothing, and count as requests of their key."""

    def __init__(
        self, catalog: Catalog, engines: Engines, clock: Clock, deadline_s: float,
        admission: Admission,
    ) -> None:  # fmt: skip
        self._catalog, self._engines, self._admission = catalog, engines, admission
        self._clock, self._deadline_s = clock, deadline_s

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        for path in PATHS:
            routes.add_api_route(path, self._handler(path), methods=["POST"], name=path)
        return routes

    def _handler(self, path: str) -> Any:
        @reads(TokensRequest)
        async def tokens(http: Request) -> Response:
            return await self._tokens(http, path)

        return tokens

    async def _tokens(self, http: Request, path: str) -> Response:
        now = self._clock.monotonic()
        payload = parse_body(await http.body())
        model = self._catalog.model(read(TokensRequest, payload).model)
        call = Call(
            payload=payload, request_id=request_id_of(http), arrived=now,
            deadline=now + self._deadline_s, path=path, tenant=tenant_of(http),
        )  # fmt: skip
        caller, limits = caller_of(http), principal_of(http).limits
        hold = await self._admission.enter(caller, limits, Worst(0, 0), self._deadline_s)
        try:
            chosen = Route((model.id,), "named by the client", 0.0)
            answer = await unless_gone(http, self._engines.send(chosen, call))
        finally:
            self._admission.leave(hold, None)
        answer.release(200)
        return Response(answer.body, media_type="application/json")
