"""The OpenAI routes: models, chat completions, embeddings."""

import asyncio
import base64
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cluster.errors import InvalidInput, MainspringError, NotFound
from cluster.ids import Clock
from serve.admission import Admission
from serve.bill import Bill
from serve.budgets import Worst, usd_of, worst_case
from serve.callers import caller_of, principal_of, request_id_of, tenant_of
from serve.calls import Answer, Call, Engines
from serve.catalog import EMBEDDING_MODEL, Catalog, model_card
from serve.ledger import Used
from serve.metering import Meter, usd_text
from serve.problems import Refused, problem_of
from serve.routing import Route, features_of, route
from serve.schemas import ChatRequest, EmbeddingRequest, encode, parse_body, read

DIMENSION: Final = 384
MAX_INPUTS: Final = 2048
_WORD = re.compile(r"\w+|[^\w\s]")

T = TypeVar("T")


class Vectors(Protocol):
    """A matrix of one row per text, as NumPy has it."""

    def tolist(self) -> list[list[float]]: ...


Embed = Callable[[list[str]], Awaitable[Vectors]]


class ClientGone(Exception):
    """The client closed its connection; nobody reads the answer."""


class OpenAIRoutes:
    """The handlers. `deadline_s` bounds every request; a client may ask for less."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Engines,
        meter: Meter,
        clock: Clock,
        deadline_s: float,
        embed: Embed | None,
        admission: Admission,
    ) -> None:
        self._catalog, self._engines, self._meter = catalog, engines, meter
        self._admission = admission
        self._clock, self._deadline_s, self._embed = clock, deadline_s, embed
        self._created = int(clock.now())

    def routes(self) -> APIRouter:
        """The routes to include in the app."""
        routes = APIRouter()
        routes.add_api_route("/v1/models", self.models, methods=["GET"])
        routes.add_api_route("/v1/models/{name:path}", self.one_model, methods=["GET"])
        routes.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        routes.add_api_route("/v1/embeddings", self.embeddings, methods=["POST"])
        return routes

    async def models(self) -> Response:
        """GET /v1/models"""
        data = [model_card(name, self._catalog, self._created) for name in self._catalog.names()]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, name: str) -> Response:
        """GET /v1/models/{name}"""
        return JSONResponse(model_card(name, self._catalog, self._created))

    async def chat(self, http: Request) -> Response:
        """POST /v1/chat/completions"""
        arrived = self._clock.monotonic()
        payload = parse_body(await http.body())
        request = read(ChatRequest, payload)
        features = features_of(request)
        self._refuse_too_long(request)
        chosen = route(features, self._catalog, self._engines.load())
        call = self._call(http, payload, request, arrived)
        bill = await self._let_in(http, request, chosen, call)
        try:
            answer = await unless_gone(http, self._engines.send(chosen, call))
        except BaseException:
            bill.release()
            raise
        headers = self._headers(chosen, answer)
        if request.stream:
            worst = self._worst(request, call, (answer.model.id,))
            headers["x-mainspring-cost-max-usd"] = usd_text(usd_of(worst.nano))
            headers["cache-control"] = "no-cache"
            return EngineStream(answer, bill, headers)
        answer.release(200)
        headers["x-mainspring-cost-usd"] = usd_text(usd_of(await bill.settled(answer)))
        return Response(answer.body, media_type="application/json", headers=headers)

    async def embeddings(self, http: Request) -> Response:
        """POST /v1/embeddings"""
        request = read(EmbeddingRequest, parse_body(await http.body()))
        if request.model != EMBEDDING_MODEL:
            raise NotFound("model", request.model)
        if request.dimensions not in {None, DIMENSION}:
            raise InvalidInput("dimensions", request.dimensions, f"{DIMENSION}")
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not texts or len(texts) > MAX_INPUTS:
            raise InvalidInput("input", f"{len(texts)} texts", f"1 to {MAX_INPUTS} texts")
        for number, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"input[{number}]", text, "a text with a visible character")
        if self._embed is None:
            raise Refused(404, "this gateway has no encoder", "model_not_found", "model")
        # Words and marks, an estimate from below: the encoder's tokenizer is not in this process.
        count = sum(len(_WORD.findall(text)) for text in texts)
        began = self._clock.monotonic()
        caller, limits = caller_of(http), principal_of(http).limits
        hold = await self._admission.enter(caller, limits, Worst(0, count), self._deadline_s)
        try:
            async with asyncio.timeout(self._deadline_s):
                rows = (await self._embed(texts)).tolist()
        except BaseException:
            self._admission.leave(hold, None)
            raise
        spent = self._clock.monotonic() - began
        used = Used(
            request_id_of(http), EMBEDDING_MODEL, 200, count, 0, 0, estimated=True, engine_s=spent,
            route=EMBEDDING_MODEL,
        )  # fmt: skip
        self._admission.leave(hold, used)
        as_base64 = request.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": _packed(row) if as_base64 else row}
            for i, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        body = {"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage}
        return JSONResponse(body, headers={"x-mainspring-model": EMBEDDING_MODEL})

    def _call(
        self, http: Request, payload: dict[str, Any], request: ChatRequest, arrived: float
    ) -> Call:
        body_bytes = len(encode(payload))
        options = request.mainspring
        seconds = self._deadline_s
        if options.deadline_ms is not None:
            seconds = min(seconds, options.deadline_ms / 1000)
        payload = {k: v for k, v in payload.items() if k != "mainspring"}
        wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        if request.stream:
            given = payload.get("stream_options") or {}
            payload["stream_options"] = {**given, "include_usage": True}
        first = request.messages[0].content
        prefix = first[:256] if isinstance(first, str) else ""
        return Call(
            payload=payload,
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

    def _refuse_too_long(self, request: ChatRequest) -> None:
        names = {m.id: m.max_model_len for m in self._catalog.models}
        room = names.get(request.model, self._catalog.widest_context())
        if request.limit is not None and request.limit >= room:
            name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
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
        worst = self._worst(request, call, chosen.models)
        left = call.deadline - self._clock.monotonic()
        limits = principal_of(http).limits
        hold = await self._admission.enter(caller, limits, worst, max(0.0, left))
        return Bill(self._admission, hold, request.model, chosen.reason)

    def _worst(self, request: ChatRequest, call: Call, names: Sequence[str]) -> Worst:
        models = [self._catalog.model(name) for name in names]
        return worst_case(
            models, call.body_bytes, request.limit, request.n or 1, bool(request.stream)
        )


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


async def unless_gone(http: Request, work: Awaitable[T]) -> T:
    """Await `work`, but cancel it when the client closes its connection first.

    Raises ClientGone then, so that an engine does not work for nobody.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        gone.cancel()
        working.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _packed(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
