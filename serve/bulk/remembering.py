"""Works on lines that are about memory: a file that is read in, or a share of the records that get
vectors by another embedder.

Both are memory's own work, which does nothing twice: a line only asks for it and waits.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final

from agents.owners import TIMEOUT_S
from cluster.errors import InvalidInput, MainspringError, NotFound
from cluster.objects import Entry
from serve.bulk.asking import NOT_YET, Told
from serve.bulk.kinds import INGESTION, SPACE
from serve.bulk.lines import Line
from serve.bulk.runs import HOLD_S
from serve.bulk.table import Batch
from serve.problems import problem_of
from serve.routes.runs import Office

READ_S: Final = 600.0
AT_ONCE: Final = 4
SHARES: Final = 100
_POLL_S: Final = 0.5


class Ingestion:
    """See `Worker`. `memory` is asked to read AT_ONCE files at a time."""

    def __init__(self, memory: Office) -> None:
        self._memory, self._places = memory, asyncio.Semaphore(AT_ONCE)

    async def post(self, batch: Batch, line: Line) -> Told:
        try:
            asked = json.loads(line.body)
            only = Entry(**asked["file"]) if asked.get("file") else None
            given = (batch.tenant, asked["place"], asked["kind"], False, None, only)
            async with self._places:
                report = await self._memory.ask("ingest", *given, timeout_s=READ_S)
        except (KeyError, TypeError):
            return refused(InvalidInput("body", line.body, "place, kind and a file"))
        except MainspringError as error:
            return refused(error)
        problems = "; ".join(report.problems)
        body = json.dumps({"object": "memory.ingestion", **asdict(report)}).encode()
        return Told(200, body=body, code="not_read" if problems else "", message=problems)

    async def withdraw(self, batch: Batch) -> None:
        """What is being read is read to its end; no more is begun."""


class Reembedding:
    """See `Worker`. A line is done when its `share` of the records has vectors in the space of its
    `embedder`; the first one asked begins the work, and a cancelled batch takes the space away."""

    def __init__(self, memory: Office, hold_s: float = HOLD_S) -> None:
        self._memory, self._hold_s = memory, hold_s
        self._looking = asyncio.Lock()
        self._seen: tuple[float, str, Any] = (float("-inf"), "", None)

    async def post(self, batch: Batch, line: Line) -> Told:
        asked = json.loads(line.body)
        until = asyncio.get_running_loop().time() + self._hold_s
        try:
            while True:
                state = await self._state(asked["embedder"])
                if state.vectors >= asked["share"] * state.records:
                    return Told(200, body=_shown(state))
                if state.refused:
                    why = f"{state.refused} texts were refused by its embedder"
                    return Told(200, body=_shown(state), code="not_embedded", message=why)
                if asyncio.get_running_loop().time() >= until:
                    return Told(NOT_YET)
                await asyncio.sleep(_POLL_S)
        except (KeyError, TypeError):
            return refused(InvalidInput("body", line.body, "embedder and a share from 0 to 1"))
        except MainspringError as error:
            return refused(error)

    async def withdraw(self, batch: Batch) -> None:
        """Take away the space that is not whole. One that has only run out of time stays, and goes
        on by itself."""
        if batch.status != "cancelling":
            return
        for state in await self._memory.ask("spaces"):
            if state.embedder == batch.model and state.state == "shadow":
                with contextlib.suppress(NotFound):
                    await self._memory.ask("drop_space", state.name)

    async def _state(self, embedder: str) -> Any:
        """How far the space is, asked for once for all lines that wait."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            at, name, state = self._seen
            if name != embedder or now - at >= _POLL_S:
                state = await self._memory.ask("prepare_space", embedder, timeout_s=4 * TIMEOUT_S)
                self._seen = (now, embedder, state)
            return state


def ingestion_lines(place: str, kind: str, entries: Iterable[Entry]) -> Iterator[bytes]:
    """PURE: a line for each file of a listing."""
    for entry in entries:
        body = {"place": place, "kind": kind, "file": asdict(entry)}
        yield line_of(entry.name, INGESTION, body)


def space_lines(embedder: str, shares: int = SHARES) -> Iterator[bytes]:
    """PURE: a line for each hundredth of the records, the last one for all of them."""
    for number in range(1, shares + 1):
        body = {"embedder": embedder, "share": number / shares}
        yield line_of(f"{100 * number // shares} %", SPACE, body)


def line_of(custom_id: str, url: str, body: dict[str, Any]) -> bytes:
    """PURE: a line of an input file."""
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _shown(state: Any) -> bytes:
    return json.dumps({"object": "memory.space", **asdict(state)}).encode()


def refused(error: MainspringError) -> Told:
    """What becomes of a line that is refused, as the gateway would tell it."""
    problem = problem_of(error)
    return Told(problem.status, body=json.dumps(problem.body()).encode())
