"""PURE: which records a search may see at all.

A Filter holds typed values only. `admits` is what it means; a store's own filter expression must
mean the same, and whatever a store found is asked again before anyone sees it.
"""

from dataclasses import dataclass
from typing import Final, Self

from memory.records import TRUSTS, Query, Record, Tier, Trust

NEVER_MS: Final = 1 << 62
"""Milliseconds that stand for "never" where a column can't be empty."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One tenant's records, narrowed as `records.Query` says. Times in seconds.

    now decides what is expired: expires_at must lie after it. as_of is the moment whose knowledge
    is asked for: recorded_at at or before it, superseded_at after it; None is today's knowledge,
    which is all that is not superseded.
    """

    tenant: str
    now: float
    as_of: float | None = None
    kinds: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = ()
    subject: str = ""
    agent: str = ""
    session: str = ""
    trust: Trust = "untrusted"
    since: float | None = None
    until: float | None = None

    @classmethod
    def of(cls, query: Query, now: float) -> Self:
        """What the query asks for, at the moment `now`."""
        return cls(
            tenant=query.tenant,
            now=now,
            as_of=query.as_of,
            kinds=query.kinds,
            tiers=query.tiers,
            subject=query.subject,
            agent=query.agent,
            session=query.session,
            trust=query.trust,
            since=query.since,
            until=query.until,
        )

    @property
    def trusts(self) -> tuple[Trust, ...]:
        """The levels of trust that are enough."""
        return TRUSTS[TRUSTS.index(self.trust) :]

    def admits(self, record: Record) -> bool:
        """Whether the record may be found."""
        return record.tenant == self.tenant and self._in_time(record) and self._in_scope(record)

    def _in_time(self, record: Record) -> bool:
        return (
            (record.expires_at is None or record.expires_at > self.now)
            and self._known(record)
            and (self.since is None or record.event_at >= self.since)
            and (self.until is None or record.event_at <= self.until)
        )

    def _known(self, record: Record) -> bool:
        if self.as_of is None:
            return record.superseded_at is None
        superseded = record.superseded_at is not None and record.superseded_at <= self.as_of
        return record.recorded_at <= self.as_of and not superseded

    def _in_scope(self, record: Record) -> bool:
        return (
            (not self.kinds or record.kind in self.kinds)
            and (not self.tiers or record.tier in self.tiers)
            and record.trust in self.trusts
            and (not self.subject or record.subject in ("", self.subject))
            and (not self.agent or record.agent in ("", self.agent))
            and (not self.session or record.tier == "long_term" or record.session == self.session)
        )
