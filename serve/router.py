"""Carries out a route: picks the replica, sends, falls back before the first byte, meters.

A request is admitted before any work is done for it and let go when its last byte has been sent or
its client has gone. Once a byte has reached the client nothing is retried.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from cluster.errors import MainspringError, Overloaded, Unavailable
from cluster.ids import Clock
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.calls import Answer, Call
from serve.catalog import Catalog
from serve.directory import Online, Replica
from serve.metering import Meter
from serve.problems import Refused
from serve.routing import Load, Route
from serve.schemas import encode
from serve.traffic import Traffic
from serve.wire import Failed, Reply, Wire

log = logger("router")

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

    async def close(self) -> None:
        """Let go of the connections."""
        await self._wire.close()

    def load(self) -> dict[str, Load]:
        """Every model's live replicas, work in hand here, and this gateway's share of its room."""
        return {m.id: self._traffic.load(m, self._of(m)) for m in self._catalog.models}

    def online(self) -> Online:
        """See `Traffic.online`."""
        return self._traffic.online()

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`."""
        refusal: MainspringError = Unavailable("models", route.reason, 2.0)
        for position, name in enumerate(route.models):
            if position:
                self._meter.fell_back(name)
            try:
                return await self._send_to_model(self._catalog.model(name), call)
            except (Overloaded, Unavailable) as error:
                refusal = error
        raise refusal

    async def _send_to_model(self, model: ModelSection, call: Call) -> Answer:
        candidates = self._of(model)
        load = self._traffic.load(model, candidates)
        if load.full and candidates:
            raise Overloaded(f"model {model.id}", "its queue is full", 1.0)
        for replica in self._ranked(candidates, call.affinity)[:MAX_ATTEMPTS]:
            self._enter(replica, call)
            try:
                return await self._send_to_replica(model, replica, call)
            except Failed as error:
                self._leave(replica, call)
                log.warning("%s at %s: %s", model.id, replica.url, error)
            except Refused as error:
                self._leave(replica, call)
                self._meter.refused(model.id, error.http_status)
                raise
            except BaseException:
                self._leave(replica, call)
                raise
        raise Unavailable(f"model {model.id}", "no engine answers", 2.0)

    async def _send_to_replica(self, model: ModelSection, replica: Replica, call: Call) -> Answer:
        sent = self._clock.monotonic()
        self._meter.sent(model.id, sent - call.arrived)
        payload = encode({**call.payload, "model": model.id})
        reply = await self._wire.ask(replica.url, self._secret, payload, call)
        answer = Answer(model, call, sent, call.meter(model, call.wants_usage), reply.body)
        answer.first_byte = self._clock.monotonic()
        self._meter.first_byte(model.id, answer.first_byte - call.arrived, answer.first_byte - sent)
        self._traffic.first_byte(answer)
        if call.stream:
            answer.chunks = _metered(answer, reply)
        answer.on_release.append(lambda answer: self._over(answer, replica, reply))
        return answer

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
            self._traffic.answered(answer)
        self._meter.done(
            answer.model.id, answer.status, answer.usage, answer.engine_s, answer.inter_token_s
        )

    def _of(self, model: ModelSection) -> list[Replica]:
        return [r for r in self._replicas() if r.model == model.id]

    def _ranked(self, candidates: list[Replica], affinity: str) -> list[Replica]:
        """Least loaded first; among equals the one that this conversation always hashes to, whose
        prefix cache knows it."""

        def rank(replica: Replica) -> tuple[int, bytes]:
            key = f"{affinity}\0{replica.id}".encode()
            return self._traffic.at(replica), hashlib.blake2b(key, digest_size=8).digest()

        return sorted(candidates, key=rank)

    def _enter(self, replica: Replica, call: Call) -> None:
        self._traffic.enter(replica, call)
        self._meter.in_work(replica.model, self._traffic.in_work(replica.model))

    def _leave(self, replica: Replica, call: Call) -> None:
        self._traffic.leave(replica, call)
        self._meter.in_work(replica.model, self._traffic.in_work(replica.model))


async def _metered(answer: Answer, reply: Reply) -> AsyncIterator[bytes]:
    """A stream's whole events, read by its meter as they pass."""
    meter = answer.meter
    yield meter.feed(reply.first)
    async for data in reply.rest():
        if passed := meter.feed(data):
            yield passed
    if rest := meter.finish():
        yield rest
