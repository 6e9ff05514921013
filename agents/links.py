"""Calls between two actors of one machine, over a socket of their own.

A Ray call costs more than all the work of a durable step. Where both ends stand on one Linux
machine, calls go over a Unix socket in the abstract namespace: it leaves no file behind, the kernel
says which user is at the other end, and a process that dies is noticed at once. Elsewhere they go
as Ray calls, many in one (`batching.py`). Finding, starting and restarting actors is Ray's either
way.
"""

import asyncio
import os
import pickle
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from agents.batching import Batches, Threaded
from cluster.errors import Unavailable
from cluster.session import own

_HEAD: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")
_OPEN_S: Final = 10.0

Perform = Callable[[str, tuple[Any, ...]], Awaitable[Any]]
"""Does a method by its name and arguments."""


@dataclass(frozen=True)
class Address:
    """Where an actor listens: a socket's name, and within which machine and network namespace."""

    machine: str
    name: bytes


def _machine() -> str | None:
    """What two processes share that can reach each other's abstract sockets; None where there are
    no such sockets."""
    if not sys.platform.startswith("linux"):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"


class Listener:
    """The end that is called; lives in one event loop."""

    def __init__(self, perform: Perform) -> None:
        self._perform = perform
        self._socket: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self._wires: WeakSet[_Wire] = WeakSet()
        self._working: set[asyncio.Task[None]] = set()

    async def address(self) -> Address | None:
        """Where it listens, from the first call on; None on machines without such sockets."""
        machine = _machine()
        if machine is None:
            return None
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            # The kernel gives it a name of its own.
            self._socket.bind("")
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._wire, sock=self._socket
            )
        return Address(machine, self._socket.getsockname())

    def close(self) -> None:
        """Listen no more, and hang up on who is connected."""
        if self._server is not None:
            self._server.close()
        for wire in list(self._wires):
            wire.close()

    def _wire(self) -> "_Wire":
        wire = _Wire(self._called, lambda: None)
        self._wires.add(wire)
        return wire

    def _called(self, wire: "_Wire", call: tuple[int, str, tuple[Any, ...]]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(wire, *call))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _answer(self, wire: "_Wire", number: int, method: str, args: tuple[Any, ...]) -> None:
        value: Any = None
        error: Exception | None = None
        try:
            value = await self._perform(method, args)
        except asyncio.CancelledError:
            error = Unavailable(method, "it was stopped")
        except Exception as raised:
            # Whoever asked is told, whatever it was: it is their call that failed.
            error = own(raised)
        try:
            wire.send((number, value, error))
        except RayActorError:
            return  # nobody is there any more
        except (pickle.PicklingError, TypeError, AttributeError) as why:
            wire.send((number, None, RuntimeError(f"{method}: its answer can't travel: {why}")))


class Link:
    """The end that calls the actor that `target` gives."""

    def __init__(self, target: Callable[[], Any]) -> None:
        self._target = target
        self._by_ray = Batches(target)
        self._elsewhere = False
        self._line: _Line | None = None
        self._opening = asyncio.Lock()

    async def do(self, method: str, *args: Any) -> Any:
        """What `method` of the actor answers; raises what it raises, and RayActorError when the
        actor is lost."""
        line = self._line
        if line is None or line.lost:
            line = None if self._elsewhere else await self._opened()
        return await (self._by_ray.do(method, *args) if line is None else line.ask(method, args))

    async def _opened(self) -> "_Line | None":
        async with self._opening:
            if self._line is None or self._line.lost:
                address = await self._target().listening.remote()
                # An actor that is restarted on another machine has another address then.
                if address is None or address.machine != _machine():
                    self._elsewhere = True
                    return None
                self._line = await _Line.to(address)
            return self._line


class _Line:
    """An open connection: calls by number, each with who waits for its answer."""

    def __init__(self) -> None:
        self.lost = False
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._wire: _Wire

    @staticmethod
    async def to(address: Address) -> "_Line":
        """A connection to who listens there. RayActorError when nobody does any more."""
        line = _Line()
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        try:
            end.connect(address.name)
        except OSError:
            end.close()
            raise ActorUnavailableError("nobody listens there", None) from None
        _, line._wire = await asyncio.get_running_loop().create_unix_connection(
            lambda: _Wire(line._answered, line._cut), sock=end
        )
        return line

    async def ask(self, method: str, args: tuple[Any, ...]) -> Any:
        self._asked += 1
        number = self._asked
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._wire.send((number, method, args))
            return await waiting
        finally:
            self._waiting.pop(number, None)

    def _answered(self, _wire: "_Wire", answer: tuple[int, Any, BaseException | None]) -> None:
        number, value, error = answer
        waiting = self._waiting.get(number)
        if waiting is None or waiting.done():
            return
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(value)

    def _cut(self) -> None:
        self.lost = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ActorUnavailableError("its process is gone", None))


class _Wire(asyncio.Protocol):
    """Pickled messages over a stream, each behind its length in four bytes. Only processes of this
    user are listened to: a pickle can make its reader do anything."""

    def __init__(self, received: Callable[["_Wire", Any], None], cut: Callable[[], None]) -> None:
        self._received, self._cut = received, cut
        self._held = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if _user(transport) != os.getuid():
            transport.close()
            return
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._held += data
        at = 0
        while len(self._held) >= at + _HEAD.size:
            (size,) = _HEAD.unpack_from(self._held, at)
            end = at + _HEAD.size + size
            if len(self._held) < end:
                break
            message = pickle.loads(bytes(self._held[at + _HEAD.size : end]))
            at = end
            self._received(self, message)
        del self._held[:at]

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._cut()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def send(self, message: Any) -> None:
        """Send it. RayActorError when the connection is gone."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if self._transport is None:
            raise ActorUnavailableError("its process is gone", None)
        self._transport.write(_HEAD.pack(len(data)) + data)


def _user(transport: asyncio.BaseTransport) -> int:
    """Who runs the process at the other end."""
    peer = transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return int(user)


class LinkedThreads(Threaded):
    """An actor with threads that can be called over a link."""

    def listening(self) -> Address | None:
        """Where it listens; None outside of Ray, and on machines without such sockets."""
        if not ray.is_initialized():
            return None
        return asyncio.run_coroutine_threadsafe(self._listener.address(), self._loop).result(
            _OPEN_S
        )

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="listener", daemon=True).start()
        return loop

    @cached_property
    def _listener(self) -> Listener:
        async def perform(method: str, args: tuple[Any, ...]) -> Any:
            return await self._loop.run_in_executor(self._pool, getattr(self, method), *args)

        return Listener(perform)


async def performed(actor: Any, method: str, args: tuple[Any, ...]) -> Any:
    """What an actor's coroutine `method` gives."""
    return await getattr(actor, method)(*args)
