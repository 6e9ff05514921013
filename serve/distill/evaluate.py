"""Is a candidate as good as what it is to replace? Both answer the same held-out chats through
vLLM, and each answer is scored against the one that people accepted.

The difference is that of paired scores, with a 95 % percentile bootstrap (scipy): scores are
neither normal nor all 0 or 1, so that McNemar's test does not fit, and the percentile method,
unlike BCa, is defined where all differences are alike. It is optimistic there: thirty equal scores
show no width, though one chat in ten may still differ. Fewer than LEAST chats get no verdict.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from cluster.errors import InvalidInput
from serve.distill.chats import TracedChat
from serve.distill.corpus import SHARES, Example, examples
from serve.distill.digest import digest
from serve.distill.judge import judge, references_of, refuses
from serve.distill.sampling import Prompt, answers

Verdict = Literal["better", "not worse", "worse", "too few"]

FILE: Final = "evaluation.json"
CONFIDENCE: Final = 0.95
LEAST: Final = 30
MARGIN: Final = 0.02  # so much worse, at most, is not worse
_SEED: Final = 3_000_003
_DRAWS: Final = 10_000
# What must hold of an answer of this kind; any other kind is compared as text.
_REQUIRED: Final = {
    "plan": ("plan_right", "arguments_right"),
    "slots": ("arguments_right", "intent_right"),
    "summary": ("summary_keeps",),
}


@dataclass(frozen=True)
class Comparison:
    """Candidate against incumbent, by digest; mean scores in [0, 1], their difference, and its
    interval at `confidence`."""

    candidate: str
    incumbent: str
    count: int
    candidate_score: float
    incumbent_score: float
    difference: float
    interval: tuple[float, float]
    confidence: float
    verdict: Verdict


def evaluate(
    candidate: Path, incumbent: Path, chats: Sequence[TracedChat], *, core: str = "0"
) -> Comparison:
    """Compare two checkpoint folders on those of `chats` that are held out, and write
    CANDIDATE/evaluation.json.

    Raises InvalidInput when none is held out, and what `sampling.answers` raises when a folder
    can't be served; then nothing is written.
    """
    heldout = [c.example for c in chats if c.split == "heldout"]
    if not heldout:
        raise InvalidInput("chats", len(chats), "at least one with the split heldout")
    return compare(candidate, incumbent, heldout, core=core)


def corpus_chats(task: str, count: int) -> list[Example]:
    """`count` chats of the corpus's test split, for who has no runs to compare on. Raises
    InvalidInput for a model that the corpus has no chats for."""
    if task not in SHARES:
        raise InvalidInput("model", task, f"one of {', '.join(SHARES)}")
    return list(islice(examples(task, "test", _SEED), count))


def compare(
    candidate: Path, incumbent: Path, asked: Sequence[Example], *, core: str = "0"
) -> Comparison:
    """As `evaluate`, on examples."""
    names = digest(candidate), digest(incumbent)
    prompts = [Prompt(e.messages, e.tools) for e in asked]
    scores = [
        [score(e, text) for e, text in zip(asked, sampled.texts, strict=True)]
        for sampled in (answers(folder, prompts, core=core) for folder in (candidate, incumbent))
    ]
    comparison = compared(*names, *scores)
    text = json.dumps(asdict(comparison), indent=2)
    (candidate / FILE).write_text(text + "\n", encoding="utf-8")
    return comparison


def compared(
    candidate: str, incumbent: str, scores: Sequence[float], others: Sequence[float]
) -> Comparison:
    """What paired scores say. Below LEAST pairs the verdict is `too few`; `better` when the whole
    interval is above 0, `not worse` when it is above -MARGIN; else `worse`, which a candidate is
    also as long as that much of a loss can't be ruled out."""
    pairs = np.array([scores, others], dtype=float)
    means = pairs.mean(axis=1)
    difference = float(means[0] - means[1])
    low = high = difference
    if pairs.shape[1] > 1:
        found = stats.bootstrap(
            (pairs[0], pairs[1]), _difference, paired=True, vectorized=True, n_resamples=_DRAWS,
            batch=1_000, confidence_level=CONFIDENCE, method="percentile",
            rng=np.random.default_rng(_SEED),
        ).confidence_interval  # fmt: skip
        low, high = float(found.low), float(found.high)
    return Comparison(
        candidate=candidate,
        incumbent=incumbent,
        count=pairs.shape[1],
        candidate_score=float(means[0]),
        incumbent_score=float(means[1]),
        difference=difference,
        interval=(low, high),
        confidence=CONFIDENCE,
        verdict=_verdict(pairs.shape[1], low),
    )


def _verdict(count: int, low: float) -> Verdict:
    if count < LEAST:
        return "too few"
    if low > 0:
        return "better"
    return "not worse" if low > -MARGIN else "worse"


def _difference(ours: np.ndarray, theirs: np.ndarray, axis: int) -> np.ndarray:
    difference: np.ndarray = np.mean(ours, axis=axis) - np.mean(theirs, axis=axis)
    return difference


def score(example: Example, answer: str) -> float:
    """How good an answer is, in [0, 1], where `example` holds the accepted one.

    A plan, slots or a summary: all right or not. A draft: grounded, with the accepted references.
    Other text, and what was accepted without the form of its kind: 0 when a reference is lost or
    new, else the words that it shares with the accepted text (F1).
    """
    if refuses(example.answer) or refuses(answer):
        return float(refuses(example.answer) and refuses(answer))
    required = _REQUIRED.get(example.kind, ())
    accepted = judge(example, example.answer)
    if required and all(accepted[name] for name in required):
        figures = judge(example, answer)
        return float(all(figures[name] for name in required))
    if set(references_of(answer)) != set(references_of(example.answer)):
        return 0.0
    if example.kind == "draft" and accepted.get("supported"):
        return float(judge(example, answer)["supported"])
    return _overlap(answer, example.answer)


def _overlap(text: str, other: str) -> float:
    words, others = Counter(text.lower().split()), Counter(other.lower().split())
    total = words.total() + others.total()
    return 2 * (words & others).total() / total if total else 1.0
