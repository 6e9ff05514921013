"""Carries out a route: picks the replica, sends, falls back before the first byte, meters.

A request is admitted before any work is done for it and let go when its last byte has been sent or
its client has gone. Once a byte has reached the client nothing is retried.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from cluster.errors import DeadlineExceeded, MainspringError, Overloaded, Unavailable
from cluster.ids import Clock
from cluster.settings import ModelSection
from cluster.telemetry import logger
from serve.catalog import Catalog
from serve.directory import Replica
from serve.metering import Meter, StreamMeter, Usage
from serve.problems import Refused, engine_problem, problem_of
from serve.routing import Load, Route
from serve.schemas import encode

log = logger("router")

CHAT_PATH: Final = "/v1/chat/completions"
CONNECT_TIMEOUT_S: Final = 2.0
MAX_CONNECTIONS: Final = 1024
MAX_ATTEMPTS: Final = 3  # replicas of one model; a request that kills engines must not visit all
_STREAM_ERROR: Final = b'data: {"error"'
# What an engine answers when it, and not the request, is the trouble: another may do better.
_TRY_ANOTHER: Final = frozenset({401, 403, 404, 408, 429})


class _Failed(Exception):
    """This replica gave no answer; the sentence goes to the log and not to the client."""


@dataclass
class Call:
    """One request under way. `deadline` and `arrived` are readings of the monotonic clock."""

    payload: dict[str, Any]
    request_id: str
    arrived: float
    deadline: float
    affinity: str = ""
    wants_usage: bool = False
    body_bytes: int = 0


@dataclass
class Answer:
    """An engine's accepted answer. A stream's bytes come from `Router.stream`; else `body`. Once it
    is released, `status`, `usage` and the seconds in the engine say what became of it."""

    model: ModelSection
    replica: Replica
    response: aiohttp.ClientResponse
    call: Call
    sent: float
    meter: StreamMeter
    body: bytes = b""
    first: bytes = b""
    released: bool = field(default=False)
    first_byte: float = 0.0
    status: int = 0
    engine_s: float = 0.0
    usage: Usage = field(default_factory=Usage)


class Router:
    """The way from a gateway process to the engines. `replicas` gives the live ones right now."""

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
        self._clock, self._secret, self._gateways = clock, secret, gateways
        self._by_model: Counter[str] = Counter()
        self._by_replica: Counter[str] = Counter()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    def load(self) -> dict[str, Load]:
        """Every model's live replicas, work in hand here, and this gateway's share of its room."""
        alive = Counter(r.model for r in self._replicas())
        return {
            m.id: Load(
                replicas=alive[m.id],
                in_work=self._by_model[m.id],
                capacity=self._capacity(m, alive[m.id]),
            )
            for m in self._catalog.models
        }

    async def send(self, route: Route, call: Call, stream: bool) -> Answer:
        """The first answer along the route. Whoever receives it must `stream` or `release` it.

        Raises Overloaded when all models are full, Unavailable when none answers, DeadlineExceeded,
        and Refused when the engine found fault with the request.
        """
        refusal: MainspringError = Unavailable("models", route.reason, 2.0)
        for position, name in enumerate(route.models):
            if position:
                self._meter.fell_back(name)
            try:
                return await self._send_to_model(self._catalog.model(name), call, stream)
            except (Overloaded, Unavailable) as error:
                refusal = error
        raise refusal

    async def stream(self, answer: Answer) -> AsyncIterator[bytes]:
        """The rest of a streamed answer; ends the request however it comes to an end."""
        status = 200
        try:
            yield answer.meter.feed(answer.first)
            async for data in answer.response.content.iter_any():
                if passed := answer.meter.feed(data):
                    yield passed
            if rest := answer.meter.finish():
                yield rest
        except TimeoutError:
            status = 504
            error = DeadlineExceeded("the answer", self._seconds(answer.call))
            yield problem_of(error).event()
        except aiohttp.ClientError:
            status = 502
            broken = Unavailable(f"model {answer.model.id}", "the engine broke off")
            yield problem_of(broken).event()
        except (asyncio.CancelledError, GeneratorExit):
            status = 499
            raise
        finally:
            self.release(answer, status, answer.meter.usage)

    def release(self, answer: Answer, status: int, usage: Usage) -> float:
        """End a request once: frees its place, closes what is still open (which makes the engine
        stop), meters what it used. Returns its cost in USD; 0 the second time."""
        if answer.released:
            return 0.0
        answer.released = True
        answer.response.close()
        self._leave(answer.model.id, answer.replica.id)
        answer.status, answer.usage = status, usage
        answer.engine_s = self._clock.monotonic() - answer.sent
        return self._meter.done(answer.model.id, status, usage, answer.engine_s)

    async def probe(self, name: str, timeout_s: float = 20.0) -> str | None:
        """Have a model generate one token. None when it did, else what is missing."""
        payload = {"messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
        now = self._clock.monotonic()
        call = Call(payload, "probe", now, now + timeout_s)
        if not any(r.model == name for r in self._replicas()):
            return "no live engine"
        try:
            answer = await self.send(Route((name,), "probe", 0.0), call, stream=False)
        except MainspringError as error:
            return str(error)
        self.release(answer, 200, Usage())
        return None

    async def _send_to_model(self, model: ModelSection, call: Call, stream: bool) -> Answer:
        candidates = [r for r in self._replicas() if r.model == model.id]
        if self._by_model[model.id] >= self._capacity(model, len(candidates)) > 0:
            raise Overloaded(f"model {model.id}", "its queue is full", 1.0)
        for replica in self._ranked(candidates, call.affinity)[:MAX_ATTEMPTS]:
            self._enter(model.id, replica.id)
            try:
                return await self._send_to_replica(model, replica, call, stream)
            except _Failed as error:
                self._leave(model.id, replica.id)
                log.warning("%s at %s: %s", model.id, replica.url, error)
            except BaseException:
                self._leave(model.id, replica.id)
                raise
        raise Unavailable(f"model {model.id}", "no engine answers", 2.0)

    async def _send_to_replica(
        self, model: ModelSection, replica: Replica, call: Call, stream: bool
    ) -> Answer:
        sent = self._clock.monotonic()
        left = call.deadline - sent
        if left <= 0:
            raise DeadlineExceeded("the request", self._seconds(call))
        self._meter.sent(model.id, sent - call.arrived)
        try:
            response = await self._client().post(
                replica.url + CHAT_PATH,
                data=encode({**call.payload, "model": model.id}),
                headers={
                    "authorization": f"Bearer {self._secret}",
                    "content-type": "application/json",
                    "x-request-id": call.request_id,
                },
                timeout=aiohttp.ClientTimeout(total=left, connect=CONNECT_TIMEOUT_S),
            )
            meter = StreamMeter(model, call.wants_usage)
            answer = Answer(model, replica, response, call, sent, meter)
            return await self._accepted(answer, stream)
        except aiohttp.ConnectionTimeoutError as error:
            raise _Failed(f"no connection: {error}") from None
        except TimeoutError:
            raise DeadlineExceeded("the answer", self._seconds(call)) from None
        except aiohttp.ClientError as error:
            raise _Failed(repr(error)) from None

    async def _accepted(self, answer: Answer, stream: bool) -> Answer:
        """The answer with its body or first bytes, once it is clear that it is one."""
        response = answer.response
        try:
            if response.status != 200:
                self._refuse(answer.model, response.status, await response.content.read(65_536))
            if not stream:
                answer.body = await response.read()
            else:
                answer.first = await response.content.readany()
                if not answer.first:
                    raise _Failed("an empty stream")
                if answer.first.startswith(_STREAM_ERROR):
                    event = answer.first.removeprefix(b"data: ").split(b"\n", 1)[0]
                    self._refuse(answer.model, _status_of(event), event)
        except BaseException:
            response.close()
            raise
        answer.first_byte = self._clock.monotonic()
        self._meter.first_byte(answer.model.id, answer.first_byte - answer.call.arrived)
        return answer

    def _refuse(self, model: ModelSection, status: int, body: bytes) -> None:
        if status >= 500 or status in _TRY_ANOTHER:
            raise _Failed(f"status {status}: {body[:300]!r}")
        problem = engine_problem(status, body)
        self._meter.refused(model.id, problem.status)
        raise Refused(problem.status, problem.message, problem.code, problem.param)

    def _ranked(self, candidates: list[Replica], affinity: str) -> list[Replica]:
        """Least loaded first; among equals the one that this conversation always hashes to, whose
        prefix cache knows it."""

        def rank(replica: Replica) -> tuple[int, bytes]:
            own = self._by_replica[replica.id]
            key = f"{affinity}\0{replica.id}".encode()
            return max(own, replica.load), hashlib.blake2b(key, digest_size=8).digest()

        return sorted(candidates, key=rank)

    def _capacity(self, model: ModelSection, replicas: int) -> int:
        room = replicas * (model.max_ongoing_requests + model.max_queued_requests)
        return -(-room // self._gateways)

    def _enter(self, model: str, replica: str) -> None:
        self._by_model[model] += 1
        self._by_replica[replica] += 1
        self._meter.in_work(model, self._by_model[model])

    def _leave(self, model: str, replica: str) -> None:
        self._by_model[model] -= 1
        self._by_replica[replica] -= 1
        if not self._by_replica[replica]:
            del self._by_replica[replica]
        self._meter.in_work(model, self._by_model[model])

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    def _seconds(self, call: Call) -> float:
        return round(call.deadline - call.arrived, 3)


def _status_of(event: bytes) -> int:
    """The status that an error inside a stream stands for; 500 when it does not say."""
    try:
        code = json.loads(event)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return 500
    return code if isinstance(code, int) and 400 <= code < 600 else 500
