"""Requests for a model whose engine sleeps: they wait, are told so, and none is dropped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from cluster.settings import GatewaySection
from serve.directory import Demand, Directory, Online, Replica
from tests.fakes import FakeClock
from tests.gateways import HELLO, Stack, eventually, serving

pytestmark = pytest.mark.enable_socket

ASLEEP = {"replicas": {"min": 0, "max": 2}, "max_queued_requests": 2}


@asynccontextmanager
async def asleep() -> AsyncIterator[tuple[Stack, Replica]]:
    """A gateway whose model `small` has no replica, and the one that it may get."""
    async with serving(GatewaySection(), small=ASLEEP) as stack:
        small = stack.replicas.pop(0)
        yield stack, small


async def waiting(stack: Stack, count: int) -> None:
    await eventually(lambda: stack.waking.demands()["small"].waiting == count)


async def test_a_request_for_a_sleeping_model_is_served_when_it_has_started() -> None:
    async with asleep() as (stack, small):
        asked = asyncio.create_task(stack.chat())
        await waiting(stack, 1)
        stack.replicas.append(small)
        status, body, headers = await asked
        assert (status, body["model"]) == (200, "small")
        assert "starts" in headers["x-mainspring-route"]
        assert stack.waking.demands()["small"].waiting == 0


async def test_a_stream_is_told_in_comments_and_then_served() -> None:
    async with asleep() as (stack, small):
        asked = asyncio.create_task(stack.events())
        await waiting(stack, 1)
        stack.replicas.append(small)
        events = await asked
        assert events[0] == ": small starts, 0 s so far"
        assert ["t0" in event for event in events].count(True) == 1
        assert events[-1] == "[DONE]"
        await eventually(stack.idle)


async def test_the_official_client_passes_over_the_comments() -> None:
    async with asleep() as (stack, small):
        client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)
        body: dict[str, Any] = {**HELLO, "stream": True}
        async with client, await client.chat.completions.create(**body) as stream:
            stack.replicas.append(small)
            text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        assert text == "t0t1t2"


async def test_another_model_answers_where_the_client_allows_it() -> None:
    async with asleep() as (stack, _):
        status, body, headers = await stack.chat(mainspring={"fallback": True})
        assert (status, body["model"]) == (200, "big")
        assert headers["x-mainspring-route"] == "small, named by the client, starts"
        demands = stack.waking.demands()
        assert demands["small"].ago_s < demands["big"].ago_s + 5


async def test_auto_goes_to_who_is_awake_and_wakes_whom_it_wanted() -> None:
    async with asleep() as (stack, _):
        await asyncio.sleep(0.2)
        status, body, _ = await stack.chat(model="auto")
        assert (status, body["model"]) == (200, "big")
        assert stack.waking.demands()["small"].ago_s < 0.2


async def test_auto_waits_when_nobody_is_awake() -> None:
    async with asleep() as (stack, small):
        stack.replicas.clear()
        asked = asyncio.create_task(stack.chat(model="auto"))
        await waiting(stack, 1)
        stack.replicas.append(small)
        assert (await asked)[0] == 200


async def test_more_than_the_queue_holds_are_refused_and_the_others_served() -> None:
    async with asleep() as (stack, small):
        asked = [asyncio.create_task(stack.chat()) for _ in range(2)]
        await waiting(stack, 2)
        status, body, headers = await stack.chat()
        assert (status, body["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        stack.replicas.append(small)
        assert [(await one)[0] for one in asked] == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_ends_with_the_deadline(stream: bool) -> None:
    async with asleep() as (stack, _):
        hurried = {"mainspring": {"deadline_ms": 300}}
        if stream:
            events = await stack.events(**hurried)
            assert '"error"' in events[-1]
            assert "[DONE]" not in events
        else:
            status, body, _ = await stack.chat(**hurried)
            assert (status, "the start of model small" in body["error"]["message"]) == (408, True)
        await waiting(stack, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    async with asleep() as (stack, _):
        asked = asyncio.create_task(stack.events() if stream else stack.chat())
        await waiting(stack, 1)
        asked.cancel()
        await waiting(stack, 0)


async def test_a_sleeping_model_is_ready_and_a_probe_keeps_none_awake() -> None:
    async with asleep() as (stack, small):
        stack.replicas.append(small)
        await asyncio.sleep(0.2)
        async with stack.client.get(f"{stack.url}/readyz") as response:
            assert response.status == 200
        assert len(stack.small.seen) == 1
        assert stack.waking.demands()["small"].ago_s >= 0.2
        stack.replicas.remove(small)
        async with stack.client.get(f"{stack.url}/readyz") as response:
            assert response.status == 200


async def test_an_engine_that_died_is_not_waited_for() -> None:
    async with serving(GatewaySection()) as stack:
        stack.replicas.pop(0)
        status, body, _ = await stack.chat()
        assert (status, body["error"]["code"]) == (503, "unavailable")


def test_demands_of_gateways_are_added_and_those_of_a_dead_one_forgotten() -> None:
    clock = FakeClock()
    directory = Directory(clock, lease_s=8.0)
    directory.report("g1", Online(), {"small": Demand(2, 5.0, 0.1)})
    clock.step(5)
    directory.report("g2", Online(), {"small": Demand(1, 9.0, 0.3), "big": Demand()})
    assert directory.demands() == {"small": Demand(3, 5.0, 0.3), "big": Demand()}
    clock.step(5)
    assert directory.demands()["small"] == Demand(1, 9.0, 0.3)
