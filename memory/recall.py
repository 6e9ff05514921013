"""PURE: which of the found records answer a query, and why each one.

Relevance comes first, freshness and importance only weigh what is relevant already. Both searches
are on scales that mean the same for every question: a cosine, and the share of the question's words
that a passage says (words.py). Their mean orders the records; a record that neither search finds
near enough does not come, and an empty list is an honest answer.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from memory import tokens
from memory.records import Found, Hit, Query, Record

SAME: Final = 0.8
"""Share of common words from which two texts count as the same."""
MIN_KEYWORD: Final = 0.5
"""The keyword score from which a record is relevant however dissimilar its vector."""
HALF_LIVES: Final[Mapping[str, float]] = {"status": 6 * 3_600.0, "preference": 180 * 86_400.0}
"""Seconds until a kind's freshness is halved; other kinds do not age."""

_MEANS_THE_SAME: Final = 0.7  # the cosine of a question and a text that plainly answers it
_SAYS_ENOUGH: Final = 1.0  # the keyword score that counts in full when no record has a better one
_ASKING_COSTS: Final = 0.2  # off a turn that is all question: the answer is in the next one
_STALE: Final = 0.5  # what the oldest record keeps of its relevance
_WORD: Final = re.compile(r"\w+")
_SENTENCE: Final = re.compile(r"[^.!?。！？؟]+[.!?。！？؟]*")
_ASKS: Final = ("?", "？", "؟")


def candidates_wanted(query: Query) -> int:
    """How many records to look at per search: enough to lose duplicates and still fill k, and that
    what only one search finds is at the end of the other one's list."""
    return min(10 * query.k + 50 + len(query.without), 400)


@dataclass(frozen=True, slots=True)
class _Scored:
    found: Found
    scores: Mapping[str, float]
    final: float

    @property
    def record(self) -> Record:
        return self.found.record


def rank(
    found: Sequence[Found],
    query: Query,
    now: float,
    half_lives: Mapping[str, float] = HALF_LIVES,
    count_tokens: Callable[[str], int] = tokens.count,
) -> list[Hit]:
    """At most k hits, best first, their texts together within the query's budget.

    A record comes when it is similar enough or says enough of the question's words, and no better
    hit says the same in almost the same words; none comes when not even the best is relevant
    enough. When several kinds are relevant, each first gets its equal share of k. `now` and
    `half_lives` are in seconds.
    """
    scored = _scored([f for f in found if _wanted(f, query)], query, now, half_lives)
    relevant = _distinct(_relevant(scored, query), query.k)
    chosen = _chosen(relevant, query)
    hits = [
        Hit(s.record, s.final, _reason(s, chosen[s.record.id], query), s.scores)
        for s in relevant
        if s.record.id in chosen
    ]
    return _affordable(hits, query.budget_tokens, count_tokens)


def _wanted(found: Found, query: Query) -> bool:
    record = found.record
    return (
        record.tenant == query.tenant
        and record.source not in query.without
        and (not query.kinds or record.kind in query.kinds)
    )


def _relevant(scored: Sequence[_Scored], query: Query) -> list[_Scored]:
    near = [s for s in scored if _near(s.found, query)]
    best = max((s.scores["relevance"] for s in near), default=0.0)
    return near if best >= query.min_relevance else []


def _near(found: Found, query: Query) -> bool:
    similar = found.dense is not None and found.dense >= query.min_score
    return similar or (found.keyword or 0.0) >= MIN_KEYWORD


def _scored(
    found: Sequence[Found], query: Query, now: float, half_lives: Mapping[str, float]
) -> list[_Scored]:
    dense = [f.dense for f in found if f.dense is not None]
    keyword = [f.keyword for f in found if f.keyword is not None]
    # what a full list does not hold is about as good as its last entry; of a short one, nothing
    least_dense = min(dense, default=0.0)
    least_keyword = min(keyword) if 2 * len(keyword) > candidates_wanted(query) else 0.0
    enough = max([_SAYS_ENOUGH, *keyword])
    then = now if query.as_of is None else query.as_of
    scored = []
    for one in found:
        similarity = least_dense if one.dense is None else one.dense
        said = least_keyword if one.keyword is None else one.keyword
        relevance = (similarity / _MEANS_THE_SAME + said / enough) / 2
        if one.record.number:
            relevance *= 1 - _ASKING_COSTS * asking(one.record.text)
        freshness = _freshness(one.record, then, half_lives)
        importance = 0.75 + one.record.importance / 2
        scores = {
            "dense": similarity, "keyword": said, "relevance": relevance,
            "freshness": freshness, "importance": one.record.importance,
        }  # fmt: skip
        scored.append(_Scored(one, scores, relevance * freshness * importance))
    # equal scores are ordered by id, so that the same memory always answers the same
    return sorted(scored, key=lambda s: (-s.final, s.record.id))


