"""Runs over a table: one run of a workflow for each row, at most so many at once.

A row's run has a key made of the table's and the row's own, so the same table again begins nothing
twice and a follower that was broken off takes up where it was.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.errors import MainspringError
from serve.bulk.tables import ID
from serve.client import Client
from serve.problems import Refused

AGAIN: Final = frozenset({429, 503})
_PAUSE_S: Final = 1.0
_MOST_PAUSE_S: Final = 15.0


@dataclass(frozen=True)
class Row:
    """A row of the table: its `custom_id`, or its number, and what its run is given."""

    id: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What became of a row: its run as the API tells it, or the `error` that refused it."""

    row: Row
    run: dict[str, Any] | None = None
    error: str = ""

    @property
    def usd(self) -> float:
        """What its model calls cost."""
        usage = ((self.run or {}).get("result") or {}).get("usage", [])
        return sum(float(u.get("cost_usd", 0.0)) for u in usage)

    @property
    def ended(self) -> bool:
        return bool(self.error) or (self.run or {}).get("status") == "ended"

    def line(self) -> bytes:
        """For a file of results."""
        run = self.run or {}
        told = {
            ID: self.row.id, "run": run.get("id"), "status": run.get("status"),
            "decision": run.get("decision"), "reason": run.get("reason"),
            "result": run.get("result"), "error": self.error or None,
        }  # fmt: skip
        return json.dumps(told, ensure_ascii=False, default=str).encode() + b"\n"


def rows_of(rows: Iterable[Mapping[str, Any]], given: Mapping[str, Any]) -> list[Row]:
    """PURE: each row's columns over what is `given` to all; an empty cell is left out."""
    return [
        Row(
            str(row.get(ID) or f"row-{number}"),
            {**given, **{k: _plain(v) for k, v in row.items() if k != ID and v not in (None, "")}},
        )
        for number, row in enumerate(rows, 1)
    ]


def _plain(value: Any) -> Any:
    """As JSON holds it: what Arrow takes for a date goes over the wire as it was written."""
    return json.loads(json.dumps(value, default=str))


def key_of(file: Path) -> str:
    """The key of a table: of its content, whatever it is called."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:24]


async def run_table(
    client: Client, workflow: str, rows: list[Row], key: str, at_once: int, timeout_s: float
) -> AsyncIterator[Told]:
    """What became of each row, as they end; those still open after `timeout_s` as they stand."""
    until = time.monotonic() + timeout_s
    places = asyncio.Semaphore(at_once)

    async def one(row: Row) -> Told:
        async with places:
            return await _row(client, workflow, row, key, until)

    working = [asyncio.ensure_future(one(row)) for row in rows]
    try:
        for done in asyncio.as_completed(working):
            yield await done
    finally:
        for task in working:
            task.cancel()


async def _row(client: Client, workflow: str, row: Row, key: str, until: float) -> Told:
    name = hashlib.sha256(f"{key}\0{workflow}\0{row.id}".encode()).hexdigest()[:40]

    def left() -> float:
        return until - time.monotonic()

    pause = _PAUSE_S
    while True:
        try:
            run = await client.begin(workflow, row.given, key=name)
            break
        except Refused as error:
            if error.http_status not in AGAIN or left() <= pause:
                return Told(row, error=str(error))
        except MainspringError as error:
            if left() <= pause:
                return Told(row, error=str(error))
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MOST_PAUSE_S)
    try:
        if left() > 0:
            async for _ in client.follow(run["id"], left()):
                pass
        return Told(row, await client.run(run["id"]))
    except MainspringError as error:
        return Told(row, run, str(error))
