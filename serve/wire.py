"""HTTP to an engine replica, over connections that stay open."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from cluster.errors import DeadlineExceeded
from cluster.ids import Clock
from cluster.tracing import HEADER
from serve.calls import Call
from serve.problems import Refused, engine_problem

CONNECT_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 1024
HUNG_S: Final = 10.0
"""An engine silent for so long has failed, however short a client's patience is."""
_STREAM_ERROR: Final = b'data: {"error"'
# What an engine answers when it, and not the request, is the trouble: another may do better.
_TRY_ANOTHER: Final = frozenset({401, 403, 404, 408, 429})


class Failed(Exception):
    """This address gave no answer; the sentence goes to the log and not to the client."""


class Hung(DeadlineExceeded):
    """The deadline passed, and so much time with it that the engine is to blame."""


@dataclass
class Reply:
    """An accepted answer's `body`, or the `first` bytes of a stream; `close` ends it at both
    ends."""

    response: aiohttp.ClientResponse
    body: bytes = b""
    first: bytes = b""

    def close(self) -> None:
        self.response.close()

    async def rest(self, pause_s: Callable[[], float]) -> AsyncIterator[bytes]:
        """A stream's bytes behind the first ones: as they come, but what comes within `pause_s()`
        of the last ones together. The end of the stream ends a pause."""
        content, over = self.response.content, asyncio.Event()
        content.on_eof(over.set)
        async for data in content.iter_any():
            yield data
            if (seconds := pause_s()) > 0.0 and not over.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), seconds)


class Wire:
    """One a process."""

    def __init__(self, clock: Clock, decompress: bool = False) -> None:
        """Our own engines compress nothing; other servers may, and then it is undone here."""
        self._clock, self._decompress = clock, decompress
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, url: str, key: str, payload: bytes, call: Call, traceparent: str = ""
    ) -> Reply:
        """Send a call's payload, as it stands, to the server at `url`; the answer once it is clear
        that it is one. `traceparent` is what the server goes on with.

        Raises Failed when another server may do better, Refused when the request is at fault,
        DeadlineExceeded.
        """
        began = self._clock.monotonic()
        left = call.deadline - began
        if left <= 0:
            raise DeadlineExceeded("the request", call.seconds)
        try:
            response = await self._client().post(
                url + call.path,
                data=payload,
                headers={
                    "authorization": f"Bearer {key}",
                    "content-type": "application/json",
                    "x-request-id": call.request_id,
                    **({HEADER: traceparent} if traceparent else {}),
                },
                timeout=aiohttp.ClientTimeout(total=left, connect=CONNECT_TIMEOUT_S),
            )
            return await _accepted(response, call.stream)
        except aiohttp.ConnectionTimeoutError as error:
            raise Failed(f"no connection: {error}") from None
        except TimeoutError:
            hung = self._clock.monotonic() - began >= HUNG_S
            raise (Hung if hung else DeadlineExceeded)("the answer", call.seconds) from None
        except aiohttp.ClientError as error:
            raise Failed(repr(error)) from None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=self._decompress
            )
        return self._session


async def _accepted(response: aiohttp.ClientResponse, stream: bool) -> Reply:
    try:
        if response.status != 200:
            raise _refusal(response.status, await response.content.read(65_536))
        if not stream:
            return Reply(response, body=await response.read())
        first = await response.content.readany()
        if not first:
            raise Failed("an empty stream")
        if first.startswith(_STREAM_ERROR):
            event = first.removeprefix(b"data: ").split(b"\n", 1)[0]
            raise _refusal(_status_of(event), event)
        return Reply(response, first=first)
    except BaseException:
        response.close()
        raise


def _refusal(status: int, body: bytes) -> Exception:
    if status >= 500 or status in _TRY_ANOTHER:
        return Failed(f"status {status}: {body[:300]!r}")
    problem = engine_problem(status, body)
    return Refused(problem.status, problem.message, problem.code, problem.param)


def _status_of(event: bytes) -> int:
    """The status that an error inside a stream stands for; 500 when it does not say."""
    try:
        code = json.loads(event)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return 500
    return code if isinstance(code, int) and 400 <= code < 600 else 500
