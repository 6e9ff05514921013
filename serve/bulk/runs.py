"""Works on lines that are runs of a workflow: one run a line, begun once and followed to its end.

A line's run has a key of its own: whoever asks for the line again, after a kill or because a person
had not answered yet, finds the same run.
"""

import json
from typing import Any, Final

from cluster.telemetry import logger
from serve.bulk.asking import NOT_YET, Told
from serve.bulk.door import Door
from serve.bulk.kinds import RUNS
from serve.bulk.lines import Line
from serve.bulk.table import Batch

log = logger("bulk")

HOLD_S: Final = 10.0
"""So long a line waits for its run; then another one gets its place."""
NOT_DONE: Final = "not_done"
DECLINED: Final = frozenset({"failed", "denied", "held", "refused", "cancelled"})
KEY: Final = "key"
_ACCEPTED: Final = 202


class Runs:
    """See `Worker`. A line's body is that of `POST /v1/runs`, with its `key` if it has one."""

    def __init__(self, door: Door, hold_s: float = HOLD_S) -> None:
        self._door, self._hold_s = door, hold_s
        self._begun: dict[str, dict[int, str]] = {}

    async def post(self, batch: Batch, line: Line) -> Told:
        begun = self._begun.setdefault(batch.id, {})
        if line.number not in begun:
            told = await self._begin(batch, line)
            if told.status != _ACCEPTED:
                return told
            begun[line.number] = str(json.loads(told.body)["id"])
        told = await self._ended(batch, begun[line.number])
        if told.status != NOT_YET:
            del begun[line.number]
        return told

    async def withdraw(self, batch: Batch) -> None:
        """Cancel the runs that are open. Not those that a worker began which was killed since."""
        for run in self._begun.pop(batch.id, {}).values():
            asked = {"by": "batch", "reason": f"{batch.id} ended first"}
            told = await self._door.ask(batch, "POST", f"{RUNS}/{run}/cancel", asked)
            if told.status >= 400:
                log.warning("run %s of %s is not cancelled: %s", run, batch.id, told.status)

    async def _begin(self, batch: Batch, line: Line) -> Told:
        body = {"priority": "background", **json.loads(line.body)}
        key = body.pop(KEY, "") or f"{batch.id}-{line.number}"
        headers = {"idempotency-key": str(key), "x-request-id": f"{batch.id}-{line.number}"}
        return await self._door.ask(batch, "POST", RUNS, body, headers)

    async def _ended(self, batch: Batch, run: str) -> Told:
        """The run once it has ended, NOT_YET if that takes longer."""
        await self._door.hold(batch, f"{RUNS}/{run}/events", self._hold_s)
        told = await self._door.ask(batch, "GET", f"{RUNS}/{run}")
        if told.status != 200:
            return told
        found = json.loads(told.body)
        if found["status"] != "ended":
            return Told(NOT_YET, run)
        declined = found["decision"] in DECLINED
        return Told(
            200, run, told.body, code=NOT_DONE if declined else "",
            message=f"{found['decision']}: {found['reason']}" if declined else "", usd=_usd(found),
        )  # fmt: skip


def _usd(run: dict[str, Any]) -> float:
    """What its model calls cost."""
    usage = (run.get("result") or {}).get("usage") or ()
    return sum(float(call.get("cost_usd", 0.0)) for call in usage)
