"""The gateway as clients see it, in front of fake engines that speak vLLM's HTTP on loopback."""

import asyncio
import base64
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from fastapi import APIRouter
from numpy.typing import NDArray

from cluster.errors import Conflict
from cluster.settings import GatewaySection
from serve.circuits import FAILURES, FIRST_S
from serve.directory import Directory, Replica
from serve.schemas import MAX_PRIORITY
from tests.gateways import (
    HELLO,
    SECRET,
    USAGE,
    FakeEngine,
    Stack,
    eventually,
    refusing,
    running,
    serving,
)


async def _embed(texts: list[str]) -> NDArray[np.float32]:
    return np.array([[len(t)] + [0.5] * 383 for t in texts], dtype=np.float32)


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    section = GatewaySection(max_body_bytes=10_000, request_timeout_s=5.0)
    async with serving(section, embed=_embed) as made:
        yield made


async def test_named_model_answers_with_its_cost_and_the_reason(stack: Stack) -> None:
    status, body, headers = await stack.chat()
    assert (status, body["choices"][0]["message"]["content"]) == (200, "I am small")
    assert headers["x-mainspring-model"] == "small"
    assert headers["x-mainspring-route"] == "named by the client"
    assert headers["x-mainspring-cost-usd"] == "0.002000000"
    assert float(headers["x-mainspring-engine-ms"]) > 0
    assert stack.idle()


async def test_auto_sends_structured_requests_to_the_planner(stack: Stack) -> None:
    _, _, headers = await stack.chat(model="auto", response_format={"type": "json_object"})
    assert headers["x-mainspring-model"] == "big"
    assert stack.big.seen[0]["model"] == "big"


async def test_unknown_fields_reach_the_engine_and_ours_do_not(stack: Stack) -> None:
    await stack.chat(top_k=5, seed=7, mainspring={"session": "s"})
    assert stack.small.seen[0]["top_k"] == 5
    assert stack.small.seen[0]["seed"] == 7
    assert "mainspring" not in stack.small.seen[0]
    assert stack.small.headers[0]["authorization"] == f"Bearer {SECRET}"


async def test_request_id_is_kept_or_made(stack: Stack) -> None:
    url = f"{stack.url}/v1/chat/completions"
    async with stack.client.post(url, json=HELLO, headers={"x-request-id": "abc-1"}) as response:
        assert response.headers["x-request-id"] == "abc-1"
    assert stack.small.headers[0]["x-request-id"] == "abc-1"
    async with stack.client.post(
        url, json=HELLO, headers={"x-request-id": "no spaces"}
    ) as response:
        assert response.headers["x-request-id"].startswith("req_")


async def test_stream_passes_tokens_and_hides_unasked_usage(stack: Stack) -> None:
    events = await stack.events()
    assert [json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]] == [
        "t0", "t1", "t2",
    ]  # fmt: skip
    assert events[-1] == "[DONE]"
    assert stack.small.seen[0]["stream_options"] == {"include_usage": True}
    assert stack.idle()


async def test_stream_ends_with_usage_and_cost_when_asked(stack: Stack) -> None:
    events = await stack.events(stream_options={"include_usage": True})
    assert json.loads(events[-2])["usage"] == {**USAGE, "cost_usd": 0.002}


async def test_metrics_count_tokens_and_cost(stack: Stack) -> None:
    await stack.chat()
    await stack.events()
    async with stack.client.get(f"{stack.url}/metrics") as response:
        text = await response.text()
    assert 'mainspring_requests_total{model="small",status="200"} 2.0' in text
    assert 'mainspring_tokens_total{direction="in",model="small"} 2000.0' in text
    assert 'mainspring_time_to_first_byte_seconds_count{model="small"} 2.0' in text


@pytest.mark.parametrize("stream", [False, True])
async def test_failing_engine_is_replaced_before_the_first_byte(stack: Stack, stream: bool) -> None:
    stack.small.behave = refusing(500)
    body = {**HELLO, "model": "auto", "stream": stream}
    async with stack.client.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["x-mainspring-model"] == "big"
        await response.read()
    assert stack.idle()


async def test_another_replica_is_tried_when_one_is_not_there(stack: Stack) -> None:
    stack.replicas.insert(0, Replica("r0", "small", "http://127.0.0.1:9"))
    for _ in range(4):
        status, _, headers = await stack.chat()
        assert (status, headers["x-mainspring-model"]) == (200, "small")


async def test_named_model_is_not_replaced_when_its_engine_fails(stack: Stack) -> None:
    stack.small.behave = refusing(500, "Traceback (most recent call last)")
    status, body, headers = await stack.chat()
    assert (status, body["error"]["code"]) == (503, "unavailable")
    assert "Traceback" not in json.dumps(body)
    assert int(headers["retry-after"]) >= 1
    assert stack.big.seen == []


