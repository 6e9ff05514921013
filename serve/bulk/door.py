"""The gateway as batches' workers go through it: with the stack's own key, for the tenant and the
key whose batch it is, which the budgets and the ledger go by."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from serve.bulk.asking import Told
from serve.bulk.kinds import EMBEDDINGS
from serve.bulk.lines import Line
from serve.bulk.table import Batch


class Door:
    """The gateway at `url`. A request ends after `timeout_s`; at most so many have connections."""

    def __init__(self, url: str, key: str, timeout_s: float, connections: int) -> None:
        self._url, self._key = url, key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, batch: Batch, method: str, path: str, body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Told:  # fmt: skip
        """The response. Status 503 when there is no connection, 504 after the deadline."""
        headers = {**self._own(batch), **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._http().request(
                method, self._url + path, data=data, headers=headers
            ) as response:
                content = await response.read()
                again = response.headers.get("retry-after", "0")
                again_s = float(again) if again.isdigit() else 0.0
                name = response.headers.get("x-request-id", headers.get("x-request-id", ""))
                return Told(response.status, name, content, again_s)
        except TimeoutError:
            return Told(504)
        except aiohttp.ClientError:
            return Told(503)

    async def hold(self, batch: Batch, path: str, most_s: float) -> None:
        """Read a stream until it ends, or for so long; what breaks it off ends it."""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(most_s):
                async with self._http().get(self._url + path, headers=self._own(batch)) as response:
                    async for _ in response.content.iter_any():
                        pass

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _own(self, batch: Batch) -> dict[str, str]:
        return {
            "authorization": f"Bearer {self._key}", "content-type": "application/json",
            "x-mainspring-tenant": batch.tenant, "x-mainspring-key": batch.account,
        }  # fmt: skip

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self._session


@dataclass(frozen=True)
class Prompts:
    """Works on requests to models."""

    door: Door

    async def post(self, batch: Batch, line: Line) -> Told:
        """See `Worker`."""
        body = json.loads(line.body)
        if batch.endpoint != EMBEDDINGS:  # they wait in no engine's queue
            body["mainspring"] = {**_options(body), "class": "batch"}
        headers = {
            "x-request-id": f"{batch.id}-{line.number}",
            "x-mainspring-run": batch.id,
            "x-mainspring-workflow": "batch",
        }
        return await self.door.ask(batch, "POST", batch.endpoint, body, headers)

    async def withdraw(self, batch: Batch) -> None:
        """A connection that closes ends the engine's work: there is nothing left to end."""


def _options(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("mainspring")
    return given if isinstance(given, dict) else {}
