"""How well a memory is kept: what is in it twice, out of date, without its parents, or not indexed;
how fresh it is; how well it answers its frozen probes.

These must be 0 always: records of another tenant or expired ones that were about to be returned,
rows that the index has too many or too few, events that are not as they were written.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from cluster.errors import DataError
from memory.log import Log
from memory.provenance import said

STALE_S: Final = 365 * 86_400.0
"""Age of an event from which an unpinned record counts as stale."""
_SHORT: Final = 3  # words; a text of fewer says little by itself
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Standing:
    """What the running memory knows of itself, all tenants together: rows of the serving index and
    how many wait for it, the oldest for lag_s seconds; the space that serves; questions answered by
    this process and the share that got nothing; hits held back at the last door."""

    indexed: int
    waiting: int
    lag_s: float
    space: str
    trouble: str
    recalls: int
    empty_rate: float
    leaked_tenant: int
    leaked_expired: int


@dataclass(frozen=True, slots=True)
class Health:
    """A tenant's memory at a moment. `records` are the living ones, of which so many are
    `duplicates` (they say what another one says), `junk` (under three words) and `stale`; `expired`
    wait for the sweep; `orphans` name a parent that is gone. `newest_s` is how long ago the newest
    one was remembered, None when there is none. `drift` is how many rows the index has too many or
    too few, `waiting` how many are on their way to it, the oldest for `lag_s` seconds (all
    tenants). `leaked_tenant` and `leaked_expired` are hits that were held back because they were
    not the asker's or had expired. `measured` is what the frozen probes said last."""

    records: int
    by_tier: dict[str, int]
    by_kind: dict[str, int]
    duplicates: int
    junk: int
    stale: int
    expired: int
    orphans: int
    newest_s: float | None
    waiting: int
    lag_s: float
    drift: int
    space: str
    recalls: int
    empty_rate: float
    leaked_tenant: int
    leaked_expired: int
    events: int
    chain: str
    trouble: str
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong that must never be."""
        leaks = self.leaked_tenant + self.leaked_expired
        return not (leaks or self.drift or self.trouble) and self.chain == "whole"


@dataclass(slots=True)
class _Counts:
    tiers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    junk: int = 0
    stale: int = 0
    newest: float | None = None


def examine(
    log: Log, tenant: str, now: float, standing: Standing, measured: dict[str, Any]
) -> Health:
    """Count. Blocks; reads every record of the tenant and every event."""
    counts = _counted(log, tenant, now)
    events, chain = _chain(log)
    drift = abs(log.count() - standing.indexed) if not standing.waiting else 0
    return Health(
        records=counts.tiers.total(),
        by_tier=dict(counts.tiers),
        by_kind=dict(counts.kinds),
        duplicates=counts.texts.total() - len(counts.texts),
        junk=counts.junk,
        stale=counts.stale,
        expired=log.overdue(tenant, now),
        orphans=log.orphans(tenant),
        newest_s=None if counts.newest is None else round(max(now - counts.newest, 0.0), 3),
        waiting=standing.waiting,
        lag_s=round(standing.lag_s, 3),
        drift=drift,
        space=standing.space,
        recalls=standing.recalls,
        empty_rate=standing.empty_rate,
        leaked_tenant=standing.leaked_tenant,
        leaked_expired=standing.leaked_expired,
        events=events,
        chain=chain,
        trouble=standing.trouble,
        measured=measured,
    )


def _counted(log: Log, tenant: str, now: float) -> _Counts:
    counts = _Counts()
    after = ""
    while page := log.page(tenant, now, after, _PAGE):
        for record in page:
            counts.tiers[record.tier] += 1
            counts.kinds[record.kind] += 1
            counts.texts[said(record.text)] += 1
            counts.junk += len(record.text.split()) < _SHORT
            counts.stale += not record.pinned and now - record.event_at > STALE_S
            counts.newest = max(counts.newest or record.recorded_at, record.recorded_at)
        after = page[-1].id
    return counts


def _chain(log: Log) -> tuple[int, str]:
    try:
        return log.verify(), "whole"
    except DataError as error:
        return log.end(), str(error)
