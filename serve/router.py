"""Carries out a route: picks the replica, sends, falls back before the first byte, meters.

A request is admitted before any work is done for it and let go when its last byte has been sent or
its client has gone. Once a byte has reached the client nothing is retried.
"""

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from cluster import tracing
from cluster.errors import MainspringError, Overloaded, Unavailable
from cluster.ids import Clock
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.calls import Answer, Call
from serve.catalog import Catalog
from serve.circuits import Circuits
from serve.directory import Online, Replica
from serve.metering import Meter
from serve.problems import Refused
from serve.routing import Load, Route
from serve.schemas import MAX_PRIORITY, encode
from serve.traffic import Traffic
from serve.wire import Failed, Hung, Reply, Wire

log = logger("router")

BEHIND: Final = 4 * MAX_PRIORITY
GRACE_S: Final = 0.5
UNEVEN: Final = 8  # a difference of this part of an engine's places is worth a warm prefix
_OPERATIONS: Final = {
    "/v1/chat/completions": "chat", "/v1/responses": "chat", "/v1/completions": "text_completion",
}  # fmt: skip
MAX_ATTEMPTS: Final = 3  # replicas of one model; a request that kills engines must not visit all


class Router:
    """The innermost `Engines`: the way from a gateway process to the replicas, of which `replicas`
    gives the live ones right now."""

    def __init__(
        self,
        catalog: Catalog,
        replicas: Callable[[], Sequence[Replica]],
        meter: Meter,
        clock: Clock,
        secret: str,
        gateways: int = 1,
    ) -> None:
        self._catalog, self._replicas, self._meter = catalog, replicas, meter
        self._clock, self._secret = clock, secret
        self._wire, self._traffic = Wire(clock), Traffic(gateways, clock)
        self._circuits = Circuits(clock)
        for model in catalog.models:
            meter.shows(model.id, functools.partial(self._load, model))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._wire.close()

    def load(self) -> dict[str, Load]:
        """Every model's replicas that may be asked, work in hand here, and this gateway's share of
        its room."""
        return {m.id: self._load(m) for m in self._catalog.models}

    def online(self) -> Online:
        """See `Traffic.online`."""
        return self._traffic.online()

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`."""
        refusal: MainspringError = Unavailable("models", route.reason, 2.0)
        with tracing.span("route", mainspring__route=route.reason) as span:
            for position, name in enumerate(route.models):
                if position:
                    self._meter.fell_back(name)
                try:
                    answer = await self._send_to_model(self._catalog.model(name), call)
                except (Overloaded, Unavailable) as error:
                    refusal = error
                else:
                    span.set(mainspring__model=name, mainspring__fallbacks=position)
                    return answer
            raise refusal

    async def _send_to_model(self, model: ModelSection, call: Call) -> Answer:
        candidates = self._of(model)
        if candidates:
            self._traffic.require_room(model, candidates, call)
        for replica in self._ranked(model, candidates, call.affinity)[:MAX_ATTEMPTS]:
            if not self._circuits.may(replica.id):
                continue  # another request, sent meanwhile, found it failing
            try:
                return await self._send_to_replica(model, replica, call)
            except Failed as error:
                log.warning("%s at %s: %s", model.id, replica.url, error)
        raise Unavailable(f"model {model.id}", "no engine answers", 2.0)

    async def _send_to_replica(self, model: ModelSection, replica: Replica, call: Call) -> Answer:
        sent = self._clock.monotonic()
        self._enter(replica, call)
        span = _span(model, replica, call)
        try:
            reply = await self._wire.ask(
                replica.url, self._secret, _payload(model, call), call, span.traceparent
            )
        except BaseException as error:
            span.end(type(error).__name__)
            self._leave(replica, call)
            self._judge(replica, error)
            raise
        self._circuits.answering(replica.id)
        answer = Answer(model, call, sent, call.meter(model, call.wants_usage), reply.body)
        answer.first_byte = self._clock.monotonic()
        self._meter.sent(model.id, sent - call.arrived)
        self._meter.first_byte(model.id, answer.first_byte - call.arrived, answer.first_byte - sent)
        self._traffic.first_byte(answer)
        if call.stream:
            answer.chunks = self._metered(answer, reply)
        answer.on_release.append(lambda answer: self._over(answer, replica, reply))
        answer.on_release.append(lambda answer: _ended(span, answer))
        if call.stream:
            _ends_in_time(answer, call.deadline - answer.first_byte)
        return answer

    async def _metered(self, answer: Answer, reply: Reply) -> AsyncIterator[bytes]:
        """A stream's whole events, read by its meter as they pass."""
        meter, traffic = answer.meter, self._traffic
        yield meter.feed(reply.first)
        async for data in reply.rest(traffic.pause_s):
            if passed := meter.feed(data):
                yield passed
        if rest := meter.finish():
            yield rest

    def _judge(self, replica: Replica, error: BaseException) -> None:
        """What no answer says of the replica."""
        if isinstance(error, Refused):
            self._meter.refused(replica.model, error.http_status)
            self._circuits.succeeded(replica.id)
        elif isinstance(error, Failed | Hung):
            self._failed(replica)
        else:
            self._circuits.undecided(replica.id)

    def _failed(self, replica: Replica) -> None:
        if self._circuits.failed(replica.id):
            self._meter.opened(replica.model)
            log.warning("%s at %s failed too often; it is left alone", replica.model, replica.url)

    def _over(self, answer: Answer, replica: Replica, reply: Reply) -> None:
        """Frees the place, closes what is still open (which makes the engine stop), meters."""
        reply.close()
        self._leave(replica, answer.call)
        answer.engine_s = self._clock.monotonic() - answer.sent
        tokens = answer.usage.completion_tokens
        if answer.call.stream and tokens > 1:
            last = answer.sent + answer.engine_s
            answer.inter_token_s = (last - answer.first_byte) / (tokens - 1)
        if answer.status == 200:
            self._circuits.succeeded(replica.id)
            self._traffic.answered(answer)
        elif answer.status == 502:
            self._failed(replica)
        self._meter.done(
            answer.model.id, answer.status, answer.usage, answer.engine_s, answer.inter_token_s
        )

    def _load(self, model: ModelSection) -> Load:
        return self._traffic.load(model, self._of(model))

    def _of(self, model: ModelSection) -> list[Replica]:
        """The model's live replicas whose circuits let a request through."""
        may = self._circuits.may
        return [r for r in self._replicas() if r.model == model.id and may(r.id)]

    def _ranked(
        self, model: ModelSection, candidates: list[Replica], affinity: str
    ) -> list[Replica]:
        """The one that this conversation always hashes to first, whose prefix cache knows it, as
        long as it has hardly more to do than the least loaded one; then by load."""
        hardly_more = model.max_num_seqs // UNEVEN
        least = min(map(self._traffic.at, candidates), default=0)

        def rank(replica: Replica) -> tuple[int, bytes]:
            key = f"{affinity}\0{replica.id}".encode()
            over = max(0, self._traffic.at(replica) - least - hardly_more)
            return over, hashlib.blake2b(key, digest_size=8).digest()

        return sorted(candidates, key=rank)

    def _enter(self, replica: Replica, call: Call) -> None:
        self._circuits.begin(replica.id)
        self._traffic.enter(replica, call)
        self._meter.in_work(replica.model, self._traffic.in_work(replica.model))

    def _leave(self, replica: Replica, call: Call) -> None:
        self._traffic.leave(replica, call)
        self._meter.in_work(replica.model, self._traffic.in_work(replica.model))


def _span(model: ModelSection, replica: Replica, call: Call) -> tracing.Span:
    """The call of an engine, by the GenAI conventions."""
    operation = _OPERATIONS.get(call.path, call.path)
    return tracing.begin(
        f"{operation} {model.id}", "client", gen_ai__operation__name=operation,
        gen_ai__provider__name="vllm", gen_ai__request__model=model.id,
        gen_ai__request__max_tokens=call.payload.get("max_tokens"), server__address=replica.url,
        mainspring__request_id=call.request_id, mainspring__tenant=call.tenant,
    )  # fmt: skip


def _ended(span: tracing.Span, answer: Answer) -> None:
    span.set(
        gen_ai__response__model=answer.model.id,
        gen_ai__usage__input_tokens=answer.usage.prompt_tokens,
        gen_ai__usage__output_tokens=answer.usage.completion_tokens,
        gen_ai__server__time_to_first_token=round(answer.first_byte - answer.sent, 6),
    )
    span.end("" if answer.status == 200 else str(answer.status))


def _ends_in_time(answer: Answer, left: float) -> None:
    """Release a stream soon after its deadline, though its client reads nothing and so does not let
    it come to its end."""
    late = asyncio.get_running_loop().call_later(left + GRACE_S, answer.release, 504)
    answer.on_release.append(lambda _: late.cancel())


def _payload(model: ModelSection, call: Call) -> bytes:
    """What the engine is sent. It takes the lowest priority first, and batch work behind all."""
    priority = call.priority + (BEHIND if call.batch else 0)
    given = {**call.payload, "model": model.id}
    return encode({**given, "priority": priority} if priority else given)
