"""One trace for each request and each run, in every part that works for it; nothing when off."""

import logging
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from agents.chat import HttpChat
from agents.turn import Turn
from cluster import telemetry, tracing
from cluster.settings import GatewaySection
from tests.collector import Collector, collecting
from tests.gateways import HELLO, Stack, refusing, serving
from tests.world import Worlds

pytestmark = pytest.mark.enable_socket

TRACE, ABOVE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{ABOVE}-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting(monkeypatch) as collector:
        yield collector


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with serving(GatewaySection()) as stack:
        yield stack


async def _ask(stack: Stack, parent: str, **fields: object) -> int:
    async with stack.client.post(
        f"{stack.url}/v1/chat/completions", json={**HELLO, **fields},
        headers={"traceparent": parent, "x-request-id": "req_7"},
    ) as response:  # fmt: skip
        await response.read()
        return response.status


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_trace_from_its_client_to_the_engine(
    collector: Collector, stack: Stack, stream: bool
) -> None:
    assert await _ask(stack, PARENT, stream=stream) == 200
    spans = collector.spans()
    door, route, engine = (spans[n] for n in ("POST /v1/chat", "route", "chat small"))
    assert {s.trace for s in spans.values()} == {TRACE}
    assert (door.parent, route.parent, engine.parent) == (ABOVE, door.id, route.id)
    assert stack.small.headers[0]["traceparent"] == f"00-{TRACE}-{engine.id}-01"
    assert door.attributes["http.response.status_code"] == 200
    assert engine.attributes["gen_ai.usage.input_tokens"] == 1000
    assert engine.attributes["gen_ai.operation.name"] == "chat"
    assert {s.attributes.get("mainspring.request_id") for s in (door, engine)} == {"req_7"}
    assert collector.services == {"mainspring"}


async def test_a_failing_engine_and_the_next_one_are_both_in_the_trace(
    collector: Collector, stack: Stack
) -> None:
    stack.small.behave = refusing(500)
    assert await _ask(stack, PARENT, model="auto") == 200
    spans = collector.spans()
    assert spans["chat small"].failed and not spans["chat big"].failed
    assert spans["route"].attributes["mainspring.fallbacks"] == 1


@pytest.mark.parametrize("parent", ["", "00-zz-00-01", f"00-{'0' * 32}-{ABOVE}-01"])
async def test_a_broken_traceparent_begins_a_trace(
    collector: Collector, stack: Stack, parent: str
) -> None:
    assert await _ask(stack, parent) == 200
    door = collector.spans()["POST /v1/chat"]
    assert door.parent == "" and door.trace not in {TRACE, "0" * 32}


async def test_who_says_not_sampled_is_not_traced(collector: Collector, stack: Stack) -> None:
    assert await _ask(stack, PARENT[:-2] + "00") == 200
    assert collector.spans() == {}


async def test_no_text_goes_into_a_span(collector: Collector, stack: Stack) -> None:
    await _ask(stack, PARENT, messages=[{"role": "user", "content": "my secret"}])
    assert "secret" not in str(collector.spans())


async def test_a_run_is_one_trace_over_host_orchestrator_connector_and_gateway(
    collector: Collector, stack: Stack, worlds: Worlds
) -> None:
    chat = HttpChat(f"{stack.url}/v1")

    async def work(turn: Turn) -> None:
        await chat.complete(
            "small", [{"role": "user", "content": "Hello"}], max_tokens=5, timeout_s=10.0,
            request_id="req_8",
        )  # fmt: skip
        await turn.act("look", "read_ticket", {})
        await turn.end("done", "", {})

    world = worlds.make(work)
    run = await world.submit("k", "T-001")
    await world.ended(run)
    await chat.close()
    spans = collector.spans()
    wanted = {
        "invoke_agent support", "execute_tool read_ticket", "connector read_ticket",
        "POST /v1/chat", "route", "chat small",
    }  # fmt: skip
    assert wanted <= set(spans)
    assert {spans[name].trace for name in wanted} == {tracing.of_run(run)[3:35]}
    assert spans["connector read_ticket"].parent == spans["execute_tool read_ticket"].id
    assert spans["POST /v1/chat"].parent == spans["invoke_agent support"].id
    told = spans["execute_tool read_ticket"].attributes
    names = ("workflow", "tenant", "step", "decision", "rule", "outcome")
    assert [told[f"mainspring.{name}"] for name in names] == [
        "support", "default", "look", "allow", "read-own-desk", "done",
    ]  # fmt: skip


async def test_a_line_of_the_log_has_its_trace(collector: Collector) -> None:
    log = telemetry.logger("test")
    record = log.makeRecord(log.name, logging.INFO, "f", 1, "hello", (), None)
    with tracing.span("work", parent=PARENT):
        (named,) = (f for h in logging.getLogger("mainspring").handlers for f in h.filters)
        assert isinstance(named, logging.Filter) and named.filter(record)
    assert record.__dict__["trace_id"] == TRACE


async def test_off_nothing_is_loaded_made_or_sent(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # to import it would raise
    assert await _ask(stack, PARENT) == 200
    assert "traceparent" not in stack.small.headers[0]
    assert (tracing.traceparent(), tracing.trace_id()) == ("", "-")
