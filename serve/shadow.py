"""The shadow share: of the requests that say `auto`, some are also sent to another model, so that a
router can learn how often the two agree.

That happens behind the answer, as work that nobody waits for, paid from a budget of its own, and a
failure of it is a line in the log. Kept is how far the two answers agree, never a text. Requests
with tools, and those of batches, have no shadow. A request never goes to a house other than ours.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import text

from cluster.errors import MainspringError
from cluster.ids import Clock
from cluster.telemetry import logger
from serve.accounts import Accounts
from serve.admission import Admission
from serve.bill import Bill
from serve.budgets import UNLIMITED, Caller, worst_case
from serve.calls import CHAT_PATH, Answer, Call, Engines, drawn
from serve.catalog import AUTO, Catalog
from serve.routing import Load, Route

log = logger("shadow")

TENANT: Final = "mainspring-shadow"
"""Whose budget and ledger rows the shadows are."""
MOST_AT_ONCE: Final = 4
SECONDS: Final = 60.0
_WORD: Final = re.compile(r"\w+")
_NOT_SENT: Final = frozenset({"stream", "stream_options"})
_NOTE: Final = text(
    "INSERT INTO shadows (request_id, tenant, at, model, other, agreement)"
    " VALUES (:request_id, :tenant, :at, :model, :other, :agreement)"
)
_ALL: Final = text(
    "SELECT request_id, tenant, at, model, other, agreement FROM shadows WHERE at >= :since"
    " ORDER BY at LIMIT :limit"
)


@dataclass(frozen=True)
class Agreement:
    """How far the answers of two models to one request agree: 1.0 the same words, 0.0 none. `at` is
    seconds since the epoch."""

    request_id: str
    tenant: str
    at: float
    model: str
    other: str
    agreement: float


class Agreements:
    """The rows that a router learns from."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def note(self, agreement: Agreement) -> None:
        with self._accounts.transaction() as connection:
            connection.execute(_NOTE, vars(agreement))

    def all(self, since: float = 0.0, limit: int = 10_000) -> list[Agreement]:
        """Those from `since` on, the oldest first."""
        with self._accounts.reading() as connection:
            rows = connection.execute(_ALL, {"since": since, "limit": limit}).all()
        return [Agreement(*row) for row in rows]


class Shadowed:
    """`Engines` that send a `share` (0 to 1) of what they answer to another model, too."""

    def __init__(
        self,
        inner: Engines,
        share: float,
        catalog: Catalog,
        admission: Admission,
        agreements: Agreements,
        clock: Clock,
    ) -> None:
        self._inner, self._share, self._catalog = inner, share, catalog
        self._admission, self._agreements, self._clock = admission, agreements, clock
        self._under_way: set[asyncio.Task[None]] = set()

    def load(self) -> dict[str, Load]:
        """See `Engines`."""
        return self._inner.load()

    async def send(self, route: Route, call: Call) -> Answer:
        """See `Engines`; the caller neither waits for a shadow nor hears of it."""
        answer = await self._inner.send(route, call)
        if self._chosen(call):
            pieces: list[bytes] = []
            if answer.chunks is not None:
                answer.chunks = _noted(answer.chunks, pieces)
            answer.on_release.append(lambda answer: self._begin(answer, pieces))
        return answer

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _chosen(self, call: Call) -> bool:
        if call.payload.get("model") != AUTO or call.batch or call.path != CHAT_PATH:
            return False
        if call.payload.get("tools") or call.payload.get("functions"):
            return False
        return drawn(call.request_id, self._share, "shadow")

    def _begin(self, answer: Answer, pieces: list[bytes]) -> None:
        other = self._other(answer.model.id)
        if answer.status != 200 or other is None or len(self._under_way) >= MOST_AT_ONCE:
            return
        said = text_of(answer.body) if answer.body else text_of_stream(b"".join(pieces))
        task = asyncio.get_running_loop().create_task(self._shadow(answer, other, said))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _other(self, model: str) -> str | None:
        """Another model that has room to spare."""
        load = self._inner.load()
        for other in self._catalog.models:
            if other.id != model and load[other.id].replicas and not load[other.id].full:
                return other.id
        return None

    async def _shadow(self, answer: Answer, other: str, said: str) -> None:
        asked = answer.call
        try:
            found = await self._ask(asked, other)
            note = Agreement(
                asked.request_id, asked.tenant, self._clock.now(), answer.model.id, other,
                agreement_of(said, found),
            )  # fmt: skip
            await asyncio.to_thread(self._agreements.note, note)
        except MainspringError as error:
            log.info("no shadow of %s: %s", asked.request_id, error)

    async def _ask(self, asked: Call, other: str) -> str:
        now = self._clock.monotonic()
        payload = {k: v for k, v in asked.payload.items() if k not in _NOT_SENT}
        call = replace(
            asked, payload={**payload, "model": other}, request_id=f"shadow-{asked.request_id}",
            arrived=now, deadline=now + SECONDS, stream=False, batch=True, cache_control="no-store",
        )  # fmt: skip
        limit = payload.get("max_completion_tokens") or payload.get("max_tokens")
        model = self._catalog.model(other)
        worst = worst_case([model], call.body_bytes, limit, payload.get("n") or 1, False)
        hold = await self._admission.enter(Caller(TENANT, "shadow"), UNLIMITED, worst, SECONDS)
        bill = Bill(self._admission, hold, AUTO, f"shadow of {asked.request_id}")
        try:
            answer = await self._inner.send(Route((other,), "shadow", 0.0), call)
        except BaseException:
            bill.release()
            raise
        answer.release(200)
        await bill.settled(answer)
        return text_of(answer.body)


def agreement_of(one: str, other: str) -> float:
    """The share of words that two texts have in common (Dice, counted)."""
    a, b = (Counter(_WORD.findall(t.lower())) for t in (one, other))
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 1.0


def text_of(body: bytes) -> str:
    """What a complete answer says."""
    return _content(body, "message")


def text_of_stream(stream: bytes) -> str:
    """What a streamed answer said."""
    events = (event.removeprefix(b"data: ") for event in stream.split(b"\n\n"))
    return "".join(_content(event, "delta") for event in events if event.startswith(b"{"))


def _content(body: bytes, where: str) -> str:
    try:
        choices: list[dict[str, Any]] = json.loads(body)["choices"]
        return "".join(str(choice[where].get("content") or "") for choice in choices[:1])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


async def _noted(chunks: AsyncIterator[bytes], pieces: list[bytes]) -> AsyncIterator[bytes]:
    async for data in chunks:
        pieces.append(data)
        yield data
