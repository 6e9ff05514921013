"""The exact cache: the same request of the same tenant, where the same answer is right, is answered
without an engine and costs nothing.

Covered: requests with temperature 0 or a seed, asked of the same model, that neither name tools nor
carry what a tool said: what a tool does or has seen may be different the next time. An answer is
kept once it has come to its end and is paid for. Not covered: other gateway processes, which keep
their own; a model that another checkpoint takes over, whose answers stay for `ttl_s` at most.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from cluster.ids import Clock
from cluster.settings import GatewaySection, ModelSection
from serve.calls import Answer, Call, Engines
from serve.metering import Usage
from serve.problems import Problem
from serve.routing import Load, Route

MAX_SHARE: Final = 16
"""An answer of more than this part of the room is not kept."""
_OVERHEAD_BYTES: Final = 512
_TOOLS: Final = ("tools", "tool_choice", "functions", "function_call")
_NO_MATTER: Final = frozenset({"user", "priority", "metadata", "store"})
_DONE: Final = b"data: [DONE]\n\n"
# Within a JSON string the quotes are escaped, so that no text of an answer can look like it.
_COST: Final = re.compile(rb'"cost_usd": [0-9.e+-]+')


@dataclass(frozen=True)
class Kept:
    """An answer as its client got it: a body, or all of a stream."""

    model: ModelSection
    data: bytes
    usage: Usage
    until: float

    @property
    def size(self) -> int:
        return len(self.data) + _OVERHEAD_BYTES


@dataclass
class Replayed:
    """The `Metering` of an answer that is known whole."""

    usage: Usage
    counted: bool = True

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def broken(self, problem: Problem) -> bytes:
        return problem.event()


class Shelf:
    """The newest answers by key: `entries` and `max_bytes` at most, each for `ttl_s` seconds. What
    was not asked for longest goes first."""

    def __init__(self, clock: Clock, max_bytes: int, entries: int, ttl_s: float) -> None:
        self._clock, self._max_bytes, self._entries, self._ttl_s = clock, max_bytes, entries, ttl_s
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0

    def find(self, key: bytes) -> Kept | None:
        if (found := self._kept.get(key)) is None:
            return None
        if found.until <= self._clock.monotonic():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found

    def keep(self, key: bytes, model: ModelSection, data: bytes, usage: Usage) -> None:
        kept = Kept(model, data, usage, self._clock.monotonic() + self._ttl_s)
        if kept.size > self._max_bytes // MAX_SHARE:
            return
        self._drop(key)
        self._kept[key] = kept
        self._bytes += kept.size
        while self._bytes > self._max_bytes or len(self._kept) > self._entries:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        if (gone := self._kept.pop(key, None)) is not None:
            self._bytes -= gone.size


class Cached:
    """`Engines` that answer a second time what they may; all else is the inner one's."""

    def __init__(self, inner: Engines, shelf: Shelf, clock: Clock) -> None:
        self._inner, self._shelf, self._clock = inner, shelf, clock

    def load(self) -> dict[str, Load]:
        """See `Engines`."""
        return self._inner.load()

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`. `Call.cache_control` may hold `no-cache` (not from the shelf) and
        `no-store` (not onto it either)."""
        told = {word.strip().lower() for word in call.cache_control.split(",")}
        if not repeatable(call) or "no-store" in told:
            return await self._inner.send(route, call)
        key = key_of(route, call)
        if "no-cache" not in told and (kept := self._shelf.find(key)) is not None:
            return self._again(kept, call)
        answer = await self._inner.send(route, call)
        answer.cache = "miss"
        # When a model further down the route stood in, the one asked for may do better next time.
        if route.models and answer.model.id == route.models[0]:
            self._keep_when_paid(key, answer)
        return answer

    def _again(self, kept: Kept, call: Call) -> Answer:
        now = self._clock.monotonic()
        answer = Answer(kept.model, call, now, Replayed(kept.usage), first_byte=now, cache="hit")
        if call.stream:
            answer.chunks = _once(_COST.sub(b'"cost_usd": 0.0', kept.data))
        else:
            answer.body = kept.data
        return answer

    def _keep_when_paid(self, key: bytes, answer: Answer) -> None:
        pieces: list[bytes] = []
        if answer.chunks is not None:
            answer.chunks = _noted(answer.chunks, pieces)

        def keep(answer: Answer) -> None:
            data = answer.body or b"".join(pieces)
            whole = bool(answer.body) or data.endswith(_DONE)
            if answer.status == 200 and whole and not answer.usage.estimated:
                self._shelf.keep(key, answer.model, data, answer.usage)

        answer.on_paid.append(keep)


def with_cache(section: GatewaySection, inner: Engines, clock: Clock) -> Engines:
    """The engines, behind a cache where the settings ask for one."""
    if not section.cache_bytes:
        return inner
    shelf = Shelf(clock, section.cache_bytes, section.cache_entries, section.cache_ttl_s)
    return Cached(inner, shelf, clock)


def repeatable(call: Call) -> bool:
    """Whether the same answer is right when the same is asked again."""
    given = call.payload
    if not call.tenant or any(given.get(name) for name in _TOOLS):
        return False
    if given.get("temperature") != 0 and given.get("seed") is None:
        return False
    messages = given.get("messages") or []
    return not any(_of_tool(m) for m in messages if isinstance(m, dict))


def key_of(route: Route, call: Call) -> bytes:
    """What two requests must have in common to get the same answer."""
    asked = {k: v for k, v in call.payload.items() if k not in _NO_MATTER}
    first = route.models[0] if route.models else ""
    whole = [call.tenant, call.path, first, call.stream, call.wants_usage, asked]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).digest()


def _of_tool(message: dict[str, Any]) -> bool:
    return message.get("role") in {"tool", "function"} or bool(message.get("tool_calls"))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _noted(chunks: AsyncIterator[bytes], pieces: list[bytes]) -> AsyncIterator[bytes]:
    async for data in chunks:
        if not data.startswith(b":"):  # a comment says how long this one waited
            pieces.append(data)
        yield data
