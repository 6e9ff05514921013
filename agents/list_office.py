"""What an orchestrator tells of runs and receipts in lists; it is this and more."""

import asyncio
from typing import Final

from agents.listed import Listed, ListedReceipt, ListedRun, Page, ReceiptsAsked, RunsAsked
from agents.runs import Runs
from cluster.ids import Clock

_LOOK_S: Final = 0.15
"""For so long a list waits for what it is made of; the next one goes on from there."""


class ListOffice:
    """The part of an orchestrator that lists."""

    _runs: Runs
    _listed: Listed
    _clock: Clock

    async def list_runs(self, asked: RunsAsked) -> Page[ListedRun]:
        """See `agents.listed.Listed.runs`."""
        await self._look()
        return await asyncio.to_thread(self._listed.runs, asked)

    async def list_receipts(self, asked: ReceiptsAsked) -> Page[ListedReceipt]:
        """See `agents.listed.Listed.receipts`."""
        await self._look()
        return await asyncio.to_thread(self._listed.receipts, asked)

    async def _look(self) -> None:
        until = self._clock.monotonic() + _LOOK_S
        while await self._runs.commits.do(self._listed.look):
            if self._clock.monotonic() > until:
                return
