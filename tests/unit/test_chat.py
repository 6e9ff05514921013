"""The client of a model's address: what it sends, what it reads, and our errors for theirs."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2 as httpx  # the one that openai speaks through
import openai
import pytest

from agents.chat import HttpChat, on_behalf
from cluster.errors import DeadlineExceeded, InvalidInput, Unavailable

Answer = Callable[[httpx.Request], Awaitable[httpx.Response]]
MESSAGES = [{"role": "user", "content": "plan"}]
BODY: dict[str, Any] = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "routine",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}  # fmt: skip
HEADERS = {
    "x-mainspring-model": "routine", "x-mainspring-route": "short, no tools",
    "x-mainspring-cost-usd": "0.00025",
}  # fmt: skip


class Gateway:
    """Answers without a socket; `requests` keeps what came."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answer: Answer = self._ok

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self.answer(request)

    async def _ok(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=BODY, headers=HEADERS)

    def refuses(self, status: int) -> None:
        async def answer(request: httpx.Request) -> httpx.Response:
            headers = {"retry-after-ms": "1"}
            return httpx.Response(status, json={"error": {"message": "no"}}, headers=headers)

        self.answer = answer

    def raises(self, error: Exception) -> None:
        async def answer(request: httpx.Request) -> httpx.Response:
            raise error

        self.answer = answer


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def chat(gateway: Gateway) -> AsyncIterator[HttpChat]:
    chat = HttpChat("http://gateway/v1", retries=1)
    transport = httpx.MockTransport(gateway.handle)
    chat._client = openai.AsyncOpenAI(
        base_url="http://gateway/v1", api_key="none", max_retries=1,
        http_client=httpx.AsyncClient(transport=transport),
    )  # fmt: skip
    yield chat
    await chat.close()


async def _ask(chat: HttpChat, timeout_s: float = 5.0, **further: Any) -> Any:
    return await chat.complete(
        "auto", MESSAGES, max_tokens=9, timeout_s=timeout_s, request_id="run_1-plan-0", **further
    )


async def test_an_answer_brings_who_gave_it_why_and_what_it_cost(chat: HttpChat) -> None:
    answer = await _ask(chat)
    assert (answer.text, answer.model, answer.route) == ("hi", "routine", "short, no tools")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 2)
    assert answer.cost_usd == 0.00025
    assert answer.seconds >= 0


async def test_a_request_carries_its_id_and_limits(chat: HttpChat, gateway: Gateway) -> None:
    await _ask(chat, seed=3, temperature=0.5)
    (request,) = gateway.requests
    sent = json.loads(request.content)
    assert request.headers["x-request-id"] == "run_1-plan-0"
    assert sent == {
        "model": "auto", "messages": MESSAGES, "max_tokens": 9, "seed": 3, "temperature": 0.5,
    }  # fmt: skip


async def test_a_schema_travels_as_a_strict_response_format(
    chat: HttpChat, gateway: Gateway
) -> None:
    await _ask(chat, schema={"type": "object"})
    sent = json.loads(gateway.requests[0].content)
    assert sent["response_format"]["type"] == "json_schema"
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert sent["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInput),
        (404, InvalidInput),
        (408, DeadlineExceeded),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, DeadlineExceeded),
    ],
)
async def test_a_refusal_becomes_one_of_our_errors(
    chat: HttpChat, gateway: Gateway, status: int, error: type[Exception]
) -> None:
    gateway.refuses(status)
    with pytest.raises(error):
        await _ask(chat)


async def test_no_connection_is_unavailable(chat: HttpChat, gateway: Gateway) -> None:
    gateway.raises(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match="no connection"):
        await _ask(chat)
    assert len(gateway.requests) == 2


async def test_the_deadline_holds_over_all_tries(chat: HttpChat, gateway: Gateway) -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(200)

    gateway.answer = slow
    with pytest.raises(DeadlineExceeded) as caught:
        await _ask(chat, timeout_s=0.5)
    assert caught.value.seconds == 0.5
    assert len(gateway.requests) == 1


async def test_an_answer_without_words_or_bill_is_empty_and_free(
    chat: HttpChat, gateway: Gateway
) -> None:
    async def bare(request: httpx.Request) -> httpx.Response:
        message = {"role": "assistant", "content": None}
        choice = {"index": 0, "finish_reason": "length", "message": message}
        return httpx.Response(200, json={**BODY, "choices": [choice], "usage": None})

    gateway.answer = bare
    answer = await _ask(chat)
    assert (answer.text, answer.prompt_tokens, answer.cost_usd) == ("", 0, 0.0)


async def test_the_gateway_is_told_for_whom_an_agent_works(
    chat: HttpChat, gateway: Gateway
) -> None:
    async def ask() -> None:
        await chat.complete("routine", MESSAGES, max_tokens=8, timeout_s=5, request_id="r")

    await ask()
    token = on_behalf.set({"tenant": "acme", "run": "run-1"})
    await ask()
    on_behalf.reset(token)
    before, during = gateway.requests
    assert "x-mainspring-tenant" not in before.headers
    assert during.headers["x-mainspring-tenant"] == "acme"
    assert during.headers["x-mainspring-run"] == "run-1"
