"""Sessions made short in the background: what `summaries.py` accepts is remembered as a record with
parents; what it rejects leaves everything as it was.

It works over whatever lists and remembers, the memory itself or a handle to it, and so runs where
the model's client is. Trust and labels of a summary are the memory's to say: the least and all of
its parents'.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.errors import InvalidInput, MainspringError
from memory.asking import Complete
from memory.records import Record
from memory.summaries import EXTRACTIVE, POLICY, Outcome, Policy, summarise

logger = logging.getLogger(__name__)

_PAGE: Final = 500
MAX_RECORDS: Final = 5_000
"""Of a session, summed up or not; a longer one is not compressed any further."""


class Sessions(Protocol):
    """What compression needs of a memory (`service.Memory`)."""

    async def listed(
        self, tenant: str, after: str = "", limit: int = 100, subject: str = "", session: str = "",
        kind: str = "", tier: str = "",
    ) -> list[Record]:  # fmt: skip
        """Living records by id behind `after`; "" leaves a field open."""

    async def remember(self, records: Sequence[Record]) -> int:
        """Keep the records; those with parents are as trusted as the least of them."""


async def compress(
    memory: Sessions,
    tenant: str,
    session: str,
    complete: Complete | None = None,
    *,
    name: str = EXTRACTIVE,
    policy: Policy = POLICY,
) -> Outcome:
    """Sum up a session's records when they are over the policy's budget, by `complete` (the model
    `name`) or, without one, in the speakers' own words, and remember the summary.

    Raises InvalidInput without a session, and what the memory raises; then nothing is remembered.
    A parent that is forgotten meanwhile makes the memory refuse the summary.
    """
    if not session:
        raise InvalidInput("session", session, "the name of a session")
    records = await _all(memory, tenant, session)
    outcome = await summarise(records, complete, name=name, policy=policy)
    if outcome.record is not None:
        await memory.remember([outcome.record])
    return outcome


async def _all(memory: Sessions, tenant: str, session: str) -> list[Record]:
    records: list[Record] = []
    after = ""
    while len(records) < MAX_RECORDS:
        page = await memory.listed(tenant, after, _PAGE, session=session, tier="session")
        if not page:
            break
        records += page
        after = page[-1].id
    return records


@dataclass(slots=True)
class Totals:
    """What the compressor has done since it began. `tokens_saved` counts each token of the
    originals once, also where a summary replaces an older one."""

    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    tokens_saved: int = 0


class Compressor:
    """Compresses sessions one after another, in the order in which they were last noticed.

    At most `most` sessions wait; beyond that the one that has waited longest is left out until it
    is noticed again.
    """

    def __init__(
        self,
        memory: Sessions,
        complete: Complete | None = None,
        name: str = EXTRACTIVE,
        policy: Policy = POLICY,
        most: int = 1_000,
    ) -> None:
        self._memory, self._complete, self._name, self._policy = memory, complete, name, policy
        self._most = most
        self._waiting: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._noticed = asyncio.Event()
        self._saved: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.totals = Totals()

    def notice(self, tenant: str, session: str) -> None:
        """Something was remembered in the session; cheap, call it for every message."""
        self._waiting[tenant, session] = None
        self._waiting.move_to_end((tenant, session))
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
        self._noticed.set()

    async def run(self) -> None:
        """Work until cancelled. An error of the memory is logged and counted; the session is tried
        again when it is next noticed."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            while self._waiting:
                (tenant, session), _ = self._waiting.popitem(last=False)
                await self._compress(tenant, session)

    async def _compress(self, tenant: str, session: str) -> None:
        try:
            outcome = await compress(
                self._memory, tenant, session, self._complete, name=self._name, policy=self._policy
            )
        except MainspringError as error:
            self.totals.failed += 1
            logger.warning("summary of session %s: %s", session, error)
            return
        self._count(tenant, session, outcome)

    def _count(self, tenant: str, session: str, outcome: Outcome) -> None:
        if outcome.accepted:
            saved = outcome.tokens_before - outcome.tokens_after
            self.totals.accepted += 1
            self.totals.tokens_saved += saved - self._saved.pop((tenant, session), 0)
            self._saved[tenant, session] = saved
            if len(self._saved) > self._most:
                self._saved.popitem(last=False)
        elif outcome.tokens_before:
            self.totals.rejected += 1
            logger.info("summary of session %s rejected: %s", session, "; ".join(outcome.reasons))
