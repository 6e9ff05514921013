"""A request for a model whose engine sleeps waits here until it has started.

How many wait is bounded like the engine's own queue, and for how long by each one's deadline. A
streaming client is told at once, and every COMMENT_S, in comments, which OpenAI's clients pass
over. What is asked of each model is told to the scaler (`demands`), by way of the directory.

Covered: engines that were ended because nobody asked. An engine that died is not waited for: its
requests go to another one, or fail as before.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from cluster.errors import DeadlineExceeded, MainspringError, Overloaded
from cluster.ids import Clock
from cluster.settings import ModelSection
from serve.calls import Answer, Call, Engines
from serve.catalog import Catalog
from serve.directory import Demand
from serve.metering import Metering, Usage
from serve.problems import Problem, problem_of
from serve.routing import Load, Route

COMMENT_S: Final = 2.0
LOOK_S: Final = 0.25
_AGAIN_S: Final = 10.0


@dataclass
class Unasked:
    """The `Metering` of an answer that no engine works on yet: it has cost nothing."""

    later: Metering
    usage: Usage = field(default_factory=Usage)
    counted: bool = False

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def broken(self, problem: Problem) -> bytes:
        return self.later.broken(problem)


class Waking:
    """`Engines` that let requests wait for an engine to start; all else is the inner one's."""

    def __init__(self, inner: Engines, catalog: Catalog, clock: Clock, gateways: int = 1) -> None:
        self._inner, self._catalog, self._clock = inner, catalog, clock
        self._gateways = gateways
        self._waiting: Counter[str] = Counter()
        self._asked = {m.id: clock.monotonic() for m in catalog.models}

    def load(self) -> dict[str, Load]:
        """See `Engines`."""
        return self._inner.load()

    def demands(self) -> dict[str, Demand]:
        """What is asked of each model here, the last time at this gateway's own start at least."""
        now, load = self._clock.monotonic(), self._inner.load()
        return {
            model: Demand(self._waiting[model], now - at, load[model].ttft_s)
            for model, at in self._asked.items()
        }

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`. Raises Overloaded when too many wait for the model already."""
        self._note(route, call)
        if not route.models or not self._asleep(route.models[0]):
            return await self._inner.send(route, call)
        model = self._catalog.model(route.models[0])
        self._require_room(model)
        if call.stream:
            return self._told(model, route, call)
        async for _ in self._started(model, call):
            pass
        return await self._inner.send(route, call)

    def _note(self, route: Route, call: Call) -> None:
        if not call.probe:
            now = self._clock.monotonic()
            self._asked |= {m: now for m in (*route.models[:1], route.wakes) if m}

    def _asleep(self, model: str) -> bool:
        load = self._inner.load()[model]
        return load.wakes and not load.replicas

    def _require_room(self, model: ModelSection) -> None:
        room = max(1, model.max_queued_requests // self._gateways)
        if self._waiting[model.id] >= room:
            raise Overloaded(f"model {model.id}", "it starts, and its queue is full", _AGAIN_S)

    async def _started(self, model: ModelSection, call: Call) -> AsyncIterator[float]:
        """Ends when the engine answers; gives the seconds waited, first at once and then every
        COMMENT_S. Raises DeadlineExceeded."""
        began = now = self._clock.monotonic()
        told = float("-inf")
        self._waiting[model.id] += 1
        try:
            while self._asleep(model.id):
                if now >= call.deadline:
                    raise DeadlineExceeded(f"the start of model {model.id}", call.seconds)
                if now - told >= COMMENT_S:
                    told = now
                    yield now - began
                await asyncio.sleep(min(LOOK_S, call.deadline - now))
                now = self._clock.monotonic()
        finally:
            self._waiting[model.id] -= 1

    def _told(self, model: ModelSection, route: Route, call: Call) -> Answer:
        """A stream that begins before there is an engine."""
        now = self._clock.monotonic()
        meter = Unasked(call.meter(model, call.wants_usage))
        answer = Answer(model, call, now, meter, first_byte=now)
        answer.chunks = self._chunks(answer, route)
        return answer

    async def _chunks(self, answer: Answer, route: Route) -> AsyncIterator[bytes]:
        try:
            async for waited in self._started(answer.model, answer.call):
                yield f": {answer.model.id} starts, {waited:.0f} s so far\n\n".encode()
            inner = await self._inner.send(route, answer.call)
        except MainspringError as error:
            problem = problem_of(error)
            answer.release(problem.status)
            yield answer.meter.broken(problem)
            return
        answer.meter, answer.sent, answer.first_byte = inner.meter, inner.sent, inner.first_byte
        answer.on_release.append(lambda over: _ended(inner, over))
        if inner.chunks is not None:
            async for data in inner.chunks:
                yield data


def _ended(inner: Answer, over: Answer) -> None:
    inner.release(over.status)
    over.engine_s, over.inter_token_s = inner.engine_s, inner.inter_token_s
