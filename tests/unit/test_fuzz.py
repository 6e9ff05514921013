"""Every endpoint, fuzzed from its own description: whatever is sent, nothing is a 5xx.

The gateway is the real app over real databases, a real orchestrator and a real memory; the engines
answer what they are asked.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from cluster.ids import SystemClock, SystemIds
from cluster.settings import (
    AccountsSection,
    AgentsSection,
    BatchesSection,
    GatewaySection,
    MemorySection,
)
from serve.books import Books
from serve.routes.batches import archive_routes
from serve.routes.memory import memory_routes
from tests.gateways import serving
from tests.memories import Desk, Shelf
from tests.unit.test_agent_api import WorldOffice, listening
from tests.unit.test_memory_api import DeskOffice
from tests.world import World, connect

pytestmark = [pytest.mark.enable_socket, pytest.mark.timeout(240)]
EXAMPLES: Final = 6
WAIT_S: Final = 20.0
# They wait for what never comes when nobody answers: tried in their own tests.
LONG: Final = {"/v1/runs/{run}/events"}


async def _embed(texts: list[str]) -> Any:
    return np.ones((len(texts), 384), np.float32)


@asynccontextmanager
async def gateway(folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The address of the whole app."""
    async with AsyncExitStack() as stack:
        world = World(folder, listening, AgentsSection())
        connect(patch, world)
        stack.push_async_callback(world.stop)
        desk = Desk(folder, MemorySection(), Shelf())
        stack.push_async_callback(desk.memory.close)
        books = Books(AccountsSection(), folder, SystemClock(), SystemIds())
        stack.push_async_callback(books.close)
        routes = [
            partial(memory_routes, DeskOffice(desk)),
            partial(archive_routes, BatchesSection(), folder),
        ]
        served = await stack.enter_async_context(serving(
            GatewaySection(request_timeout_s=5.0), room=64, books=books, embed=_embed,
            office=WorldOffice(world), extra_routes=routes,
        ))  # fmt: skip
        yield served.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app in a loop and a thread of its own: what fuzzes is not asynchronous."""
    told: list[str] = []
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            async with gateway(tmp_path_factory.mktemp("fuzz"), patch) as at:
                told.append(at)
                ready.set()
                await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(60)
    yield told[0]
    over.set()
    thread.join(30)


def known(case: Any, number: int) -> None:
    """Name what there is in two cases of three, so that more than its absence is found."""
    if number % 3 == 0:
        return
    body = case.body
    if isinstance(body, dict) and "model" in body:
        body["model"] = "minilm" if "embeddings" in case.path else "small"
    if isinstance(body, dict) and "workflow" in body:
        body["workflow"] = "conversation"
    for name in case.path_parameters or {}:
        case.path_parameters[name] = {"agent": "ann", "name": "small"}.get(name, "unknown")


def test_no_endpoint_answers_with_a_5xx(url: str) -> None:
    httpx.post(f"{url}/v1/agents", json={"id": "ann"}).raise_for_status()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found: list[Any] = []
    seen: Counter[int] = Counter()
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) > 40
    for operation in operations:
        if operation.path in LONG:
            continue

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def fuzz(case: Any) -> None:
            known(case, seen.total())
            answer = case.call(base_url=url, timeout=WAIT_S)
            seen[answer.status_code] += 1
            if answer.status_code >= 500:
                found.append((case.method, case.path, case.body, case.query, answer.text[:300]))

        fuzz()
    assert found == []
    # What is sent gets through as well as being refused.
    assert seen[200] > 20 and seen[400] > 20
