"""How well a memory is kept: what is in it twice, out of date, without its parents, or not indexed.

Two figures must be 0 always: records returned that should not have been, and events that are not
as they were written.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from cluster.errors import DataError
from memory.log import Log
from memory.provenance import said

STALE_S: Final = 365 * 86_400.0
"""Age of an event from which an unpinned record counts as stale."""
_SHORT: Final = 3  # words; a text of fewer says little by itself
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Health:
    """A tenant's memory at a moment. `records` are the living ones, of which so many are
    `duplicates` (they say what another one says), `junk` (under three words) and `stale`; `expired`
    wait for the sweep; `orphans` name a parent that is gone, `drift` is how many rows the index has
    too many or too few, `waiting` how many are on their way to it (all tenants). `leaks` is how
    many hits were held back because they were not the asker's or had expired."""

    records: int
    by_tier: dict[str, int]
    by_kind: dict[str, int]
    duplicates: int
    junk: int
    stale: int
    expired: int
    orphans: int
    waiting: int
    drift: int
    leaks: int
    events: int
    chain: str
    trouble: str

    @property
    def good(self) -> bool:
        """Whether nothing is wrong that must never be."""
        return not self.leaks and not self.drift and self.chain == "whole" and not self.trouble


def examine(
    log: Log, tenant: str, now: float, indexed: int, waiting: int, trouble: str, leaks: int
) -> Health:
    """Count. Blocks; reads every record of the tenant and every event."""
    tiers: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    texts: Counter[str] = Counter()
    junk = stale = 0
    after = ""
    while page := log.page(tenant, now, after, _PAGE):
        for record in page:
            tiers[record.tier] += 1
            kinds[record.kind] += 1
            texts[said(record.text)] += 1
            junk += len(record.text.split()) < _SHORT
            stale += not record.pinned and now - record.event_at > STALE_S
        after = page[-1].id
    events, chain = _chain(log)
    return Health(
        records=tiers.total(),
        by_tier=dict(tiers),
        by_kind=dict(kinds),
        duplicates=texts.total() - len(texts),
        junk=junk,
        stale=stale,
        expired=log.overdue(tenant, now),
        orphans=log.orphans(tenant),
        waiting=waiting,
        drift=abs(log.count() - indexed) if not waiting else 0,
        leaks=leaks,
        events=events,
        chain=chain,
        trouble=trouble,
    )


def _chain(log: Log) -> tuple[int, str]:
    try:
        return log.verify(), "whole"
    except DataError as error:
        return log.end(), str(error)
