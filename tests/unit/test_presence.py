"""A replica that leaves is not noticed: it does not come back, and what it works on is finished."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.ids import SystemClock
from cluster.settings import ModelSection
from serve import presence as module
from serve.calls import Call
from serve.catalog import Catalog
from serve.directory import Directory, Replica
from serve.metering import Meter
from serve.presence import Presence, State
from serve.router import Router
from serve.routing import Route

pytestmark = pytest.mark.enable_socket

SECRET = "secret"
MODEL = ModelSection(
    id="routine", source="x", tier="routine", usd_per_mtok_in=0.1, usd_per_mtok_out=0.2
)


class Remote:
    """An object whose methods are called as an actor's are."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)

        class Method:
            @staticmethod
            async def remote(*args: Any) -> Any:
                return method(*args)

        return Method


class Engine:
    """Answers with its name, after `gate` has been opened."""

    def __init__(self, name: str, directory: Directory, drain_s: float = 20.0) -> None:
        self.name, self.gate, self.asked = name, asyncio.Event(), 0
        self.gate.set()
        self.presence = Presence(self._answer, SECRET, lambda: Remote(directory), drain_s)

    async def start(self) -> "Engine":
        url = await self.presence.open("127.0.0.1")
        await self.presence.announce(
            Replica(self.name, MODEL.id, url, application=self.name), State
        )
        return self

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.asked += 1
        await self.gate.wait()
        await asyncio.sleep(0.005)
        body = json.dumps({"name": self.name}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.02)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "NOTICED_S", 0.2)


@pytest.fixture
def directory() -> Directory:
    return Directory(SystemClock())


@pytest.fixture
async def router(directory: Directory) -> AsyncIterator[Router]:
    catalog = Catalog((MODEL,))
    router = Router(catalog, directory.snapshot, Meter(catalog), SystemClock(), SECRET)
    yield router
    await router.close()


async def ask(router: Router) -> str:
    now = SystemClock().monotonic()
    route = Route((MODEL.id,), "test", 0.0)
    answer = await router.send(route, Call({}, "r", now, now + 30.0))
    answer.release(200)
    return str(json.loads(answer.body)["name"])


async def test_of_two_replicas_one_leaves_under_load_and_no_request_fails(
    directory: Directory, router: Router
) -> None:
    old = await Engine("old", directory).start()
    answers: list[str] = []
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            answers.append(await ask(router))

    clients = [asyncio.ensure_future(client()) for _ in range(4)]
    await asyncio.sleep(0.2)
    new = await Engine("new", directory).start()
    await asyncio.sleep(0.2)
    await old.presence.leave()
    asked = old.asked
    await asyncio.sleep(0.2)
    over.set()
    await asyncio.gather(*clients)  # raises what any request raised
    assert answers[0] == "old" and answers[-1] == "new" and len(answers) > 40
    assert old.asked == asked
    await new.presence.leave()


async def test_a_gateway_that_has_not_noticed_is_sent_on_to_another_replica(
    directory: Directory,
) -> None:
    old, new = await Engine("old", directory).start(), await Engine("new", directory).start()
    stale = directory.snapshot()
    await old.presence.leave()
    catalog = Catalog((MODEL,))
    router = Router(catalog, lambda: stale, Meter(catalog), SystemClock(), SECRET)
    assert {await ask(router) for _ in range(8)} == {"new"}
    await router.close()
    await new.presence.leave()


async def test_what_is_in_work_is_finished_before_the_replica_ends(
    directory: Directory, router: Router
) -> None:
    engine = await Engine("old", directory).start()
    engine.gate.clear()
    asked = asyncio.ensure_future(ask(router))
    while not engine.asked:
        await asyncio.sleep(0.01)
    leaving = asyncio.ensure_future(engine.presence.leave())
    await asyncio.sleep(0.5)
    assert not leaving.done() and not asked.done()
    engine.gate.set()
    assert await asked == "old"
    await asyncio.wait_for(leaving, 5)


async def test_a_request_that_does_not_end_holds_the_replica_no_longer_than_the_drain(
    directory: Directory, router: Router
) -> None:
    engine = await Engine("old", directory, drain_s=1.0).start()
    engine.gate.clear()
    asked = asyncio.ensure_future(ask(router))
    while not engine.asked:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(engine.presence.leave(), 10)
    with pytest.raises(Exception, match="no engine answers"):
        await asked


async def test_a_replica_registers_again_after_the_directory_forgot_it_but_not_once_it_leaves(
    directory: Directory,
) -> None:
    engine = await Engine("old", directory).start()
    directory.withdraw("old")
    while not directory.snapshot():
        await asyncio.sleep(0.01)
    leaving = asyncio.ensure_future(engine.presence.leave())
    while directory.snapshot():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not directory.snapshot() and not leaving.done()
    await leaving
    await asyncio.sleep(0.1)
    assert not directory.snapshot()


async def test_a_replica_leaves_though_the_directory_is_gone(directory: Directory) -> None:
    engine = await Engine("old", directory).start()

    def gone() -> Any:
        raise ValueError("no actor of that name")

    (announced,) = directory.snapshot()
    engine.presence._directory = gone
    await asyncio.wait_for(engine.presence.leave(), 5)
    assert await refused(announced.url)


async def test_a_replica_that_was_never_announced_closes_its_port(directory: Directory) -> None:
    presence = Presence(Engine("x", directory)._answer, SECRET, lambda: Remote(directory), 1.0)
    url = await presence.open("127.0.0.1")
    await asyncio.wait_for(presence.leave(), 5)
    assert await refused(url)


async def refused(url: str) -> bool:
    """Whether nothing listens at `url`."""
    host, port = url.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
