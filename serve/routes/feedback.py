"""`/v1/feedback`: what clients say of answers, by the answer's `x-request-id`."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from agents.journal import Verdict
from cluster.errors import InvalidInput
from serve.callers import caller_of, principal_of, tenant_of
from serve.description import reads
from serve.keys import Forbidden
from serve.opinions import MAX_ROWS, Opinion, Opinions
from serve.routes.usage import moment
from serve.schemas import Body, parse_body, read


class FeedbackRequest(Body):
    """`POST /v1/feedback`."""

    request_id: str = Field(min_length=1, max_length=256)
    verdict: Verdict | None = None
    score: float | None = Field(None, ge=0, le=1)


class FeedbackRoutes:
    """The handlers."""

    def __init__(self, opinions: Opinions) -> None:
        self._opinions = opinions

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/feedback", self.say, methods=["POST"])
        routes.add_api_route("/v1/feedback", self.all, methods=["GET"])
        return routes

    @reads(FeedbackRequest)
    async def say(self, http: Request) -> Response:
        """POST /v1/feedback; said twice is said once, and the last one counts."""
        said = read(FeedbackRequest, parse_body(await http.body()))
        who, opinion = caller_of(http), Opinion(said.verdict, said.score)
        judged = await asyncio.to_thread(
            self._opinions.say, who.tenant, who.key, said.request_id, opinion
        )
        return JSONResponse(judged.body())

    def all(self, http: Request, since: str | None = None, limit: int = 100) -> Response:
        """GET /v1/feedback?since=2026-11-01, for the tenant's administrators"""
        if "admin" not in principal_of(http).scopes:
            raise Forbidden("admin")
        if not 1 <= limit <= MAX_ROWS:
            raise InvalidInput("limit", limit, f"1 to {MAX_ROWS}")
        found = self._opinions.all(tenant_of(http), moment("since", since, 0.0), limit)
        return JSONResponse({"object": "list", "data": [judged.body() for judged in found]})
