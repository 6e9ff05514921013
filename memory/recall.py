"""PURE: which of the found records answer a query, and why each one."""

import re
from collections.abc import Sequence
from typing import Final

from memory.records import Hit, Query, Record, Scored

_WORD: Final = re.compile(r"\w+")
SAME: Final = 0.8
"""Share of common words from which two texts count as the same."""


def candidates_wanted(query: Query) -> int:
    """How many records to look at per search: enough to lose duplicates and still fill k."""
    return min(4 * query.k + 8 + len(query.without), 400)


def rank(found: Sequence[Scored], query: Query) -> list[Hit]:
    """At most k hits, best first; an empty list is an honest answer.

    A record comes when its similarity reaches the threshold and no better hit says the same in
    almost the same words. When several kinds are relevant, each first gets its equal share of k.
    """
    relevant = _distinct([s for s in _by_score(found) if _wanted(s, query)])
    kinds = list(dict.fromkeys(s.record.kind for s in relevant))
    share = query.k // len(kinds) if kinds else 0
    chosen: dict[str, str] = {}
    for kind in kinds:
        for scored in [s for s in relevant if s.record.kind == kind][:share]:
            chosen[scored.record.id] = f"among the {share} nearest of kind {kind}"
    for scored in relevant:
        if len(chosen) >= query.k:
            break
        chosen.setdefault(scored.record.id, "nearest of what was left")
    return [
        Hit(s.record, s.score, _reason(s, chosen[s.record.id], query))
        for s in relevant
        if s.record.id in chosen
    ]


def _by_score(found: Sequence[Scored]) -> list[Scored]:
    # equal scores are ordered by id, so that the same memory always answers the same
    return sorted(found, key=lambda s: (-s.score, s.record.id))


def _wanted(scored: Scored, query: Query) -> bool:
    record = scored.record
    return (
        record.tenant == query.tenant
        and scored.score >= query.min_score
        and record.source not in query.without
        and (not query.kinds or record.kind in query.kinds)
    )


def _distinct(ordered: Sequence[Scored]) -> list[Scored]:
    kept: list[tuple[Scored, frozenset[str]]] = []
    for scored in ordered:
        words = _words(scored.record)
        if not any(_same(words, other) for _, other in kept):
            kept.append((scored, words))
    return [scored for scored, _ in kept]


def _words(record: Record) -> frozenset[str]:
    return frozenset(_WORD.findall(record.text.casefold())) or frozenset({record.text})


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME * len(one | other)


def _reason(scored: Scored, why: str, query: Query) -> str:
    return f"similarity {scored.score:.2f} (at least {query.min_score:.2f}), {why}"