def asking(text: str) -> float:
    """The share of a text, by length, that is questions."""
    if not any(mark in text for mark in _ASKS):
        return 0.0
    sentences = [s for s in _SENTENCE.findall(text) if s.strip()]
    total = sum(map(len, sentences))
    return sum(len(s) for s in sentences if s.endswith(_ASKS)) / total if total else 0.0


def _freshness(record: Record, now: float, half_lives: Mapping[str, float]) -> float:
    """1 for what is new or does not age, falling towards _STALE."""
    half_life = half_lives.get(record.kind)
    if not half_life:
        return 1.0
    age = max(now - record.event_at, 0.0)
    fresh: float = 0.5 ** (age / half_life)
    return _STALE + (1 - _STALE) * fresh


def _distinct(ordered: Sequence[_Scored], most: int) -> list[_Scored]:
    """The best `most` of each kind that don't repeat a better one."""
    kept: list[tuple[_Scored, frozenset[str]]] = []
    of_kind: Counter[str] = Counter()
    for scored in ordered:
        if of_kind[scored.record.kind] == most:
            continue
        words = _words(scored.record)
        if not any(_same(scored.record, words, s.record, other) for s, other in kept):
            kept.append((scored, words))
            of_kind[scored.record.kind] += 1
    return [scored for scored, _ in kept]


def _words(record: Record) -> frozenset[str]:
    return frozenset(_WORD.findall(record.text.casefold())) or frozenset({record.text})


def _same(one: Record, words: frozenset[str], other: Record, others: frozenset[str]) -> bool:
    shorter, longer = sorted((len(words), len(others)))
    if shorter < SAME * longer or one.subject != other.subject:
        return False
    common = len(words & others)
    if common < SAME * (shorter + longer - common):
        return False
    # in other respects the same, 30 days and 60 days are two things to know
    return not any(map(_names_a_number, words ^ others))


def _names_a_number(word: str) -> bool:
    return any(character.isdigit() for character in word)


def _chosen(relevant: Sequence[_Scored], query: Query) -> dict[str, str]:
    """Ids of the hits, each with why it is one."""
    kinds = list(dict.fromkeys(s.record.kind for s in relevant))
    share = query.k // len(kinds) if kinds else 0
    chosen: dict[str, str] = {}
    for kind in kinds:
        for scored in [s for s in relevant if s.record.kind == kind][:share]:
            chosen[scored.record.id] = f"among the {share} best of kind {kind}"
    for scored in relevant:
        if len(chosen) >= query.k:
            break
        chosen.setdefault(scored.record.id, "best of what was left")
    return chosen


def _affordable(
    hits: list[Hit], budget: int | None, count_tokens: Callable[[str], int]
) -> list[Hit]:
    """The hits that fit into the budget, the better ones first; one that is too long is left out
    for shorter ones behind it."""
    if budget is None:
        return hits
    left, kept = budget, []
    for hit in hits:
        cost = count_tokens(hit.record.text)
        if cost <= left:
            left -= cost
            kept.append(hit)
    return kept


def _reason(scored: _Scored, why: str, query: Query) -> str:
    dense, keyword = scored.found.dense, scored.found.keyword
    similar = "not among the most similar"
    if dense is not None:
        side = "at least" if dense >= query.min_score else "below"
        similar = f"similarity {dense:.2f} ({side} {query.min_score:.2f})"
    said = f"keywords {keyword:.2f}" if keyword is not None else "no keywords"
    fresh = scored.scores["freshness"]
    aged = f", freshness {fresh:.2f}" if fresh < 1 else ""
    return f"{similar}, {said}{aged}, {why}"
