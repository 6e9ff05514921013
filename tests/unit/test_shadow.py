"""The shadow share: behind the answer, from a budget of its own, and never to a caller's harm."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO, Caller
from serve.calls import Call
from serve.routing import Route
from serve.shadow import TENANT, Shadowed, agreement_of, text_of_stream
from tests.gateways import HELLO, Stack, eventually, refusing, serving


@asynccontextmanager
async def shadowing(
    tmp_path: Path, limit: int = NANO, share: float = 1.0
) -> AsyncIterator[tuple[Stack, Books, Shadowed]]:
    clock = SystemClock()
    books = Books(AccountsSection(), tmp_path, clock, SystemIds())
    books.budgets.put(Budget(TENANT, "tenant", TENANT, "day", limit))
    async with serving(GatewaySection()) as stack:
        shadowed = Shadowed(
            stack.router, share, stack.catalog, books.admission, books.agreements, clock
        )
        yield stack, books, shadowed
        await shadowed.close()
    await books.close()


async def ask(engines: Shadowed, stream: bool = False, **fields: Any) -> bytes:
    """What the caller gets of a request that is routed to the small model."""
    now = SystemClock().monotonic()
    payload = {**HELLO, "model": "auto", "stream": stream, **fields}
    call = Call(payload, "req_1", now, now + 5.0, stream=stream, body_bytes=100, tenant="acme")
    answer = await engines.send(Route(("small",), "short", 0.0), call)
    if stream:
        return b"".join([data async for data in answer.stream()])
    answer.release(200)
    return answer.body


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_is_asked_too_and_how_far_they_agree_is_kept(
    tmp_path: Path, stream: bool
) -> None:
    async with shadowing(tmp_path) as (stack, books, shadowed):
        assert await ask(shadowed, stream=stream)
        await eventually(lambda: len(books.agreements.all()) == 1)
        (found,) = books.agreements.all()
        assert (found.request_id, found.tenant) == ("req_1", "acme")
        assert (found.model, found.other) == ("small", "big")
        assert found.agreement == (0.0 if stream else pytest.approx(2 / 3))
        (asked,) = stack.big.seen
        assert asked["priority"] > 0 and not asked.get("stream")
        (total,) = books.ledger.sums(("tenant",))
        assert total.group == {"tenant": TENANT}


@pytest.mark.parametrize(
    ("limit", "share", "fields"),
    [
        (1, 1.0, {}),
        (NANO, 0.0, {}),
        (NANO, 1.0, {"model": "small"}),
        (NANO, 1.0, {"tools": [{"type": "function"}]}),
    ],
    ids=["no budget", "no share", "not auto", "tools"],
)
async def test_what_may_have_no_shadow_has_none(
    tmp_path: Path, limit: int, share: float, fields: dict[str, Any]
) -> None:
    async with shadowing(tmp_path, limit, share) as (stack, books, shadowed):
        assert await ask(shadowed, **fields)
        await eventually(lambda: not shadowed._under_way)
        assert stack.big.seen == [] and books.agreements.all() == []


async def test_a_shadow_that_fails_harms_nobody(tmp_path: Path) -> None:
    async with shadowing(tmp_path) as (stack, books, shadowed):
        stack.big.behave = refusing(500)
        assert b"I am small" in await ask(shadowed)
        await eventually(lambda: len(stack.big.seen) == 1 and not shadowed._under_way)
        assert books.agreements.all() == []
        assert all(b.reserved == 0 for b in books.reservations.balances(Caller(TENANT, "shadow")))


@pytest.mark.parametrize(
    ("one", "other", "agreement"),
    [("", "", 1.0), ("Yes.", "yes", 1.0), ("yes", "no", 0.0), ("a b c", "a b d", 2 / 3)],
)
def test_agreement_is_the_share_of_common_words(one: str, other: str, agreement: float) -> None:
    assert agreement_of(one, other) == pytest.approx(agreement)


def test_a_broken_event_says_nothing() -> None:
    stream = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"cho\n\ndata: [DONE]\n\n'
    assert text_of_stream(stream) == "a"
