"""PURE: which of the found records answer a query, and why each one."""

import re
from collections.abc import Sequence
from typing import Final

from memory.records import Found, Hit, Query, Record

_WORD: Final = re.compile(r"\w+")
SAME: Final = 0.8
"""Share of common words from which two texts count as the same."""


def candidates_wanted(query: Query) -> int:
    """How many records to look at per search: enough to lose duplicates and still fill k."""
    return min(4 * query.k + 8 + len(query.without), 400)


def rank(found: Sequence[Found], query: Query, now: float) -> list[Hit]:
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
        Hit(s.record, _similarity(s), _reason(s, chosen[s.record.id], query))
        for s in relevant
        if s.record.id in chosen
    ]


def _similarity(found: Found) -> float:
    return -1.0 if found.dense is None else found.dense


def _by_score(found: Sequence[Found]) -> list[Found]:
    # equal scores are ordered by id, so that the same memory always answers the same
    return sorted(found, key=lambda s: (-_similarity(s), s.record.id))


def _wanted(scored: Found, query: Query) -> bool:
    record = scored.record
    return (
        record.tenant == query.tenant
        and _similarity(scored) >= query.min_score
        and record.source not in query.without
        and (not query.kinds or record.kind in query.kinds)
    )


def _distinct(ordered: Sequence[Found]) -> list[Found]:
    kept: list[tuple[Found, frozenset[str]]] = []
    for scored in ordered:
        words = _words(scored.record)
        if not any(_same(words, other) for _, other in kept):
            kept.append((scored, words))
    return [scored for scored, _ in kept]


def _words(record: Record) -> frozenset[str]:
    return frozenset(_WORD.findall(record.text.casefold())) or frozenset({record.text})


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME * len(one | other)


def _reason(scored: Found, why: str, query: Query) -> str:
    return f"similarity {_similarity(scored):.2f} (at least {query.min_score:.2f}), {why}"
