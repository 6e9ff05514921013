"""The routes that have a model write: chat completions, completions, responses.

admit -> route -> engine -> meter -> client, whatever the form
"""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.errors import DeadlineExceeded, Hurried, InvalidInput, MainspringError
from cluster.ids import Clock
from serve.admission import Admission
from serve.bill import Bill
from serve.budgets import usd_of
from serve.callers import caller_of, principal_of, request_id_of, tenant_of
from serve.calls import Answer, Call, Engines
from serve.catalog import Catalog
from serve.clients import unless_gone
from serve.decisions import Decisions, worst_of
from serve.description import reads
from serve.forms import FORMS, Form
from serve.metering import usd_text
from serve.problems import problem_of
from serve.routing import Route
from serve.schemas import ChatRequest, encode, parse_body


class GenerationRoutes:
    """The handlers. `deadline_s` bounds every request; a client may ask for less."""

    def __init__(
        self, catalog: Catalog, engines: Engines, clock: Clock, deadline_s: float,
        admission: Admission, decisions: Decisions,
    ) -> None:  # fmt: skip
        self._catalog, self._engines, self._admission = catalog, engines, admission
        self._decisions = decisions
        self._clock, self._deadline_s = clock, deadline_s

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        for form in FORMS:
            routes.add_api_route(form.path, self._handler(form), methods=["POST"], name=form.path)
        return routes

    def _handler(self, form: Form) -> Any:
        @reads(form.kind)
        async def generate(http: Request) -> Response:
            return await self._generate(http, form)

        return generate

    async def _generate(self, http: Request, form: Form) -> Response:
        arrived = self._clock.monotonic()
        payload = parse_body(await http.body())
        request = form.read(payload)
        self._refuse_too_long(request, form)
        call = self._call(http, form, payload, request, arrived)
        session = request.mainspring.session or http.headers.get("x-session-id") or ""
        decision = await self._decisions.decide(request, call, session, self._engines.load())
        chosen = decision.route
        bill = await self._let_in(http, request, chosen, call)
        try:
            answer = await unless_gone(http, self._answer(request, chosen, call))
        except BaseException:
            bill.release()
            raise
        decision.answered(answer.model.id)
        headers = self._headers(chosen, answer)
        if request.stream:
            worst = worst_of(self._catalog, request, call, (answer.model.id,))
            headers["x-mainspring-cost-max-usd"] = usd_text(usd_of(worst.nano))
            headers["cache-control"] = "no-cache"
            return EngineStream(answer, bill, headers)
        answer.release(200)
        headers["x-mainspring-cost-usd"] = usd_text(usd_of(await bill.settled(answer)))
        return Response(answer.body, media_type="application/json", headers=headers)

    async def _answer(self, request: ChatRequest, chosen: Route, call: Call) -> Answer:
        try:
            return await self._engines.send(chosen, call)
        except DeadlineExceeded as error:
            if request.mainspring.deadline_ms is None:
                raise
            raise Hurried(error.what, error.seconds) from None

    def _call(
        self, http: Request, form: Form, payload: dict[str, Any], request: ChatRequest,
        arrived: float,
    ) -> Call:  # fmt: skip
        body_bytes = len(encode(payload))
        options = request.mainspring
        seconds = self._deadline_s
        if options.deadline_ms is not None:
            seconds = min(seconds, options.deadline_ms / 1000)
        wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        first = request.messages[0].content
        prefix = first[:256] if isinstance(first, str) else ""
        return Call(
            payload=form.sent(payload),
            path=form.path,
            meter=form.meter,
            request_id=request_id_of(http),
            arrived=arrived,
            deadline=arrived + seconds,
            stream=bool(request.stream),
            affinity=options.session or http.headers.get("x-session-id") or prefix,
            wants_usage=wants_usage,
            body_bytes=body_bytes,
            batch=options.work == "batch",
            priority=request.priority or 0,
            tenant=tenant_of(http),
            cache_control=http.headers.get("cache-control", ""),
        )

    def _refuse_too_long(self, request: ChatRequest, form: Form) -> None:
        names = {m.id: m.max_model_len for m in self._catalog.models}
        room = names.get(request.model, self._catalog.widest_context())
        if request.limit is not None and request.limit >= room:
            name = "max_completion_tokens" if request.max_completion_tokens else form.limit_name
            raise InvalidInput(name, request.limit, f"less than the model's context of {room}")

    def _headers(self, chosen: Route, answer: Answer) -> dict[str, str]:
        call, now = answer.call, self._clock.monotonic()
        cache = {"x-mainspring-cache": answer.cache} if answer.cache else {}
        return {
            **cache,
            "x-mainspring-model": answer.model.id,
            "x-mainspring-route": chosen.reason,
            "x-mainspring-gateway-ms": f"{(answer.sent - call.arrived) * 1000:.1f}",
            "x-mainspring-engine-ms": f"{(now - answer.sent) * 1000:.1f}",
        }

    async def _let_in(self, http: Request, request: ChatRequest, chosen: Route, call: Call) -> Bill:
        caller = caller_of(http)
        worst = worst_of(self._catalog, request, call, chosen.models)
        left = call.deadline - self._clock.monotonic()
        limits = principal_of(http).limits
        hold = await self._admission.enter(caller, limits, worst, max(0.0, left))
        return Bill(self._admission, hold, request.model, chosen.reason)


class EngineStream(StreamingResponse):
    """A streamed answer that lets its engine go even when its client left before the first byte.

    Its end is sent once it is paid for: a client never has a whole answer that a gateway, killed at
    that moment, would have given away."""

    def __init__(self, answer: Answer, bill: Bill, headers: dict[str, str]) -> None:
        self._answer, self._bill = answer, bill
        super().__init__(self._paid(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.release(499)
            self._bill.settle(self._answer)

    async def _paid(self) -> AsyncIterator[bytes]:
        end: list[bytes] = []
        async for data in self._answer.stream():
            if self._answer.meter.counted:
                end.append(data)
            else:
                yield data
        try:
            await self._bill.settled(self._answer)
        except MainspringError as error:
            end = [self._answer.meter.broken(problem_of(error))]
        for data in end:
            yield data
