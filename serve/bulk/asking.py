"""A line of a batch asked of the gateway, until it is answered or there is no use in asking."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp

from cluster.ids import Clock, jittered
from serve.bulk.lines import EMBEDDINGS, Answered, Line
from serve.bulk.table import Batch

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 15.0
MAX_FAILURES: Final = 5
"""How often an engine may fail over one line: a line that breaks engines must not go on for ever.
One that is only too busy, or away, is asked again until the batch expires."""
_BUSY: Final = frozenset({429, 503})
_FAILED: Final = frozenset({408, 500, 502, 504})
# A 429 that waiting does not help: somebody has to raise a budget.
SPENT: Final = "budget_exceeded"


@dataclass(frozen=True)
class Told:
    """A response: its status, request id, body, and after how many seconds to ask again."""

    status: int
    request_id: str = ""
    body: bytes = b""
    again_s: float = 0.0


class Gateway(Protocol):
    """The door that everybody goes through."""

    async def post(self, batch: Batch, line: Line) -> Told:
        """The answer to a line. Status 503 when there is no connection, 504 after the deadline."""


class HttpGateway:
    """The gateway at `url`, with the stack's own key: requests name the tenant and the key whose
    they are, which the budgets and the ledger go by."""

    def __init__(self, url: str, key: str, timeout_s: float, connections: int) -> None:
        self._url, self._key = url, key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def post(self, batch: Batch, line: Line) -> Told:
        body = json.loads(line.body)
        if batch.endpoint != EMBEDDINGS:  # they wait in no engine's queue
            body["mainspring"] = {**_options(body), "class": "batch"}
        headers = {
            "authorization": f"Bearer {self._key}",
            "content-type": "application/json",
            "x-request-id": f"{batch.id}-{line.number}",
            "x-mainspring-tenant": batch.tenant,
            "x-mainspring-key": batch.account,
            "x-mainspring-run": batch.id,
            "x-mainspring-workflow": "batch",
        }
        try:
            async with self._http().post(
                self._url + batch.endpoint, data=json.dumps(body).encode(), headers=headers
            ) as response:
                content = await response.read()
                again = response.headers.get("retry-after", "0")
                again_s = float(again) if again.isdigit() else 0.0
                name = response.headers.get("x-request-id", headers["x-request-id"])
                return Told(response.status, name, content, again_s)
        except TimeoutError:
            return Told(504)
        except aiohttp.ClientError:
            return Told(503)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self._session


async def ask(
    gateway: Gateway, batch: Batch, line: Line, clock: Clock, refused: Callable[[], None]
) -> Answered | None:
    """What becomes of a line; None when its batch expires first. `refused` is called whenever an
    engine's queue is full."""
    failures, pause = 0, FIRST_PAUSE_S
    while True:
        told = await gateway.post(batch, line)
        spent = _code(told.body) == SPENT
        if told.status in _BUSY and not spent:
            refused()
        elif (told.status in _FAILED or spent) and failures < MAX_FAILURES:
            failures += 1
        else:
            return _answered(told)
        wait = max(told.again_s, jittered(pause))
        if clock.now() + wait >= batch.expires_at:
            return None
        await asyncio.sleep(wait)
        pause = min(pause * 2, MAX_PAUSE_S)


def _answered(told: Told) -> Answered:
    try:
        body = json.loads(told.body)
    except ValueError:
        status = told.status if told.status >= 400 else 502
        message = f"the gateway answered {told.status} without JSON"
        return Answered(status, told.request_id, "null", "no_answer", message)
    return Answered(told.status, told.request_id, json.dumps(body, ensure_ascii=False))


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _options(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("mainspring")
    return given if isinstance(given, dict) else {}
