"""Completions, responses and tokens go the way of chats: routed, limited, billed, in their form."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from serve.books import Books
from tests.gateways import Stack, eventually, serving

pytestmark = pytest.mark.enable_socket
DONE = {
    "type": "response.completed",
    "response": {
        "id": "resp_1", "usage": {"input_tokens": 1000, "output_tokens": 500, "total_tokens": 1500,
                                  "input_tokens_details": {"cached_tokens": 64}},
    },
}  # fmt: skip


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    made = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    yield made
    await made.close()


@pytest.fixture
async def stack(books: Books) -> AsyncIterator[Stack]:
    section = GatewaySection(max_body_bytes=10_000, request_timeout_s=5.0, body_timeout_s=0.3)
    async with serving(section, books=books) as made:
        yield made


async def post(stack: Stack, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], Any]:
    async with stack.client.post(stack.url + path, json=body) as answer:
        text = (await answer.read()).decode()
        return answer.status, json.loads(text) if text[:1] == "{" else {"text": text}, answer


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        ("/v1/completions", {"prompt": "say"}, {"prompt": "say"}),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2}, {"prompt": ["a", "b"], "n": 2}),
        ("/v1/completions", {"prompt": [1, 2, 3]}, {"prompt": [1, 2, 3]}),
        ("/v1/responses", {"input": "say"}, {"input": "say", "store": False}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"text": "say"}]},
                                     {"type": "function_call_output", "output": "4"}]},
         {"store": False}),
    ],
)  # fmt: skip
async def test_a_form_reaches_the_engine_as_it_came_and_is_billed(
    stack: Stack, books: Books, path: str, body: dict[str, Any], sent: dict[str, Any]
) -> None:
    asked = {**body, "model": "small", "mainspring": {"session": "s"}}
    status, _, answer = await post(stack, path, asked)
    assert status == 200
    assert float(answer.headers["x-mainspring-cost-usd"]) == pytest.approx(0.002)
    seen = stack.small.seen[-1]
    assert seen.items() >= {**sent, "model": "small"}.items()
    assert "mainspring" not in seen
    await eventually(lambda: bool(books.ledger.sums()))
    (used,) = books.ledger.sums()
    assert (used.tokens_in, used.tokens_out) == (1000, 500)


async def test_a_stream_of_responses_is_billed_by_its_last_event(
    stack: Stack, books: Books
) -> None:
    async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in ({"type": "response.created", "response": {"usage": None}},
                      {"type": "response.output_text.delta", "delta": "hi"}, DONE):  # fmt: skip
            name = event["type"]
            await response.write(f"event: {name}\ndata: {json.dumps(event)}\n\n".encode())
        await response.write_eof()
        return response

    stack.small.behave = behave
    body = {"model": "small", "input": "say", "stream": True}
    status, told, _ = await post(stack, "/v1/responses", body)
    assert status == 200
    assert told["text"].count("event: ") == 3 and told["text"].endswith("\n\n")
    await eventually(lambda: bool(books.ledger.sums()))
    (used,) = books.ledger.sums()
    assert (used.tokens_in, used.tokens_out, used.tokens_cached) == (1000, 500, 64)


async def test_tokens_are_the_engines_and_cost_nothing(stack: Stack, books: Books) -> None:
    async def behave(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"count": 2, "tokens": [5, 6]})

    stack.small.behave = behave
    status, told, _ = await post(stack, "/tokenize", {"model": "small", "prompt": "hi"})
    assert (status, told["tokens"]) == (200, [5, 6])
    assert books.ledger.sums() == [] or books.ledger.sums()[0].requests == 0
    status, told, _ = await post(stack, "/tokenize", {"model": "auto", "prompt": "hi"})
    assert (status, told["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "asked", "code", "param"),
    [
        ("/v1/chat/completions", {"audio": {"voice": "a"}}, "unsupported_parameter", "audio"),
        ("/v1/chat/completions", {"modalities": ["audio"]}, "unsupported_parameter", "modalities"),
        ("/v1/chat/completions", {"store": True}, "unsupported_parameter", "store"),
        ("/v1/completions", {"suffix": "x"}, "unsupported_parameter", "suffix"),
        ("/v1/completions", {"best_of": 3}, "unsupported_parameter", "best_of"),
        ("/v1/completions", {"prompt": []}, "invalid_value", "prompt"),
        ("/v1/completions", {"prompt": 5}, "invalid_value", "prompt"),
        ("/v1/responses", {"previous_response_id": "r"}, "unsupported_parameter",
         "previous_response_id"),
        ("/v1/responses", {"background": True}, "unsupported_parameter", "background"),
        ("/v1/responses", {"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools"),
        ("/v1/responses", {"input": []}, "invalid_value", "input"),
        ("/v1/responses", {"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ("/v1/responses", {"max_output_tokens": 9_999}, "invalid_value",
         "max_output_tokens"),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_refused_by_name(
    stack: Stack, path: str, asked: dict[str, Any], code: str, param: str
) -> None:
    forms: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
        "/v1/completions": {"prompt": "hi"}, "/v1/responses": {"input": "hi"},
    }  # fmt: skip
    body = {"model": "small", **forms[path], **asked}
    status, told, answer = await post(stack, path, body)
    assert (status, told["error"]["code"], told["error"]["param"]) == (400, code, param)
    assert answer.headers["x-request-id"]
    assert stack.small.seen == []


async def test_a_body_that_does_not_come_is_not_waited_for(stack: Stack) -> None:
    host, port = stack.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{"
    writer.write(head.encode())
    async with asyncio.timeout(5):
        answer = await reader.read(4_000)
    assert b" 408 " in answer and b"request_timeout" in answer
    writer.close()


async def test_what_the_gateway_serves_is_described(stack: Stack) -> None:
    async with stack.client.get(f"{stack.url}/openapi.json") as answer:
        described = await answer.json()
    body = described["paths"]["/v1/responses"]["post"]["requestBody"]
    assert "max_output_tokens" in body["content"]["application/json"]["schema"]["properties"]
    assert "$ref" not in json.dumps(body)
