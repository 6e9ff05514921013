"""The routes of the help-desk: tickets and their threads, for customers' words and people's acts.

A customer's word begins a run of the support workflow, unless a person has the ticket. What a
person does is a run too, of the workflow `desk`: it is decided, journaled and receipted. Its words
go to the desk alone.
"""

from datetime import UTC, datetime
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from agents.events import RunOptions
from agents.state import RunState
from agents.workflows.desk import DESK
from cluster.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound
from cluster.ids import Clock, Ids
from serve.callers import principal_of
from serve.description import reads
from serve.keys import Forbidden
from serve.routes.listing import listing
from serve.routes.runs import Office, idempotency_key, require_named
from serve.schemas import Body, parse_body, read

SUPPORT: Final = "support"
_ACT_S: Final = 20.0
_PAGE: Final = 100


class TicketRequest(Body):
    """A new ticket, of a `customer` by the desk's id or by an `email` (and `name`, for a new one).
    The same `id` again is the same ticket. Without `work` no agent is asked."""

    id: str | None = None
    customer: str = Field("", max_length=128)
    email: str = Field("", max_length=254)
    name: str = Field("", max_length=200)
    subject: str = Field("", max_length=500)
    body: str
    work: bool = True


class MessageRequest(Body):
    """A customer's further message; the same `id` again is the same message."""

    text: str
    id: str | None = None
    work: bool = True


class By(Body):
    """Who does it."""

    by: str = Field(min_length=1, max_length=128)


class AnswerRequest(By):
    """An answer to the customer: a `text` of one's own or a `macro` by its name."""

    text: str = ""
    macro: str = ""


class ReturnRequest(By):
    """`note` is for the agents that go on: it counts as a colleague's word."""

    note: str = ""


class RatingRequest(Body):
    """What the customer thought of the answer: 1 (bad) to 5 (good)."""

    score: int = Field(ge=1, le=5)
    comment: str = ""


