"""A line of a batch asked of whoever works on its kind, until it is answered, or there is no use in
asking, or it is worked on elsewhere and looked at again later."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.ids import Clock, jittered
from serve.bulk.judging import judged
from serve.bulk.lines import Answered, Line
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


NOT_YET: Final = 202


@dataclass(frozen=True)
class Told:
    """A response: its status, request id, body, and after how many seconds to ask again; of a 200
    that is not right the code and message of why; what it cost, see `Answered`."""

    status: int
    request_id: str = ""
    body: bytes = b""
    again_s: float = 0.0
    code: str = ""
    message: str = ""
    usd: float = 0.0


class Worker(Protocol):
    """What works on lines. Asked again for a line, it goes on with it and does nothing twice."""

    async def post(self, batch: Batch, line: Line) -> Told:
        """What becomes of a line. Status 503 when there is no connection, 504 after a deadline,
        NOT_YET while it is worked on and nothing is gained by waiting here."""

    async def withdraw(self, batch: Batch) -> None:
        """No answer to a line of the batch is wanted any more: end what has begun."""


async def ask(
    worker: Worker, batch: Batch, line: Line, clock: Clock, refused: Callable[[], None]
) -> Answered | None:
    """What becomes of a line; None when its batch expires first, or when that is not known yet.
    `refused` is called whenever an engine's queue is full."""
    failures, pause = 0, FIRST_PAUSE_S
    while True:
        told = await worker.post(batch, line)
        spent = _code(told.body) == SPENT
        if told.status == NOT_YET:
            return None
        if told.status in _BUSY and not spent:
            refused()
        elif (told.status in _FAILED or spent) and failures < MAX_FAILURES:
            failures += 1
        else:
            return judged(_answered(told), line.expect)
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
    text = json.dumps(body, ensure_ascii=False)
    return Answered(told.status, told.request_id, text, told.code, told.message, told.usd)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""
