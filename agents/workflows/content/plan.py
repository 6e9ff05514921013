"""PURE: which channels get a post and which facts lead, by what earlier pieces have had.

A channel is ordered by the share of views that led to a click, counted low while there are few (the
lower end of Wilson's 95 % interval). A kind of fact is ordered by its clicks against those that its
channels have anyway, so that a kind which was told on a good channel gets no credit for that. One
post of each piece goes to a channel that nobody has measured, as long as there is one, and leads
with a kind that nobody has: what is never tried never performs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Final

from agents.workflows.content.brief import SITE

MOST_POSTS: Final = 3
LEAST_VIEWS: Final = 20
"""With fewer a channel or a kind counts as not measured."""
_Z: Final = 1.96
_CITED: Final = 3
_PRIOR: Final = 5.0  # clicks, which hold a kind's first figures down


@dataclass(frozen=True)
class Seen:
    """What a piece has had on a channel so far, and the kind of fact that led there."""

    piece: str
    channel: str
    kind: str
    views: int
    clicks: int


@dataclass(frozen=True)
class Choice:
    """A channel or a kind: why it stands where it does, and the pieces that say so."""

    name: str
    reason: str
    pieces: tuple[str, ...] = ()
    measured: bool = False
    lead: str = ""

    def as_json(self) -> dict[str, Any]:
        """As a phase's result holds it; `lead` is the kind of fact that a channel's post leads
        with."""
        lead = {"lead": self.lead} if self.lead else {}
        return {"name": self.name, "reason": self.reason, "pieces": list(self.pieces), **lead}


@dataclass(frozen=True)
class Plan:
    """`channels` that get a post, `kinds` in the order in which facts are told."""

    channels: tuple[Choice, ...]
    kinds: tuple[Choice, ...]

    def as_json(self) -> dict[str, Any]:
        """As a phase's result holds it; `cites` are all pieces that it rests on."""
        cited = [p for choice in (*self.channels, *self.kinds) for p in choice.pieces]
        return {
            "channels": [c.as_json() for c in self.channels],
            "kinds": [k.as_json() for k in self.kinds],
            "cites": list(dict.fromkeys(cited)),
        }  # fmt: skip


def seen_of(pieces: Sequence[Mapping[str, Any]]) -> list[Seen]:
    """What the desk tells of its pieces, by piece and channel; those without a view are left
    out."""
    return [
        Seen(piece["slug"], channel, told["lead"], told["views"], told["clicks"])
        for piece in pieces
        for channel, told in piece["channels"].items()
        if told["views"] > 0
    ]


def plan(
    seen: Sequence[Seen], channels: Sequence[str], kinds: Sequence[str],
    suggested: Sequence[str] = (), most: int = MOST_POSTS,
) -> Plan:  # fmt: skip
    """A plan for a brief that allows `channels` and has facts of `kinds`, both in an order that
    holds where nothing is known. Of the channels that nobody has measured those `suggested` come
    first."""
    rates = _by(seen, lambda s: s.channel)
    known = sorted(
        (c for c in channels if _views(rates.get(c, ())) >= LEAST_VIEWS),
        key=lambda c: -_low(rates[c]),
    )
    unknown = sorted((c for c in channels if c not in known), key=lambda c: c not in suggested)
    ordered = _kinds(seen, kinds)
    tried = known[: most - 1 if unknown else most]
    explored = unknown[: most - len(tried)]
    chosen = [_told(c, rates[c]) for c in tried]
    chosen += [
        Choice(c, f"{c}: not measured yet{', but suggested' if c in suggested else ''}; tried")
        for c in explored
    ]
    return Plan(tuple(_led(chosen, ordered)), tuple(ordered))


def _led(channels: Sequence[Choice], kinds: Sequence[Choice]) -> Iterator[Choice]:
    """The channels, each with the kind that leads there: the best one, but on the last channel and
    those that are only tried the kinds that nobody has measured, in turn."""
    fresh = cycle([k.name for k in kinds if not k.measured] or [kinds[0].name] if kinds else [""])
    for number, choice in enumerate(channels, 1):
        best = choice.measured and number < len(channels) and kinds
        yield replace(choice, lead=kinds[0].name if best else next(fresh))


def _kinds(seen: Sequence[Seen], kinds: Sequence[str]) -> list[Choice]:
    by_channel = _by(seen, lambda s: s.channel)
    share = {c: _clicks(rows) / _views(rows) for c, rows in by_channel.items()}
    by_kind = _by(seen, lambda s: s.kind)
    lifts: dict[str, float] = {}
    told: dict[str, Choice] = {}
    for kind in dict.fromkeys(kinds):
        rows = by_kind.get(kind, [])
        if _views(rows) < LEAST_VIEWS:
            lifts[kind] = 1.0
            told[kind] = Choice(kind, f"{kind}: not measured yet")
            continue
        expected = sum(r.views * share[r.channel] for r in rows)
        lifts[kind] = (_clicks(rows) + _PRIOR) / (expected + _PRIOR)
        over = _over(rows)
        reason = f"{kind}: {lifts[kind]:.2f} times the clicks of its channels over {over}"
        told[kind] = Choice(kind, reason, _pieces(rows), measured=True)
    return [told[k] for k in sorted(told, key=lambda k: -lifts[k])]


def _told(channel: str, rows: Sequence[Seen]) -> Choice:
    share = 100 * _clicks(rows) / _views(rows)
    reason = f"{'article' if channel == SITE else channel}: {share:.1f} % over {_over(rows)}"
    return Choice(channel, reason, _pieces(rows), measured=True)


def _over(rows: Sequence[Seen]) -> str:
    count = len({r.piece for r in rows})
    return f"{count} piece{'s' if count > 1 else ''} ({_views(rows):,} views)"


def _pieces(rows: Sequence[Seen]) -> tuple[str, ...]:
    """Those with the most clicks."""
    ordered = sorted(rows, key=lambda r: (-r.clicks, r.piece))
    return tuple(dict.fromkeys(r.piece for r in ordered))[:_CITED]


def _low(rows: Sequence[Seen]) -> float:
    views = _views(rows)
    share = _clicks(rows) / views
    spread = _Z * math.sqrt(share * (1 - share) / views + _Z * _Z / (4 * views * views))
    return (share + _Z * _Z / (2 * views) - spread) / (1 + _Z * _Z / views)


def _by(seen: Sequence[Seen], key: Callable[[Seen], str]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for row in seen:
        found.setdefault(key(row), []).append(row)
    return found


def _views(rows: Sequence[Seen]) -> int:
    return sum(r.views for r in rows)


def _clicks(rows: Sequence[Seen]) -> int:
    return sum(r.clicks for r in rows)