async def test_no_engine_at_all_is_503(stack: Stack) -> None:
    stack.replicas.clear()
    status, body, _ = await stack.chat(model="auto")
    assert (status, body["error"]["type"]) == (503, "server_error")


async def test_refused_request_is_not_tried_elsewhere(stack: Stack) -> None:
    stack.small.behave = refusing(400, "maximum context length is 1024 tokens")
    status, body, _ = await stack.chat(model="auto")
    error = body["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert stack.big.seen == []
    assert stack.idle()


async def test_error_in_place_of_the_first_token_is_an_error_answer(stack: Stack) -> None:
    async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"error": {"message": "bad grammar", "code": 400}}\n\n')
        return response

    stack.small.behave = behave
    status, body, _ = await stack.chat(stream=True)
    assert (status, body["error"]["message"]) == (400, "bad grammar")


async def test_broken_stream_ends_with_an_error_event(stack: Stack) -> None:
    async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await stack.small.stream(request, tokens=1, pause=0.05, finish=False)

    stack.small.behave = behave
    events = await stack.events(model="auto")
    assert json.loads(events[-1])["error"]["code"] == "unavailable"
    assert stack.big.seen == []
    assert stack.idle()


async def test_deadline_ends_an_answer(stack: Stack) -> None:
    async def behave(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await stack.small.stream(request, tokens=100, pause=0.05)

    stack.small.behave = behave
    status, body, _ = await stack.chat(mainspring={"deadline_ms": 200})
    assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
    events = await stack.events(mainspring={"deadline_ms": 300})
    assert json.loads(events[-1])["error"]["code"] == "deadline_exceeded"
    assert len(events) > 1
    await eventually(lambda: stack.small.gone == 2)
    assert stack.idle()


async def test_deadline_holds_for_a_client_that_reads_nothing(stack: Stack) -> None:
    async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"data: " + b"x" * 1_000_000 + b"\n\n")

    stack.small.behave = behave
    body = {**HELLO, "stream": True, "mainspring": {"deadline_ms": 500}}
    async with stack.client.post(f"{stack.url}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        await eventually(lambda: stack.small.gone == 1 and stack.idle())


async def test_full_model_is_429_before_any_work(stack: Stack) -> None:
    free = asyncio.Event()

    async def behave(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await free.wait()
        return await stack.small.whole(body)

    stack.small.behave = behave
    waiting = [asyncio.create_task(stack.chat()) for _ in range(4)]
    await eventually(lambda: len(stack.small.seen) == 4)
    status, body, headers = await stack.chat()
    assert (status, body["error"]["type"]) == (429, "rate_limit_error")
    assert headers["retry-after"] == "1"
    status, _, headers = await stack.chat(model="auto")
    assert (status, headers["x-mainspring-model"]) == (200, "big")
    assert "small is full" in headers["x-mainspring-route"]
    free.set()
    assert [(await w)[0] for w in waiting] == [200] * 4
    assert len(stack.small.seen) == 4
    assert stack.idle()


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_stops_when_the_client_leaves(stack: Stack, stream: bool) -> None:
    async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        return await stack.small.stream(request, tokens=1000, pause=0.02)

    stack.small.behave = behave
    body = {**HELLO, "stream": stream}
    call = stack.client.post(f"{stack.url}/v1/chat/completions", json=body)
    task = asyncio.ensure_future(call)
    await eventually(lambda: len(stack.small.seen) == 1)
    if stream:
        response = await task
        await response.content.readany()
        response.close()
    else:
        task.cancel()
    await eventually(lambda: stack.small.gone == 1 and stack.idle())
    assert len(stack.small.seen) == 1, "what a client left is not tried again"


async def test_conversation_stays_on_one_of_equal_replicas(stack: Stack) -> None:
    async with running(FakeEngine("small")) as twin:
        stack.replicas.append(Replica("r3", "small", twin.url))
        for _ in range(5):
            await stack.chat(mainspring={"session": "anna"})
        assert {len(stack.small.seen), len(twin.seen)} == {0, 5}
        for number in range(20):
            await stack.chat(mainspring={"session": f"s{number}"})
        assert min(len(stack.small.seen), len(twin.seen)) > 2


async def test_conversation_keeps_its_replica_until_that_has_much_more_to_do() -> None:
    async with serving(GatewaySection(), room=32) as stack, running(FakeEngine("small")) as twin:
        urls = {"r1": stack.small.url, "r3": twin.url}

        async def asked(busy: dict[str, int]) -> str:
            stack.replicas[:] = [
                Replica(r, "small", u, running=busy.get(r, 0)) for r, u in urls.items()
            ]
            before = len(stack.small.seen)
            await stack.chat(mainspring={"session": "anna"})
            return "r1" if len(stack.small.seen) > before else "r3"

        own = await asked({})
        assert await asked({own: 4}) == own
        assert await asked({own: 5}) != own
        assert await asked({own: 20, ("r3" if own == "r1" else "r1"): 17}) == own


async def test_busier_replica_is_left_alone(stack: Stack) -> None:
    async with running(FakeEngine("small")) as twin:
        stack.replicas[:] = [
            Replica("r1", "small", stack.small.url, running=3),
            Replica("r3", "small", twin.url, running=1, waiting=1),
        ]
        for number in range(5):
            await stack.chat(mainspring={"session": f"s{number}"})
        assert (len(stack.small.seen), len(twin.seen)) == (0, 5)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "unknown_url"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
        ("GET", "/v1/models/gpt-4", None, 404, "model_not_found"),
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_value"),
        ("POST", "/v1/chat/completions", b"\xff", 400, "invalid_value"),
        ("POST", "/v1/chat/completions", b"[" * 9_000, 400, "invalid_value"),
        ("POST", "/v1/chat/completions", b'"' + b"x" * 20_000 + b'"', 413, "request_too_large"),
        ("POST", "/v1/embeddings", b'{"model":"small","input":"x"}', 404, "model_not_found"),
        ("POST", "/v1/embeddings", b'{"model":"minilm","input":[]}', 400, "invalid_value"),
        ("POST", "/v1/embeddings", b'{"model":"minilm","input":[" "]}', 400, "invalid_value"),
        ("POST", "/v1/embeddings", b'{"model":"minilm","input":[[1]]}', 400, "invalid_value"),
    ],
)
async def test_client_mistakes_have_the_one_shape(
    stack: Stack, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    async with stack.client.request(method, stack.url + path, data=body) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


async def test_batch_work_yields_in_the_engine_and_at_the_door(stack: Stack) -> None:
    batch = {"class": "batch"}
    await stack.chat(mainspring=batch, priority=-7)
    await stack.chat(priority=3)
    await stack.chat()
    behind, named, plain = stack.small.seen
    assert behind["priority"] > MAX_PRIORITY > named["priority"] == 3
    assert "priority" not in plain
    free = asyncio.Event()

    async def behave(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await free.wait()
        return await stack.small.whole(body)

    stack.small.behave = behave
    waiting = [asyncio.create_task(stack.chat(mainspring=batch)) for _ in range(3)]
    await eventually(lambda: len(stack.small.seen) == 6)
    status, body, headers = await stack.chat(mainspring=batch)
    assert (status, "batch" in body["error"]["message"]) == (429, True)
    assert int(headers["retry-after"]) >= 1
    waiting.append(asyncio.create_task(stack.chat()))
    await eventually(lambda: len(stack.small.seen) == 7)
    free.set()
    assert [(await w)[0] for w in waiting] == [200] * 4
    assert stack.idle()


async def test_a_deadline_that_cannot_be_kept_is_refused_at_the_door(stack: Stack) -> None:
    async def behave(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.4)
        return await stack.small.whole(body)

    stack.small.behave = behave
    await stack.chat()
    status, body, headers = await stack.chat(mainspring={"deadline_ms": 200})
    assert (status, body["error"]["code"], len(stack.small.seen)) == (429, "overloaded", 1)
    assert "deadline" in body["error"]["message"]
    assert int(headers["retry-after"]) >= 1
    assert (await stack.chat(mainspring={"deadline_ms": 2_000}))[0] == 200


async def test_a_failing_engine_is_left_alone_and_tried_again(stack: Stack) -> None:
    stack.small.behave = refusing(500)
    for _ in range(FAILURES):
        assert (await stack.chat())[0] == 503
    asked = len(stack.small.seen)
    status, _, headers = await stack.chat()
    assert (status, len(stack.small.seen)) == (503, asked)
    assert int(headers["retry-after"]) >= 1
    status, _, headers = await stack.chat(model="auto")
    assert (status, headers["x-mainspring-model"]) == (200, "big")
    assert "small is not alive" in headers["x-mainspring-route"]
    async with stack.client.get(f"{stack.url}/metrics") as response:
        text = await response.text()
    assert 'mainspring_circuits_opened_total{model="small"} 1.0' in text
    assert 'mainspring_engine_replicas{model="small"} 0.0' in text
    stack.small.behave = None
    await asyncio.sleep(FIRST_S)
    assert (await stack.chat())[0] == 200
    assert (await stack.chat())[0] == 200


async def test_many_streams_lose_nothing_when_their_tokens_are_passed_on_together() -> None:
    async with serving(GatewaySection(), room=64) as stack:

        async def behave(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
            return await stack.small.stream(request, tokens=30, pause=0.005)

        stack.small.behave = behave
        for events in await asyncio.gather(*(stack.events() for _ in range(24))):
            texts = [json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]]
            assert texts == [f"t{n}" for n in range(30)]
            assert events[-1] == "[DONE]"


async def test_body_without_length_is_cut_off_at_the_limit(stack: Stack) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1_000

    async with stack.client.post(f"{stack.url}/v1/chat/completions", data=endless()) as response:
        assert response.status == 413


async def test_max_tokens_beyond_the_context_is_refused_here(stack: Stack) -> None:
    status, body, _ = await stack.chat(max_tokens=1024)
    assert (status, body["error"]["param"]) == (400, "max_tokens")
    assert stack.small.seen == []


async def test_models_are_listed_with_the_routing_names(stack: Stack) -> None:
    async with stack.client.get(f"{stack.url}/v1/models") as response:
        ids = [m["id"] for m in (await response.json())["data"]]
    assert ids == ["auto", "auto-fast", "auto-plan", "big", "small", "minilm"]
    async with stack.client.get(f"{stack.url}/v1/models/auto") as response:
        assert (await response.json())["id"] == "auto"


async def test_embeddings_as_floats_and_as_base64(stack: Stack) -> None:
    body = {"model": "minilm", "input": ["one", "three words here"]}
    async with stack.client.post(f"{stack.url}/v1/embeddings", json=body) as response:
        answer = await response.json()
    assert [d["embedding"][0] for d in answer["data"]] == [3.0, 16.0]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    packed = {**body, "encoding_format": "base64"}
    async with stack.client.post(f"{stack.url}/v1/embeddings", json=packed) as response:
        data = base64.b64decode((await response.json())["data"][1]["embedding"])
    assert struct.unpack("<384f", data)[:2] == (16.0, 0.5)


async def test_ready_only_when_every_model_generates(stack: Stack) -> None:
    stack.small.behave = refusing(500)
    async with stack.client.get(f"{stack.url}/readyz") as response:
        assert response.status == 503
        assert "small" in (await response.json())["error"]["message"]
    stack.small.behave = None
    async with stack.client.get(f"{stack.url}/readyz") as response:
        assert response.status == 200
    asked = len(stack.small.seen)
    async with stack.client.get(f"{stack.url}/readyz") as response:
        assert response.status == 200
    assert len(stack.small.seen) == asked


async def test_keys_guard_everything_but_healthz() -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    async with serving(GatewaySection(api_key_sha256=(digest,))) as stack:
        for path in ("/v1/models", "/readyz", "/metrics", "/nowhere"):
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
                async with stack.client.get(stack.url + path, headers=header) as response:
                    assert response.status == 401
                    assert (await response.json())["error"]["code"] == "invalid_api_key"
        right = {"authorization": "Bearer right"}
        async with stack.client.get(f"{stack.url}/v1/models", headers=right) as response:
            assert response.status == 200
        async with stack.client.get(f"{stack.url}/healthz") as response:
            assert response.status == 200


async def test_further_routes_share_errors_and_unforeseen_ones_tell_nothing() -> None:
    def routes() -> APIRouter:
        made = APIRouter()

        async def conflict() -> None:
            raise Conflict("run", "it is done")

        async def broken() -> None:
            raise RuntimeError("/secret/path")

        made.add_api_route("/own/conflict", conflict)
        made.add_api_route("/own/broken", broken)
        return made

    async with serving(GatewaySection(), extra_routes=[routes]) as stack:
        async with stack.client.get(f"{stack.url}/own/conflict") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (409, "conflict")
        async with stack.client.get(f"{stack.url}/own/broken") as response:
            assert response.status == 500
            assert "secret" not in await response.text()


class HandClock:
    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def test_lease_that_is_not_renewed_drops_out() -> None:
    clock = HandClock()
    directory = Directory(clock, lease_s=8.0)
    directory.register(Replica("a", "small", "http://a"))
    directory.register(Replica("b", "small", "http://b"))
    clock.at += 5
    assert directory.renew(Replica("a", "small", "http://a", running=2, waiting=1))
    clock.at += 5
    assert [(r.id, r.load) for r in directory.snapshot()] == [("a", 3)]
    assert not directory.renew(Replica("b", "small", "http://b"))
    directory.withdraw("a")
    directory.withdraw("never there")
    assert directory.snapshot() == []
