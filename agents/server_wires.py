"""The wires to an MCP server, with limits that the SDK's own transports lack.

Both read at most so many bytes of an answer, and keep why they broke, so that an error can say it:
a 100 MB line, a page of HTML, a process that is gone.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx2
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
_LEAVE_S: Final = 1.0
_SHOWN: Final = 80
_KINDS: Final = ("application/json", "text/event-stream")


@dataclass
class Wire:
    """What is known of a connection; `broke` is the sentence that says why it can't go on."""

    broke: str = ""


@asynccontextmanager
async def stdio(
    command: Sequence[str], given: Mapping[str, str], max_bytes: int, wire: Wire
) -> AsyncIterator[TransportStreams]:
    """A process of its own for the time of the connection; nothing of it is left afterwards. It
    gets `given` and little else of our environment. OSError when it can't be started."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(given)
    process = await asyncio.create_subprocess_exec(
        *command, env=env, limit=max_bytes, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    heard, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, said = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hear, process, heard, max_bytes, wire)
            tasks.start_soon(_say, process, said)
            yield read, write
            tasks.cancel_scope.cancel()
    finally:
        for end in (heard, read, write, said):
            end.close()
        with anyio.CancelScope(shield=True):
            await _ended(process)


async def _hear(process: Any, heard: Any, max_bytes: int, wire: Wire) -> None:
    async with heard:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while not wire.broke:
                try:
                    line = await process.stdout.readline()
                except ValueError:
                    wire.broke = f"its answer is over {max_bytes} bytes"
                    return
                if not line:
                    wire.broke = "it ended before it had answered"
                    return
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    shown = line[:_SHOWN].decode("utf-8", "replace").strip()
                    wire.broke = f"it said what is no JSON-RPC: {shown!r}"
                    return
                await heard.send(SessionMessage(message))


async def _say(process: Any, said: Any) -> None:
    with suppress(OSError, anyio.ClosedResourceError):
        async with said:
            async for message in said:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()


async def _ended(process: Any) -> None:
    """Ask it to go by closing its input; then end it and what it started."""
    process.stdin.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _LEAVE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # What it left unread keeps the pipe open; nobody reads it.
    process._transport.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _LEAVE_S)


@asynccontextmanager
async def http(
    url: str, headers: Mapping[str, str], max_bytes: int, timeout_s: float, wire: Wire
) -> AsyncIterator[TransportStreams]:
    """Requests to a server's URL (streamable HTTP), none of them to another host."""
    transport = _Limited(max_bytes, wire)
    client = httpx2.AsyncClient(
        transport=transport, headers=dict(headers), timeout=timeout_s, follow_redirects=False,
        trust_env=False,
    )  # fmt: skip
    async with client, streamable_http_client(
        url, http_client=client, max_sse_event_size=max_bytes
    ) as streams:  # fmt: skip
        yield streams


class _Limited(httpx2.AsyncHTTPTransport):
    """Answers of the right kind, up to so many bytes."""

    def __init__(self, max_bytes: int, wire: Wire) -> None:
        super().__init__()
        self._max_bytes, self._wire = max_bytes, wire

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await super().handle_async_request(request)
        except httpx2.HTTPError as error:
            self._wire.broke = self._wire.broke or f"it can't be reached ({type(error).__name__})"
            raise
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        if request.method == "POST":
            if response.status_code in (401, 403):
                self._wire.broke = f"it answered {response.status_code}: look at its credentials"
            elif response.status_code >= 500 or (
                response.status_code == 200 and kind not in _KINDS
            ):
                self._wire.broke = f"it answered {response.status_code} {kind or 'nothing'}"
        stream: Any = _Counted(response.stream, self._max_bytes, self._wire)
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=stream,
            extensions=response.extensions,
        )  # fmt: skip


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, max_bytes: int, wire: Wire) -> None:
        self._stream, self._max_bytes, self._wire = stream, max_bytes, wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for chunk in self._stream:
            count += len(chunk)
            if count > self._max_bytes:
                self._wire.broke = f"its answer is over {self._max_bytes} bytes"
                raise httpx2.ReadError(self._wire.broke)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
