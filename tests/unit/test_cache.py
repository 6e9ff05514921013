"""The exact cache: the same answer where the same answer is right, for nobody but who paid it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from serve.books import Books
from serve.cache import MAX_SHARE, Shelf
from serve.metering import Usage
from tests.fakes import FakeClock
from tests.gateways import HELLO, Stack, refusing, serving

SECTION = GatewaySection(cache_bytes=1_000_000)
STILL = {**HELLO, "temperature": 0}


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    made = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    yield made
    await made.close()


@pytest.fixture
async def stack(books: Books) -> AsyncIterator[Stack]:
    async with serving(SECTION, books=books, own_key="ours") as made:
        yield made


async def ask(
    stack: Stack, body: dict[str, Any], key: str = "ours", **headers: str
) -> tuple[str, bytes, str]:
    """What the cache did, the answer, and what it cost."""
    given = {"authorization": f"Bearer {key}", **headers}
    url = f"{stack.url}/v1/chat/completions"
    async with stack.client.post(url, json=body, headers=given) as response:
        data, told = await response.read(), response.headers
        cost = told.get("x-mainspring-cost-usd", "")
        return told.get("x-mainspring-cache", ""), data, cost


@pytest.mark.parametrize("more", [{"temperature": 0}, {"seed": 7}])
async def test_a_deterministic_request_is_answered_once(
    stack: Stack, books: Books, more: dict[str, Any]
) -> None:
    first = await ask(stack, {**HELLO, **more})
    again = await ask(stack, {**HELLO, **more, "user": "somebody else's name for themselves"})
    assert (first[0], again[0]) == ("miss", "hit")
    assert first[1] == again[1]
    assert (first[2], again[2]) == ("0.002000000", "0.000000000")
    assert len(stack.small.seen) == 1
    (total,) = books.ledger.sums()
    assert (total.requests, total.price_nano, total.tokens_cached) == (2, 2_000_000, 1_000)


async def test_a_stream_is_replayed_as_a_stream_that_costs_nothing(stack: Stack) -> None:
    body = {**STILL, "stream": True, "stream_options": {"include_usage": True}}
    first, again = await ask(stack, body), await ask(stack, body)
    assert (first[0], again[0]) == ("miss", "hit")
    assert b'"cost_usd": 0.002' in first[1] and b'"cost_usd": 0.0}' in again[1]
    assert again[1].endswith(b"data: [DONE]\n\n")
    assert again[1].split(b"\n\n")[:3] == first[1].split(b"\n\n")[:3]
    assert (await ask(stack, STILL))[0] == "miss", "who asks for no stream gets none"


@pytest.mark.parametrize(
    "body",
    [
        HELLO,
        {**HELLO, "temperature": 0.1},
        {**STILL, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {**STILL, "messages": [{"role": "tool", "content": "42", "tool_call_id": "a"}]},
    ],
)
async def test_what_may_be_answered_otherwise_is_asked_each_time(
    stack: Stack, body: dict[str, Any]
) -> None:
    assert [(await ask(stack, body))[0] for _ in range(2)] == ["", ""]
    assert len(stack.small.seen) == 2


async def test_tenants_do_not_see_each_others_answers(stack: Stack, books: Books) -> None:
    keys = [books.keyring.create(tenant, "k")[1] for tenant in ("acme", "other", "acme")]
    assert [(await ask(stack, STILL, key))[0] for key in keys] == ["miss", "miss", "hit"]


async def test_cache_control_is_honoured(stack: Stack) -> None:
    control = "cache-control"
    assert (await ask(stack, STILL, **{control: "no-store"}))[0] == ""
    assert (await ask(stack, STILL))[0] == "miss"
    assert (await ask(stack, STILL, **{control: "max-age=0, No-Cache"}))[0] == "miss"
    assert (await ask(stack, STILL))[0] == "hit"


async def test_failures_and_broken_streams_are_not_kept(stack: Stack) -> None:
    stack.small.behave = refusing(400)
    assert b"error" in (await ask(stack, STILL))[1]
    stack.small.behave = lambda request, _: stack.small.stream(request, finish=False)
    stream = {**STILL, "stream": True}
    assert b"error" in (await ask(stack, stream))[1]
    stack.small.behave = None
    assert [(await ask(stack, body))[0] for body in (STILL, stream)] == ["miss", "miss"]


async def test_it_is_off_unless_the_settings_give_it_room() -> None:
    async with serving(GatewaySection()) as stack:
        assert [(await ask(stack, STILL))[0] for _ in range(2)] == ["", ""]


def test_the_shelf_is_bounded_in_time_entries_and_bytes() -> None:
    clock = FakeClock()
    shelf = Shelf(clock, max_bytes=16_000, entries=3, ttl_s=10.0)
    model: Any = object()

    def kept() -> str:
        return "".join(name for name in "abcdef" if shelf.find(name.encode()) is not None)

    for name in "abc":
        shelf.keep(name.encode(), model, b"x", Usage())
    assert kept() == "abc"
    shelf.keep(b"d", model, b"x", Usage())
    assert kept() == "bcd", "what was not asked for longest goes first"
    shelf.keep(b"e", model, b"x" * (16_000 // MAX_SHARE), Usage())
    assert kept() == "bcd", "one answer does not take the room of all"
    clock.step(10.0)
    assert kept() == ""
    small = Shelf(clock, max_bytes=16_000, entries=1_000, ttl_s=10.0)
    for number in range(100):
        small.keep(str(number).encode(), model, b"x" * 400, Usage())
    assert sum(small.find(str(n).encode()) is not None for n in range(100)) == 16_000 // 912
