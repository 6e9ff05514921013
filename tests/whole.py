"""The whole gateway app over real databases, a real orchestrator and a real memory, served from a
loop and a thread of its own to tests that are not asynchronous; the engines are fakes that answer
what they are asked."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from agents.host import Workflow
from agents.workflows import desk as desks
from cluster.ids import SystemClock, SystemIds
from cluster.provenance import told
from cluster.settings import (
    AccountsSection,
    AgentsSection,
    BatchesSection,
    GatewaySection,
    MemorySection,
    load,
)
from serve.books import Books
from serve.routes.approvals import approval_routes
from serve.routes.batches import archive_routes
from serve.routes.memory import memory_routes
from serve.routes.settings import settings_routes
from serve.routes.tickets import ticket_routes
from tests.gateways import serving
from tests.memories import Desk, Shelf
from tests.unit.test_agent_api import WorldOffice
from tests.unit.test_memory_api import DeskOffice
from tests.world import World, connect


async def _embed(texts: list[str]) -> Any:
    return np.ones((len(texts), 384), np.float32)


ROUTER: Final = "router"
"""The folder of quality heads, within that of a world."""


class WorldDesk:
    """`serve.office.Named` over the world's help-desk."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, method: str, *args: Any, timeout_s: float = 15.0) -> Any:
        return getattr(self._world.connector, method)(*args)


@asynccontextmanager
async def gateway(
    folder: Path, patch: pytest.MonkeyPatch, work: Workflow, section: AgentsSection,
    keys: tuple[str, ...],
) -> AsyncIterator[tuple[str, World]]:  # fmt: skip
    """The address of the whole app, and the world behind it."""
    async with AsyncExitStack() as stack:
        own = {desks.DESK: partial(desks.work, desk=desks.Desk("support"))}
        world = World(folder, work, section, **own)
        connect(patch, world)
        stack.push_async_callback(world.stop)
        desk = Desk(folder, MemorySection(), Shelf())
        stack.push_async_callback(desk.memory.close)
        books = Books(AccountsSection(), folder, SystemClock(), SystemIds())
        stack.push_async_callback(books.close)
        office = WorldOffice(world)
        routes = [
            partial(memory_routes, DeskOffice(desk)),
            partial(settings_routes, told(load("local")), "default"),
            partial(archive_routes, BatchesSection(), folder),
            partial(approval_routes, office),
            partial(
                ticket_routes,
                WorldDesk(world),
                office,
                "default",
                "support",
                SystemClock(),
                SystemIds(),
            ),
        ]
        served = await stack.enter_async_context(serving(
            GatewaySection(request_timeout_s=5.0, api_key_sha256=keys), room=64, books=books,
            embed=_embed, office=office, extra_routes=routes, heads=folder / ROUTER,
            small={"usd_per_mtok_in": 0.1, "usd_per_mtok_out": 0.2},
        ))  # fmt: skip
        yield served.url, world


@contextmanager
def served(
    folder: Path, work: Workflow, section: AgentsSection | None = None, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, World]]:
    """`gateway` in a thread; `keys` are the SHA-256 of those that it demands."""
    told: list[tuple[str, World]] = []
    ready, over = threading.Event(), threading.Event()

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            given = (folder, patch, work, section or AgentsSection(), keys)
            async with gateway(*given) as at:
                told.append(at)
                ready.set()
                await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield told[0]
    finally:
        over.set()
        thread.join(30)
