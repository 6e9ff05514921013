"""`GET /v1/usage`: what was used and what it cost."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from cluster.errors import InvalidInput
from serve.callers import principal_of, tenant_of
from serve.ledger import GROUPS, MAX_SUMS, Ledger

DEFAULT_BY = "model"


class UsageRoutes:
    """The handler. A key sees what it used itself; with the scope `admin`, what its tenant did."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/usage", self.usage, methods=["GET"])
        return routes

    # A plain function: the framework runs it in a thread, so that the event loop stays free.
    def usage(
        self,
        http: Request,
        by: str = DEFAULT_BY,
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
    ) -> Response:
        """GET /v1/usage?by=model,day&since=2026-11-01&model=planner"""
        if not 1 <= limit <= MAX_SUMS:
            raise InvalidInput("limit", limit, f"1 to {MAX_SUMS}")
        names = named(by)
        only = {name: http.query_params[name] for name in GROUPS if name in http.query_params}
        if "day" in only:
            raise InvalidInput("day", only["day"], "since and until instead")
        who = principal_of(http)
        only["tenant"] = tenant_of(http)
        if "admin" not in who.scopes:
            only["key"] = who.key
        sums = self._ledger.sums(
            names, only, moment("since", since, 0.0), moment("until", until, 1e12), limit
        )
        return JSONResponse({"object": "list", "data": [s.body() for s in sums]})


def named(by: str) -> tuple[str, ...]:
    """`model,day` as the names to sum by; none for an empty text."""
    return tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))


def moment(field: str, text: str | None, default: float) -> float:
    """A date or time in ISO 8601 as seconds since the epoch; UTC unless it says otherwise.

    Raises InvalidInput that names `field`."""
    if text is None:
        return default
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(field, text, "a date or time, as 2026-11-23") from None
