"""How well a space answers the frozen probes: alone, and beside another one.

A hit is a probe of whose records one is among the first k that recall gives. Strays, questions that
nothing should answer, count apart: they show the right to answer nothing. The difference of two
spaces is over the same probes, with a bootstrap interval of 95 %.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from memory import recall as ranking
from memory.live import Live
from memory.probes import Probe, ProbeSet
from memory.records import Query
from memory.scope import Filter
from memory.searching import Searcher

K: Final = 5
_RESAMPLED: Final = 2_000
_Z: Final = 1.96


@dataclass(frozen=True, slots=True)
class Answer:
    """What one probe got: ids in order, those of the vector search alone, milliseconds."""

    ids: tuple[str, ...]
    dense: tuple[str, ...]
    ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    """A space on a set of probes, `questions` of which have an answer and `strays` none. hit_rate
    with its interval, recall and dense_recall (share of wanted records among the first k, of recall
    and of the vector search alone), precision (share of wanted ones among the hits), empty_rate
    (questions that got nothing), stray_empty_rate (strays that got nothing), ms per question."""

    space: str
    k: int
    questions: int
    strays: int
    hit_rate: float
    hit_low: float
    hit_high: float
    recall: float
    dense_recall: float
    precision: float
    empty_rate: float
    stray_empty_rate: float | None
    p50_ms: float
    p95_ms: float

    def as_row(self) -> dict[str, Any]:
        """Plain values, but for the space's name."""
        return {name: value for name, value in asdict(self).items() if name != "space"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two spaces on the same probes: the serving one, the other one, by how much the other one's
    hit rate is higher (with its interval), and the mean share of common ids among the first k."""

    probes: str
    erased: int
    serving: Figures
    other: Figures | None = None
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0
    overlap: float = 1.0

    @property
    def worse(self) -> bool:
        """Whether the other one is worse beyond doubt."""
        return self.other is not None and self.high < 0


async def asked(
    searcher: Searcher, live: Live, probes: Sequence[Probe], tenant: str, now: float, k: int = K,
    told: Callable[[], None] = lambda: None,
) -> list[Answer]:  # fmt: skip
    """Every probe's answer from a space, one after the other, so that others are answered too."""
    answers = []
    for probe in probes:
        query = Query(tenant, probe.question, k=k)
        scope = Filter.of(query, now)
        begun = time.perf_counter()
        found = await searcher.found(live, query, scope)
        hits = ranking.rank(found, query, now)
        spent = 1000 * (time.perf_counter() - begun)
        near = sorted((f for f in found if f.dense is not None), key=lambda f: -(f.dense or 0.0))
        dense = tuple(f.record.id for f in near[:k])
        answers.append(Answer(tuple(hit.record.id for hit in hits), dense, spent))
        told()
        await asyncio.sleep(0)
    return answers


def judged(space: str, probes: Sequence[Probe], answers: Sequence[Answer], k: int = K) -> Figures:
    """PURE: what the answers come to."""
    pairs = [(p, a) for p, a in zip(probes, answers, strict=True) if p.wanted]
    strays = [a for p, a in zip(probes, answers, strict=True) if not p.wanted]
    hits = [_hit(p, a) for p, a in pairs]
    given = [(p, a) for p, a in pairs if a.ids]
    times = [a.ms for a in answers] or [0.0]
    low, high = wilson(sum(hits), len(hits))
    return Figures(
        space=space, k=k, questions=len(pairs), strays=len(strays),
        hit_rate=_mean(hits), hit_low=low, hit_high=high,
        recall=_mean([_share(p, a.ids, k) for p, a in pairs]),
        dense_recall=_mean([_share(p, a.dense, k) for p, a in pairs]),
        precision=_mean([len(set(p.wanted) & set(a.ids)) / len(a.ids) for p, a in given]),
        empty_rate=_mean([not a.ids for _, a in pairs]),
        stray_empty_rate=_mean([not a.ids for a in strays]) if strays else None,
        p50_ms=round(float(np.percentile(times, 50)), 2),
        p95_ms=round(float(np.percentile(times, 95)), 2),
    )  # fmt: skip


def compared(
    frozen: ProbeSet, spaces: Sequence[str], answers: Sequence[Sequence[Answer]], k: int = K
) -> Comparison:
    """PURE: one space's figures, or two spaces' and their difference."""
    figures = [judged(s, frozen.probes, a, k) for s, a in zip(spaces, answers, strict=True)]
    if len(figures) == 1:
        return Comparison(frozen.hash, frozen.erased, figures[0])
    gains = [
        _hit(probe, other) - _hit(probe, one)
        for probe, one, other in zip(frozen.probes, *answers, strict=True)
        if probe.wanted
    ]
    common = [
        len(set(one.ids) & set(other.ids)) / max(len(set(one.ids) | set(other.ids)), 1)
        for one, other in zip(*answers, strict=True)
        if one.ids or other.ids
    ]
    low, high = _bootstrapped(gains)
    overlap = _mean(common) if common else 1.0
    return Comparison(
        frozen.hash, frozen.erased, figures[0], figures[1], _mean(gains), low, high, overlap
    )


def _hit(probe: Probe, answer: Answer) -> int:
    return int(bool(set(probe.wanted) & set(answer.ids)))


def _share(probe: Probe, ids: Sequence[str], k: int) -> float:
    # of records that say the same, recall gives one
    return len(set(probe.wanted) & set(ids)) / min(len(probe.wanted), k)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of 95 % of a share."""
    if not count:
        return 0.0, 1.0
    share, z = hits / count, _Z
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return round(max(middle - half, 0.0), 4), round(min(middle + half, 1.0), 4)


def _bootstrapped(gains: Sequence[int]) -> tuple[float, float]:
    if not gains:
        return 0.0, 0.0
    draws = np.random.default_rng(7).integers(0, len(gains), (_RESAMPLED, len(gains)))
    means = np.asarray(gains, np.float64)[draws].mean(axis=1)
    return round(float(np.percentile(means, 2.5)), 4), round(float(np.percentile(means, 97.5)), 4)
