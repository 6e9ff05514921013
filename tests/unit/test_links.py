"""Calls between actors over a socket of their own."""

import asyncio
import os
import pickle
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import RayActorError

from agents.links import Address, Link, LinkedThreads, Listener, performed
from cluster.errors import Conflict, Unavailable


class Called:
    """An actor whose methods are called."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.listener = Listener(lambda method, args: performed(self, method, args))

    async def add(self, one: int, other: int) -> int:
        return one + other

    async def echo(self, value: Any) -> Any:
        return value

    async def refuse(self) -> None:
        raise Conflict("door", "it is shut")

    async def wait(self) -> str:
        await self.gate.wait()
        return "opened"

    async def stopped(self) -> None:
        raise asyncio.CancelledError

    async def strange(self) -> Any:
        return lambda: None


class Handle:
    """As Ray's: where the actor listens, and its methods, which count as calls by Ray."""

    def __init__(self, called: Any, address: Any) -> None:
        self._called, self._address = called, address
        self.by_ray: list[str] = []

    def __getattr__(self, method: str) -> Any:
        return _Method(self, method)


class _Method:
    def __init__(self, handle: Handle, method: str) -> None:
        self._handle, self._method = handle, method

    async def remote(self, *args: Any) -> Any:
        if self._method == "listening":
            return await self._handle._address()
        self._handle.by_ray.append(self._method)
        return await getattr(self._handle._called, self._method)(*args)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Called, Handle, Link]]:
    called = Called()
    handle = Handle(called, called.listener.address)
    yield called, handle, Link(lambda: handle)
    called.listener.close()


Pair = tuple[Called, Handle, Link]


async def test_a_call_is_answered_over_the_socket_and_not_by_ray(pair: Pair) -> None:
    _, handle, link = pair
    assert await link.do("add", 1, 2) == 3
    assert handle.by_ray == []


async def test_many_calls_are_answered_each_to_who_asked_and_none_waits_for_a_slow_one(
    pair: Pair,
) -> None:
    called, _, link = pair
    slow = asyncio.ensure_future(link.do("wait"))
    sums = await asyncio.gather(*(link.do("add", i, i) for i in range(500)))
    assert sums == [2 * i for i in range(500)]
    assert not slow.done()
    called.gate.set()
    assert await slow == "opened"


async def test_errors_come_through_with_their_fields(pair: Pair) -> None:
    _, _, link = pair
    with pytest.raises(Conflict) as caught:
        await link.do("refuse")
    assert (caught.value.what, caught.value.reason) == ("door", "it is shut")
    with pytest.raises(Unavailable, match="stopped"):
        await link.do("stopped")
    with pytest.raises(RuntimeError, match="can't travel"):
        await link.do("strange")
    assert await link.do("add", 1, 1) == 2


@pytest.mark.parametrize("size", [0, 1, 65_536, 10_000_000])
async def test_a_message_may_be_of_any_size(pair: Pair, size: int) -> None:
    _, _, link = pair
    value = os.urandom(size)
    assert await link.do("echo", value) == value


async def test_who_waits_is_told_at_once_when_the_other_end_is_gone(pair: Pair) -> None:
    called, handle, link = pair
    waiting = asyncio.ensure_future(link.do("wait"))
    await link.do("add", 1, 1)
    called.listener.close()
    async with asyncio.timeout(2):
        with pytest.raises(RayActorError):
            await waiting
    # Restarted, it listens elsewhere.
    called.listener = Listener(lambda method, args: performed(called, method, args))
    handle._address = called.listener.address
    assert await link.do("add", 2, 2) == 4


async def test_an_address_at_which_nobody_listens_any_more_is_a_lost_actor(pair: Pair) -> None:
    called, _, _ = pair
    address = await called.listener.address()
    called.listener.close()

    async def stale() -> Address | None:
        return address

    gone = Handle(called, stale)
    with pytest.raises(RayActorError):
        await Link(lambda: gone).do("add", 1, 1)


async def test_another_machine_and_none_at_all_are_called_by_ray(pair: Pair) -> None:
    called, _, _ = pair
    for address in (Address("another machine", b"\0name"), None):

        async def told(address: Address | None = address) -> Address | None:
            return address

        handle = Handle(called, told)
        link = Link(lambda handle=handle: handle)  # type: ignore[misc]
        assert [await link.do("add", 1, n) for n in range(3)] == [1, 2, 3]
        assert handle.by_ray == ["add"] * 3


async def test_where_there_are_no_such_sockets_nobody_listens(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.links.sys.platform", "darwin")
    assert await pair[0].listener.address() is None


async def test_other_users_are_not_listened_to(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    called, _, _ = pair
    address = await called.listener.address()
    assert address is not None
    monkeypatch.setattr("agents.links.os.getuid", lambda: 12_345)

    def intrude() -> bytes:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(5)
            end.connect(address.name)
            try:
                data = pickle.dumps((1, "add", (1, 1)))
                end.sendall(len(data).to_bytes(4, "big") + data)
                return end.recv(100)
            except (BrokenPipeError, ConnectionResetError):
                return b""

    assert await asyncio.to_thread(intrude) == b""


class Blocking(LinkedThreads):
    def __init__(self) -> None:
        self.gate = threading.Event()

    def wait(self) -> str:
        assert self.gate.wait(5)
        return "opened"

    def open(self) -> str:
        self.gate.set()
        return threading.current_thread().name


async def test_an_actor_with_threads_is_called_in_its_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocking = Blocking()
    assert blocking.listening() is None
    monkeypatch.setattr("agents.links.ray.is_initialized", lambda: True)

    async def told() -> Address | None:
        return await asyncio.to_thread(blocking.listening)

    handle = Handle(blocking, told)
    link = Link(lambda: handle)
    waiting = asyncio.ensure_future(link.do("wait"))
    name = await link.do("open")
    assert await waiting == "opened"
    assert name != threading.main_thread().name
    assert handle.by_ray == []
