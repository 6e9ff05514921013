"""The routes that list runs and receipts: filtered, the newest first, in pages.

The next page is asked for with `after`, the `last_id` of this one.
"""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from agents.listed import ListedReceipt, ListedRun, Page, ReceiptsAsked, RunsAsked
from serve.callers import tenant_of
from serve.routes.listing import page
from serve.routes.runs import Office
from serve.routes.usage import moment


class ListRoutes:
    """The handlers. What is listed is of the key's tenant."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/runs", self.runs, methods=["GET"])
        routes.add_api_route("/v1/receipts", self.receipts, methods=["GET"])
        return routes

    async def runs(
        self, http: Request, status: str | None = None, decision: str | None = None,
        workflow: str | None = None, agent: str | None = None, since: str | None = None,
        until: str | None = None, after: str | None = None, limit: int = 20,
    ) -> Response:  # fmt: skip
        """GET /v1/runs?status=ended&since=2026-11-01"""
        asked = RunsAsked(
            tenant=tenant_of(http), status=status, decision=decision, workflow=workflow,
            agent=agent, after=after, limit=limit, **_times(since, until),
        )  # fmt: skip
        found: Page[ListedRun] = await self._office.ask("list_runs", asked)
        return _answer([listed_run(row) for row in found.rows], found)

    async def receipts(
        self, http: Request, run: str | None = None, tool: str | None = None,
        answer: str | None = None, outcome: str | None = None, workflow: str | None = None,
        agent: str | None = None, since: str | None = None, until: str | None = None,
        after: str | None = None, limit: int = 20,
    ) -> Response:  # fmt: skip
        """GET /v1/receipts?tool=refund&outcome=done: where to look; /v1/runs/{run}/receipts
        verifies"""
        asked = ReceiptsAsked(
            tenant=tenant_of(http), run=run, tool=tool, answer=answer, outcome=outcome,
            workflow=workflow, agent=agent, after=after, limit=limit, **_times(since, until),
        )  # fmt: skip
        found: Page[ListedReceipt] = await self._office.ask("list_receipts", asked)
        return _answer([listed_receipt(row) for row in found.rows], found)


def listed_run(row: ListedRun) -> dict[str, Any]:
    """A run as clients see it in a list; times are seconds since the epoch."""
    told = asdict(row) | {"object": "run"}
    return told | {name: told[name] or None for name in ("decision", "parent")}


def listed_receipt(row: ListedReceipt) -> dict[str, Any]:
    """A receipt as clients see it in a list."""
    return {"id": row.id, "object": "receipt", **asdict(row)}


def _times(since: str | None, until: str | None) -> dict[str, float]:
    given = {"since": since, "until": until}
    return {name: moment(name, text, 0.0) for name, text in given.items() if text is not None}


def _answer(data: list[dict[str, Any]], found: Page[Any]) -> Response:
    return JSONResponse(page(data, found.more) | {"behind": found.behind})