class TicketRoutes:
    """The handlers. The desk is that of the stack's own `tenant`, and for its keys alone; `head` is
    the intent head that its tickets are worked with."""

    def __init__(
        self, desk: Office, office: Office, tenant: str, head: str, clock: Clock, ids: Ids
    ) -> None:
        self._desk, self._office = desk, office
        self._tenant, self._head = tenant, head
        self._clock, self._ids = clock, ids

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        add = routes.add_api_route
        add("/v1/tickets", self.listed, methods=["GET"])
        add("/v1/tickets", self.open, methods=["POST"])
        add("/v1/tickets/{ticket}", self.one, methods=["GET"])
        add("/v1/tickets/{ticket}/messages", self.say, methods=["POST"])
        add("/v1/tickets/{ticket}/take", self.take, methods=["POST"])
        add("/v1/tickets/{ticket}/answer", self.answer, methods=["POST"])
        add("/v1/tickets/{ticket}/return", self.give_back, methods=["POST"])
        add("/v1/tickets/{ticket}/close", self.close, methods=["POST"])
        add("/v1/tickets/{ticket}/rating", self.rate, methods=["POST"])
        return routes

    async def listed(
        self, http: Request, status: str = "", after: str = "", limit: int = 20
    ) -> Response:
        """GET /v1/tickets?status=escalated: the newest first"""
        self._require_own(http)
        rows = await self._desk.ask("listed", status, after, min(max(limit, 0), _PAGE) + 1)
        return JSONResponse(listing(min(limit, _PAGE), lambda n: rows[:n], lambda r: r))

    async def one(self, http: Request, ticket: str) -> Response:
        """GET /v1/tickets/{ticket}: its thread, its customer's orders and other tickets, why it was
        handed over, and the macros"""
        self._require_own(http)
        return JSONResponse(await self._desk.ask("thread", ticket))

    @reads(TicketRequest)
    async def open(self, http: Request) -> Response:
        """POST /v1/tickets"""
        self._require_own(http)
        asked = read(TicketRequest, parse_body(await http.body()))
        if bool(asked.customer) == bool(asked.email):
            raise InvalidInput("customer", asked.customer, "a customer's id, or an email, not both")
        id = asked.id or self._ids.new("T")
        require_named("id", id)
        opened = await self._desk.ask(
            "opened", id, asked.customer, asked.email, asked.name, asked.subject, asked.body,
            f"{datetime.fromtimestamp(self._clock.now(), UTC):%Y-%m-%dT%H:%M:%SZ}",
        )  # fmt: skip
        run = None
        if asked.work:
            given = {"ticket": id, "head": self._head}
            run = await self._work(f"ticket:{id}", opened["customer"], given)
        return JSONResponse(
            opened | {"object": "ticket", "run": run}, 200 if opened["repeated"] else 201
        )

    @reads(MessageRequest)
    async def say(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/messages: what the customer writes next"""
        self._require_own(http)
        asked = read(MessageRequest, parse_body(await http.body()))
        id = asked.id or self._ids.new("M")
        require_named("id", id)
        said = await self._desk.ask("said", ticket, id, asked.text)
        run = None
        if asked.work and said["waits_for"] == "agent":
            given = {"ticket": ticket, "head": self._head, "message": id}
            run = await self._work(f"message:{id}", said["customer"], given)
        return JSONResponse(said | {"object": "ticket.message", "run": run}, 201)

    @reads(By)
    async def take(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/take: no agent answers it from now on"""
        asked = read(By, parse_body(await http.body()))
        return await self._act(http, ticket, "take", by=asked.by)

    @reads(AnswerRequest)
    async def answer(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/answer"""
        asked = read(AnswerRequest, parse_body(await http.body()))
        if bool(asked.text.strip()) == bool(asked.macro):
            raise InvalidInput("text", asked.text[:80], "a text or a macro, not both")
        self._require_own(http)
        if asked.macro:
            draft, closes = await self._desk.ask("filled", ticket, asked.by, asked.macro)
        else:
            draft, closes = await self._desk.ask("drafted", ticket, asked.by, asked.text), False
        return await self._act(http, ticket, "answer", by=asked.by, draft=draft, closes=closes)

    @reads(ReturnRequest)
    async def give_back(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/return: to the agents, who go on where the customer waits"""
        asked = read(ReturnRequest, parse_body(await http.body()))
        draft = await self._drafted(http, ticket, asked.by, asked.note)
        return await self._act(http, ticket, "return", by=asked.by, draft=draft)

    @reads(By)
    async def close(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/close"""
        asked = read(By, parse_body(await http.body()))
        return await self._act(http, ticket, "close", by=asked.by)

    @reads(RatingRequest)
    async def rate(self, http: Request, ticket: str) -> Response:
        """POST /v1/tickets/{ticket}/rating"""
        asked = read(RatingRequest, parse_body(await http.body()))
        draft = await self._drafted(http, ticket, "customer", asked.comment)
        return await self._act(http, ticket, "rate", score=asked.score, draft=draft)

    async def _drafted(self, http: Request, ticket: str, by: str, text: str) -> str:
        self._require_own(http)
        if not text.strip():
            return ""
        return str(await self._desk.ask("drafted", ticket, by, text))

    async def _work(self, key: str, customer: str, given: dict[str, Any]) -> str:
        agent = f"{SUPPORT}/{customer}"
        return str(
            await self._office.ask("submit", self._tenant, key, SUPPORT, agent, given, RunOptions())
        )

    async def _act(self, http: Request, ticket: str, act: str, **more: Any) -> Response:
        """Have it done, and say what the ticket is then. What the desk refuses is refused here."""
        self._require_own(http)
        require_named("ticket", ticket)
        key = f"{DESK}:{ticket}:{act}:{idempotency_key(http, self._ids)}"
        given = {"ticket": ticket, "act": act, **more}
        run = await self._office.ask(
            "submit", self._tenant, key, DESK, f"{DESK}/{ticket}", given, RunOptions()
        )
        ended: list[RunState] = await self._office.ask("wait", [run], _ACT_S, timeout_s=_ACT_S + 5)
        if not ended or ended[0].ended is None:
            raise DeadlineExceeded(f"the run {run}", _ACT_S)
        done = ended[0].ended
        if done.decision != "done":
            if done.result.get("code") == "not_found":
                raise NotFound("ticket", ticket)
            raise Conflict(f"{act} of ticket {ticket}", done.reason)
        thread = await self._desk.ask("thread", ticket)
        return JSONResponse(thread | {"run": run, "runs": done.result.get("runs", [])})

    def _require_own(self, http: Request) -> None:
        who = principal_of(http)
        if who.tenant != self._tenant and not who.trusted:
            raise Forbidden("agents of the stack's own tenant")


def ticket_routes(
    desk: Office, office: Office, tenant: str, head: str, clock: Clock, ids: Ids
) -> APIRouter:
    """The routes over this desk."""
    return TicketRoutes(desk, office, tenant, head, clock, ids).routes()
