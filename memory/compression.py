"""A session made short: what `summaries.py` accepts is remembered as a record with parents; what it
rejects leaves everything as it was.

It works over whatever lists and remembers, the memory itself or a handle to it, and so runs where
the model's client is: `agents/workflows/compression.py` does it durably, in the background. Trust
and labels of a summary are the memory's to say: the least and all of its parents'.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from cluster.errors import InvalidInput
from memory.asking import Complete
from memory.records import Record
from memory.summaries import EXTRACTIVE, POLICY, Outcome, Policy, summarise

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
    A parent that is forgotten meanwhile makes the memory refuse the summary. Done again, it changes
    nothing: what a summary holds is not summed up twice.
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
