"""What goes between the routes and the engines: a call, its answer, and whoever answers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import aiohttp

from cluster.errors import DeadlineExceeded, Unavailable
from cluster.settings import ModelSection
from serve.metering import Metering, StreamMeter, Usage, usage_in
from serve.problems import problem_of
from serve.routing import Load, Route

CHAT_PATH: Final = "/v1/chat/completions"


@dataclass
class Call:
    """One request under way to `path` of an engine. `deadline` and `arrived` are readings of the
    monotonic clock. `batch` is work that nobody waits for; of two calls of one class the engine
    takes the one with the lower `priority` first. `meter` makes the reader of a stream. `tenant` is
    who asks, `cache_control` the request's header. A `probe` only looks whether the engine answers:
    it keeps none awake."""

    payload: dict[str, Any]
    request_id: str
    arrived: float
    deadline: float
    path: str = CHAT_PATH
    stream: bool = False
    affinity: str = ""
    wants_usage: bool = False
    body_bytes: int = 0
    batch: bool = False
    priority: int = 0
    meter: Callable[[ModelSection, bool], Metering] = StreamMeter
    tenant: str = ""
    cache_control: str = ""
    probe: bool = False

    @property
    def seconds(self) -> float:
        """How long it may take in all."""
        return round(self.deadline - self.arrived, 3)


@dataclass
class Answer:
    """An accepted answer: `body`, or for a stream `chunks`, whole events at a time.

    Whoever receives it must `stream` it to its end or `release` it. `on_release` is called once, in
    order, when it is over; by then `status`, `usage` and the times say what became of it. `on_paid`
    is called once it is charged for, too. Times are readings of the monotonic clock, `_s` are
    seconds. `cache` says whether it was made before, where it could have been.
    """

    model: ModelSection
    call: Call
    sent: float
    meter: Metering
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = None
    on_release: list[Callable[["Answer"], None]] = field(default_factory=list)
    on_paid: list[Callable[["Answer"], None]] = field(default_factory=list)
    cache: Literal["", "hit", "miss"] = ""
    first_byte: float = 0.0
    status: int = 0
    usage: Usage = field(default_factory=Usage)
    engine_s: float = 0.0
    inter_token_s: float = 0.0

    @property
    def released(self) -> bool:
        return self.status != 0

    async def stream(self) -> AsyncIterator[bytes]:
        """The bytes of a streamed answer. It is released however it comes to an end; an error that
        comes once bytes were sent is the last event, with no `[DONE]` behind it."""
        status = 200
        try:
            async for data in self.chunks or _nothing():
                yield data
        except TimeoutError:
            status = 504
            yield self.meter.broken(problem_of(DeadlineExceeded("the answer", self.call.seconds)))
        except aiohttp.ClientError:
            status = 502
            broken = Unavailable(f"model {self.model.id}", "the engine broke off")
            yield self.meter.broken(problem_of(broken))
        except (asyncio.CancelledError, GeneratorExit):
            status = 499
            raise
        finally:
            self.release(status)

    def release(self, status: int) -> None:
        """End it, the first time that this is called: whoever worked for it stops."""
        if self.released:
            return
        self.status = status
        self.usage = usage_in(self.body) if self.body else self.meter.usage
        for tell in self.on_release:
            tell(self)


class Engines(Protocol):
    """Who answers calls: the router, or one more concern around it that hands on what it does not
    answer itself. A call is sent to the models of its route in order until one takes it."""

    def load(self) -> dict[str, Load]:
        """Every model as it stands now."""
        ...

    async def send(self, route: Route, call: Call) -> Answer:
        """The first answer along the route.

        Raises Overloaded when all models are full, Unavailable when none answers, DeadlineExceeded,
        and Refused when the engine found fault with the request.
        """
        ...


def drawn(request_id: str, share: float, what: str) -> bool:
    """Whether a request is of a `share` (0 to 1), the same on every gateway and each time; draws
    for another purpose, `what`, fall otherwise."""
    digest = hashlib.blake2b(f"{what} {request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
