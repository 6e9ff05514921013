"""The routes of approvals: what waits for a person, and what that person says."""

from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from agents.approvals import Answer, ApprovalRow
from agents.evidence import evidence
from cluster.errors import InvalidInput
from serve.callers import principal_of, tenant_of
from serve.description import reads
from serve.routes.runs import Office, require_listable
from serve.schemas import Body, parse_body, read

_STATES: Final = ("open", "all")


class ApproveRequest(Body):
    """Who approves, why, and for how much at most (cents) where the tool spends."""

    by: str
    note: str = ""
    at_most_cents: int | None = Field(None, gt=0)


class DenyRequest(Body):
    by: str
    note: str = ""


class ApprovalRoutes:
    """The handlers. Approvals are those of the key's tenant; an answer names the key's account
    before whoever it says gave it."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/approvals", self.listed, methods=["GET"])
        routes.add_api_route("/v1/approvals/{id}", self.one, methods=["GET"])
        routes.add_api_route("/v1/approvals/{id}/approve", self.approve, methods=["POST"])
        routes.add_api_route("/v1/approvals/{id}/deny", self.deny, methods=["POST"])
        return routes

    async def listed(self, http: Request, state: str = "open", limit: int = 20) -> Response:
        """GET /v1/approvals: the newest first"""
        if state not in _STATES:
            raise InvalidInput("state", state, f"one of {list(_STATES)}")
        require_listable(limit)
        rows = await self._office.ask("approvals", tenant_of(http), state == "all", limit)
        return JSONResponse({"object": "list", "data": [approval_body(row) for row in rows]})

    async def one(self, http: Request, id: str) -> Response:
        """GET /v1/approvals/{id}: with the evidence"""
        row, run = await self._office.ask("approval", tenant_of(http), id)
        return JSONResponse(approval_body(row) | {"evidence": evidence(run, row.step)})

    @reads(ApproveRequest)
    async def approve(self, http: Request, id: str) -> Response:
        """POST /v1/approvals/{id}/approve"""
        asked = read(ApproveRequest, parse_body(await http.body()))
        said = Answer(True, _whose(http, asked.by), asked.note, asked.at_most_cents)
        return await self._answer(http, id, said)

    @reads(DenyRequest)
    async def deny(self, http: Request, id: str) -> Response:
        """POST /v1/approvals/{id}/deny"""
        asked = read(DenyRequest, parse_body(await http.body()))
        return await self._answer(http, id, Answer(False, _whose(http, asked.by), asked.note))

    async def _answer(self, http: Request, id: str, said: Answer) -> Response:
        row = await self._office.ask("answer_approval", tenant_of(http), id, said)
        return JSONResponse(approval_body(row))


def approval_body(row: ApprovalRow) -> dict[str, Any]:
    """An approval as clients see it; times are seconds since the epoch, amounts cents."""
    return {
        "id": row.id, "object": "approval", "run": row.run_id, "step": row.step,
        "workflow": row.workflow, "agent": row.agent, "tool": row.tool, "state": row.answer,
        "amount_cents": row.cents, "at_most_cents": row.at_most,
        "created_at": row.asked_at, "expires_at": row.expires_at,
        "answered_by": row.answered_by or None, "answered_at": row.answered_at,
    }  # fmt: skip


def _whose(http: Request, by: str) -> str:
    account = principal_of(http).key
    return f"{account}/{by}" if by.strip() and account else by


def approval_routes(office: Office) -> APIRouter:
    """The routes over the orchestrators that `office` asks."""
    return ApprovalRoutes(office).routes()
