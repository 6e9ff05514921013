"""The routes of agents: register, look, send a message, stop, fork, replay."""

from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from agents.registry import AgentRow
from agents.specs import AgentSpec
from agents.state import AgentState, RunState
from cluster.errors import InvalidInput
from cluster.ids import Ids
from serve.callers import tenant_of
from serve.description import reads
from serve.routes.runs import (
    Office,
    RunRoutes,
    idempotency_key,
    require_listable,
    run_body,
    stream,
)
from serve.schemas import Body, parse_body, read

CONVERSATION: Final = "conversation"
_SHOWN_TURNS: Final = 20


class MessageRequest(Body):
    """`POST /v1/agents/{id}/messages`. `content` is what is said; `input` what the agent's workflow
    takes besides, as a ticket's id."""

    content: str | None = Field(None, min_length=1, max_length=100_000)
    input: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False


class AgentFork(Body):
    """`POST /v1/agents/{id}/fork`: a new agent that goes on from event `after` of the run `run`."""

    id: str | None = None
    run: str
    after: int


class AgentRoutes:
    """The handlers. `wait_s` bounds how long a message's answer is waited for."""

    def __init__(self, office: Office, runs: RunRoutes, ids: Ids, wait_s: float) -> None:
        self._office, self._runs = office, runs
        self._ids, self._wait_s = ids, wait_s

    def routes(self) -> APIRouter:
        """The routes to include in the app. Ids may hold a slash."""
        routes = APIRouter()
        add = routes.add_api_route
        add("/v1/agents", self.register, methods=["POST"])
        add("/v1/agents", self.listed, methods=["GET"])
        add("/v1/agents/{agent:path}/messages", self.message, methods=["POST"])
        add("/v1/agents/{agent:path}/stop", self.stop, methods=["POST"])
        add("/v1/agents/{agent:path}/fork", self.fork, methods=["POST"])
        add("/v1/agents/{agent:path}/replay", self.replay, methods=["GET"])
        add("/v1/agents/{agent:path}", self.one, methods=["GET"])
        return routes

    @reads(AgentSpec)
    async def register(self, http: Request) -> Response:
        """POST /v1/agents: an AgentSpec; its id and its workflow may be left to us"""
        spec = self._spec({"workflow": CONVERSATION} | parse_body(await http.body()))
        self._runs.require_workflow(spec.workflow)
        row = await self._office.ask("define_agent", tenant_of(http), spec)
        return JSONResponse(_agent_body(row), status_code=201)

    async def listed(self, http: Request, after: str = "", limit: int = 20) -> Response:
        """GET /v1/agents: by id"""
        require_listable(limit)
        rows = await self._office.ask("list_agents", tenant_of(http), after, limit + 1)
        data = [_agent_body(row) for row in rows[:limit]]
        return JSONResponse({"object": "list", "data": data, "has_more": len(rows) > limit})

    async def one(self, http: Request, agent: str) -> Response:
        """GET /v1/agents/{agent}"""
        row = await self._office.ask("find_agent", tenant_of(http), agent)
        state = await self._office.ask("agent", tenant_of(http), agent)
        return JSONResponse(_agent_body(row) | _state_body(state))

    @reads(MessageRequest)
    async def message(self, http: Request, agent: str) -> Response:
        """POST /v1/agents/{agent}/messages"""
        asked = read(MessageRequest, parse_body(await http.body()))
        if asked.content is None and not asked.input:
            raise InvalidInput("content", None, "a message, or an input")
        said = {"message": asked.content} if asked.content is not None else {}
        key = idempotency_key(http, self._ids)
        run = await self._office.ask(
            "message", tenant_of(http), agent, f"message:{agent}:{key}", {**asked.input, **said}
        )
        if asked.stream:
            return stream(self._streamed(run))
        ended = await self._office.ask("wait", [run], self._wait_s, timeout_s=self._wait_s + 10)
        state = ended[0] if ended else await self._office.ask("read", run)
        return JSONResponse(_answer(state), status_code=200 if ended else 202)

    async def stop(self, http: Request, agent: str) -> Response:
        """POST /v1/agents/{agent}/stop"""
        cancelled = await self._office.ask("stop_agent", tenant_of(http), agent, "api")
        row = await self._office.ask("find_agent", tenant_of(http), agent)
        return JSONResponse(_agent_body(row) | {"cancelled_runs": cancelled})

    @reads(AgentFork)
    async def fork(self, http: Request, agent: str) -> Response:
        """POST /v1/agents/{agent}/fork"""
        asked = read(AgentFork, parse_body(await http.body()))
        row = await self._office.ask("find_agent", tenant_of(http), agent)
        spec = self._spec(row.spec.model_dump() | {"id": asked.id})
        made = await self._office.ask(
            "fork_agent", tenant_of(http), agent, spec, asked.run, asked.after
        )
        return JSONResponse(_agent_body(made), status_code=201)

    async def replay(self, http: Request, agent: str) -> Response:
        """GET /v1/agents/{agent}/replay: the state, folded again from its runs' events"""
        await self._office.ask("find_agent", tenant_of(http), agent)
        state, events, same = await self._office.ask("replay", tenant_of(http), agent)
        body = {"id": agent, "object": "agent.replay", "events": events, "same": same}
        return JSONResponse(body | _state_body(state))

    async def _streamed(self, run: str) -> AsyncIterator[bytes]:
        """The run's events, and last the answer."""
        async for lines in self._runs.told(run, 0):
            yield lines
        state = await self._office.ask("read", run)
        answer = JSONResponse(_answer(state)).body
        yield b"event: answer\ndata: " + bytes(answer) + b"\n\ndata: [DONE]\n\n"

    def _spec(self, fields: dict[str, Any]) -> AgentSpec:
        named = fields.get("id") not in (None, "")
        return read(AgentSpec, fields if named else fields | {"id": self._ids.new("agent")})


def _answer(run: RunState) -> dict[str, Any]:
    result = run.ended.result if run.ended else {}
    content = result.get("text", result.get("reply"))
    return {
        "object": "agent.message",
        "role": "assistant",
        "content": content,
        "run": run_body(run),
    }


def _agent_body(row: AgentRow) -> dict[str, Any]:
    return {
        "object": "agent", **row.spec.model_dump(), "status": row.status,
        "created_at": row.created_at,
    }  # fmt: skip


def _state_body(state: AgentState) -> dict[str, Any]:
    turns = [
        {
            "run": t.run_id, "ended_at": t.ended_at, "decision": t.decision, "reason": t.reason,
            "message": t.message or None, "reply": t.reply or None,
        }
        for t in state.turns[-_SHOWN_TURNS:]
    ]  # fmt: skip
    return {"turns": len(state.turns), "last_turns": turns}
