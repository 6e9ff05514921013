"""The routes of durable runs and of schedules: begin, look, follow, signal, pause, cancel, retry,
fork."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any, Final, Literal, Protocol

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from agents.events import Event, Priority, RunOptions
from agents.packs import NO_PACKS, Pack
from agents.receipts import receipts
from agents.registry import ScheduleRow
from agents.specs import NAME, ScheduleSpec
from agents.state import RunState, effect_states
from agents.timeline import timeline
from cluster.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from cluster.ids import Clock, Ids
from serve.callers import tenant_of
from serve.description import reads
from serve.schemas import Body, parse_body, read

HOLD_S: Final = 15.0
MAX_STREAM_S: Final = 600.0
MAX_LISTED: Final = 100
EVENTS_A_PAGE: Final = 500
"""As many as `Orchestrator.events` gives at a time."""
_RESTART_S: Final = 0.5


class Office(Protocol):
    async def ask(self, method: str, *args: Any, timeout_s: float = ...) -> Any:
        """See `serve.office.Named.ask`."""


class RunRequest(Body):
    """`POST /v1/runs`. `agent` works it, one run at a time; without one the run has its own. The
    fields `untrusted` of its `input` hold text from outside, which may choose nothing."""

    workflow: str
    input: dict[str, Any] = Field(default_factory=dict)
    agent: str | None = None
    priority: Priority = "interactive"
    deadline_s: float | None = Field(None, gt=0, le=31_536_000)
    attempts: int = Field(3, ge=1, le=100)
    untrusted: list[str] = Field(default_factory=list)


class Told(Body):
    """Who does something to a run, and why."""

    by: str = "api"
    reason: str = ""


class CancelRequest(Told):
    undo: bool = False


class SignalRequest(Body):
    name: str
    value: dict[str, Any] = Field(default_factory=dict)
    by: str = "api"


class ForkRequest(Body):
    """`after` is the number of the last event that the fork keeps."""

    after: int


class RunRoutes:
    """The handlers. Runs are those of the key's tenant; `workflows` are the built-in ones' names,
    `packs` the others."""

    def __init__(
        self, office: Office, workflows: tuple[str, ...], clock: Clock, ids: Ids,
        packs: Mapping[str, Pack] = NO_PACKS,
    ) -> None:  # fmt: skip
        self._office, self._packs = office, packs
        self._workflows = (*workflows, *packs)
        self._clock, self._ids = clock, ids

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        add = routes.add_api_route
        add("/v1/runs", self.begin, methods=["POST"])
        add("/v1/runs/{run}", self.one, methods=["GET"])
        add("/v1/runs/{run}/events", self.events, methods=["GET"])
        add("/v1/runs/{run}/timeline", self.timeline, methods=["GET"])
        add("/v1/runs/{run}/receipts", self.receipts, methods=["GET"])
        acts: dict[str, Callable[[Request, str], Coroutine[Any, Any, Response]]] = {
            "signal": self.signal, "pause": self.pause, "resume": self.resume,
            "cancel": self.cancel, "retry": self.retry, "fork": self.fork,
        }  # fmt: skip
        for name, act in acts.items():
            add(f"/v1/runs/{{run}}/{name}", act, methods=["POST"])
        add("/v1/schedules", self.schedule, methods=["POST"])
        add("/v1/schedules", self.schedules, methods=["GET"])
        add("/v1/schedules/{name}", self.unschedule, methods=["DELETE"])
        return routes

    @reads(RunRequest)
    async def begin(self, http: Request) -> Response:
        """POST /v1/runs"""
        asked = read(RunRequest, parse_body(await http.body()))
        given = self.given(asked.workflow, asked.input)
        key = idempotency_key(http, self._ids)
        agent = asked.agent or self._agent(asked.workflow, given, key)
        require_named("agent", agent)
        deadline = None if asked.deadline_s is None else self._clock.now() + asked.deadline_s
        options = RunOptions(
            priority=asked.priority, deadline_at=deadline, attempts=asked.attempts,
            untrusted=tuple(asked.untrusted),
        )  # fmt: skip
        run = await self._office.ask(
            "submit", tenant_of(http), key, asked.workflow, agent, given, options
        )
        return JSONResponse(
            run_body(await self._own(http, run)),
            status_code=202,
            headers={"location": f"/v1/runs/{run}"},
        )

    async def one(self, http: Request, run: str) -> Response:
        """GET /v1/runs/{run}"""
        return JSONResponse(run_body(await self._own(http, run)))

    async def events(self, http: Request, run: str, after: int | None = None) -> Response:
        """GET /v1/runs/{run}/events: server-sent events behind number `after` or Last-Event-ID"""
        await self._own(http, run)
        last = http.headers.get("last-event-id", "0")
        if after is None and not last.isdigit():
            raise InvalidInput("last-event-id", last, "the number of an event")
        start = int(last) if after is None else after
        # The first answer comes before the headers do, so that a wrong number is a 400.
        first = await self._office.ask("events", run, start, 0.0)
        return stream(self.told(run, start, first))

    async def timeline(
        self, http: Request, run: str, upto: int | None = None, limit: int | None = None
    ) -> Response:
        """GET /v1/runs/{run}/timeline?upto=90&limit=50: what happened when, how long it took and
        what it cost; of the entries up to number `upto` the last `limit`, without these all"""
        for name, value in (("upto", upto), ("limit", limit)):
            if value is not None and value < 1:
                raise InvalidInput(name, value, "1 or more")
        entries = timeline(await self._all_events(http, run))
        end = len(entries) if upto is None else min(upto, len(entries))
        data = entries[0 if limit is None else max(0, end - limit) : end]
        told = {"object": "list", "data": [asdict(entry) for entry in data]}
        usd = sum(entry.usd for entry in entries)
        return JSONResponse({**told, "end": end, "total": len(entries), "usd": usd})

    async def receipts(self, http: Request, run: str) -> Response:
        """GET /v1/runs/{run}/receipts: its steps' receipts, once its chain has been verified"""
        events = await self._all_events(http, run)
        verified = await self._office.ask("verify", run)
        data = receipts(run, events)
        return JSONResponse({"object": "list", "data": data, "verified_events": verified})

    async def _all_events(self, http: Request, run: str) -> list[Event]:
        await self._own(http, run)
        found: list[Event] = []
        while True:
            after = found[-1].seq if found else 0
            page, _ = await self._office.ask("events", run, after, 0.0)
            found += page
            if len(page) < EVENTS_A_PAGE:
                return found

    async def told(
        self, run: str, after: int, first: tuple[list[Event], bool] | None = None
    ) -> AsyncIterator[bytes]:
        """A run's events as lines of a stream, until it ends or MAX_STREAM_S have passed."""
        until = self._clock.monotonic() + MAX_STREAM_S
        while True:
            try:
                events, over = first or await self._office.ask(
                    "events", run, after, HOLD_S, timeout_s=2 * HOLD_S
                )
            except (Unavailable, DeadlineExceeded):
                # A crash is a pause: whoever follows a run follows it over a restart.
                events, over = [], False
                await asyncio.sleep(_RESTART_S)
            first = None
            for event in events:
                after = event.seq
                yield event_lines(event)
            if over or self._clock.monotonic() > until:
                return
            if not events:
                yield b": waiting\n\n"

    @reads(SignalRequest)
    async def signal(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/signal"""
        told = read(SignalRequest, parse_body(await http.body()))
        return await self._act(http, run, "signal", told.name, told.value, told.by)

    @reads(Told)
    async def pause(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/pause"""
        told = read(Told, await _optional(http))
        return await self._act(http, run, "pause", told.by, told.reason)

    @reads(Told)
    async def resume(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/resume"""
        told = read(Told, await _optional(http))
        return await self._act(http, run, "resume", told.by)

    @reads(CancelRequest)
    async def cancel(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/cancel"""
        told = read(CancelRequest, await _optional(http))
        return await self._act(http, run, "cancel", told.by, told.reason, told.undo)

    @reads(Told)
    async def retry(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/retry"""
        told = read(Told, await _optional(http))
        return await self._act(http, run, "retry", told.by)

    @reads(ForkRequest)
    async def fork(self, http: Request, run: str) -> Response:
        """POST /v1/runs/{run}/fork"""
        asked = read(ForkRequest, parse_body(await http.body()))
        key = idempotency_key(http, self._ids)
        return await self._act(http, run, "fork", asked.after, f"fork:{run}:{key}")

    @reads(ScheduleSpec)
    async def schedule(self, http: Request) -> Response:
        """POST /v1/schedules"""
        spec = read(ScheduleSpec, parse_body(await http.body()))
        spec = spec.model_copy(update={"input": self.given(spec.workflow, spec.input)})
        row = await self._office.ask("schedule", tenant_of(http), spec)
        return JSONResponse(_schedule_body(row), status_code=201)

    async def schedules(self, http: Request) -> Response:
        """GET /v1/schedules"""
        rows = await self._office.ask("schedules", tenant_of(http))
        return JSONResponse({"object": "list", "data": [_schedule_body(r) for r in rows]})

    async def unschedule(self, http: Request, name: str) -> Response:
        """DELETE /v1/schedules/{name}"""
        await self._office.ask("unschedule", tenant_of(http), name)
        return Response(status_code=204)

    def require_workflow(self, name: str) -> None:
        """InvalidInput unless there is such a workflow."""
        if name not in self._workflows:
            raise InvalidInput("workflow", name, f"one of {list(self._workflows)}")

    def given(self, workflow: str, given: dict[str, Any]) -> dict[str, Any]:
        """A run's input as its workflow takes it. InvalidInput unless there is such a workflow and
        it takes that."""
        self.require_workflow(workflow)
        return self._packs[workflow].read(given) if workflow in self._packs else given

    def _agent(self, workflow: str, given: Mapping[str, Any], key: str) -> str:
        """Who works a run that names no agent. What concerns one subject of a pack is done one run
        after the other: its agent is the subject's."""
        of_subject = f"{workflow}/{given.get('subject', '')}"
        own = workflow in self._packs and bool(given.get("subject")) and NAME.fullmatch(of_subject)
        return of_subject if own else f"{workflow}/{key}"

    async def _act(self, http: Request, run: str, method: str, *args: Any) -> Response:
        """Do it; the run as it is then, or the one that was made of it."""
        await self._own(http, run)
        made = await self._office.ask(method, run, *args)
        touched = await self._own(http, made or run)
        return JSONResponse(run_body(touched), status_code=201 if made else 200)

    async def _own(self, http: Request, run: str) -> RunState:
        state: RunState = await self._office.ask("read", run)
        # Another tenant's run looks like none at all.
        if state.tenant != tenant_of(http):
            raise NotFound("run", run)
        return state


def run_body(run: RunState) -> dict[str, Any]:
    """A run as clients see it; times are seconds since the epoch."""
    ended = run.ended
    return {
        "id": run.run_id, "object": "run", "workflow": run.workflow, "agent": run.agent,
        "status": run.status, "priority": run.options.priority,
        "decision": ended.decision if ended else None, "reason": ended.reason if ended else None,
        "result": ended.result if ended else None,
        "created_at": run.started_at, "ended_at": run.ended_at,
        "deadline_at": run.options.deadline_at, "last_event": run.seq, "epoch": run.epoch,
        "parent": run.options.parent or None, "forked_from": run.options.forked_from or None,
        "waiting_for": run.waiting.model_dump(exclude={"kind"}) if run.waiting else None,
        "effects": [
            {"step": step, "tool": run.decisions[step].tool, "state": state}
            for step, state in effect_states(run).items()
        ],
    }  # fmt: skip


def event_lines(event: Event) -> bytes:
    """An event of the journal as a server-sent event, numbered for a stream to be resumed."""
    data = event.model_dump_json(exclude={"run_id"})
    return f"id: {event.seq}\nevent: {event.payload.kind}\ndata: {data}\n\n".encode()


def stream(lines: AsyncIterator[bytes]) -> StreamingResponse:
    """A response of server-sent events."""
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


def require_named(field: str, value: str) -> None:
    """InvalidInput unless `value` can be a name or a key."""
    if not NAME.fullmatch(value):
        raise InvalidInput(field, value, "1 to 128 letters, digits and any of . _ : / -")


def require_listable(limit: int) -> None:
    """InvalidInput unless so many can be listed at once."""
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidInput("limit", limit, f"1 to {MAX_LISTED}")


def idempotency_key(http: Request, ids: Ids) -> str:
    """The key that a request came with, or a new one. InvalidInput unless it can be a key."""
    key = http.headers.get("idempotency-key") or ids.new("key")
    require_named("idempotency-key", key)
    return key


async def _optional(http: Request) -> dict[str, Any]:
    body = await http.body()
    return parse_body(body) if body else {}


def _schedule_body(row: ScheduleRow) -> dict[str, Any]:
    kind: Literal["schedule"] = "schedule"
    return {"object": kind, **row.spec.model_dump(), "next_at": row.next_at}
