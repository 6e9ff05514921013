"""PURE: how good a head is, from judgements of examples it had not seen."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve.intent_views import Floats, Ints
from serve.intents import MAX_OUT_OF_SCOPE, Curve

QUEUE: Final = 500
LEAST_AUTOMATED: Final = 0.70
MOST_WRONG: Final = 0.015
_TARGETS: Final = (0.005, 0.008, 0.01, 0.015, 0.02)
_FALLBACK: Final = 0.01
_BINS: Final = 10

Flags = NDArray[np.bool_]
Doubles = NDArray[np.float64]


def described(
    intents: list[str],
    labels: Ints,
    mixed: Floats,
    right: Flags,
    confidence: Doubles,
    curve: Curve,
    strange: Doubles,
    outside: int | None,
) -> dict[str, Any]:
    """The content of metrics.json. Shares are of the examples, each judged unseen."""
    count = len(labels)
    return {
        "method": "5-fold cross-validation on the training examples",
        "examples": count,
        "intents": len(intents),
        "accuracy": {
            "share": round(float(right.mean()), 4), "right": int(right.sum()), "of": count
        },
        "expected_calibration_error": round(calibration_error(confidence, right), 4),
        "out_of_scope": _out_of_scope(labels, strange, outside),
        "risk": [_risk(curve, target) for target in _TARGETS],
        "gate": recommended(curve),
        "weakest": _weakest(intents, labels, mixed),
    }  # fmt: skip


def calibration_error(confidence: Doubles, right: Flags) -> float:
    """Mean distance of confidence and accuracy over ten bins of equal size."""
    order = np.argsort(confidence)
    bins = [part for part in np.array_split(order, _BINS) if len(part)]
    gaps = [abs(confidence[b].mean() - right[b].mean()) * len(b) for b in bins]
    return float(sum(gaps) / len(confidence))


def auroc(scores: Doubles, positive: Flags) -> float:
    """The chance that a positive scores over a negative; a tie counts half."""
    ordered = np.sort(scores[~positive])
    below = np.searchsorted(ordered, scores[positive], "left")
    level = np.searchsorted(ordered, scores[positive], "right")
    return float((below + level).mean() / 2 / len(ordered))


def _out_of_scope(labels: Ints, strange: Doubles, outside: int | None) -> dict[str, Any]:
    if outside is None:
        return {"examples": 0, "auroc": None, "from": "distance to the examples"}
    positive = labels == outside
    flagged = strange > MAX_OUT_OF_SCOPE
    return {
        "examples": int(positive.sum()),
        "auroc": round(auroc(strange, positive), 4),
        "found": int((flagged & positive).sum()),
        "false_alarms": int((flagged & ~positive).sum()),
        "from": "examples",
    }


def _risk(curve: Curve, target: float) -> dict[str, Any]:
    threshold = curve.threshold(target)
    passed = curve.confidence >= threshold
    return {
        "target_error": target,
        "threshold": round(threshold, 5),
        "automated": round(float(passed.mean()), 4),
        "passed": int(passed.sum()),
        "wrong": int((passed & ~curve.right).sum()),
    }


def recommended(curve: Curve) -> dict[str, Any]:
    """The threshold most likely to keep the promise on a queue of 500 tickets: at least 70 %
    automated, at most 1.5 % of those wrong. When that is unlikely, the one for 1 % wrong."""
    count = len(curve.right)
    best, chance = 0, 0.0
    wrong = np.cumsum(~curve.right)
    for passed in range(count // 2, count + 1, max(1, count // 1000)):
        kept = promise_kept(passed / count, (wrong[passed - 1] + 0.5) / (passed + 1))
        if kept > chance:
            best, chance = passed, kept
    if chance >= 0.5:
        threshold, rule = float(curve.confidence[best - 1]), "promise"
    else:
        threshold, rule = curve.threshold(_FALLBACK), "error"
    passing = curve.confidence >= threshold
    return {
        "threshold": threshold,
        "rule": rule,
        "promise": {"queue": QUEUE, "automated": LEAST_AUTOMATED, "wrong": MOST_WRONG},
        "chance": round(chance, 4),
        "automated": round(float(passing.mean()), 4),
        "error": round(float((~curve.right[passing]).mean()), 5) if passing.any() else 0.0,
    }


def promise_kept(share: float, error: float) -> float:
    """The chance that a queue of 500 keeps the promise when each ticket passes with `share` and
    each of those is wrong with `error`."""
    from scipy.stats import binom  # type: ignore[import-untyped]

    passed = np.arange(int(np.ceil(LEAST_AUTOMATED * QUEUE)), QUEUE + 1)
    allowed = np.floor(MOST_WRONG * passed + 1e-9)
    return float((binom.pmf(passed, QUEUE, share) * binom.cdf(allowed, passed, error)).sum())


def _weakest(intents: list[str], labels: Ints, mixed: Floats) -> list[dict[str, Any]]:
    """The pairs most often confused, so that someone can write better examples."""
    pairs: dict[tuple[str, str], int] = {}
    for label, top in zip(labels, mixed.argmax(axis=1), strict=True):
        if label != top:
            key = (intents[label], intents[top])
            pairs[key] = pairs.get(key, 0) + 1
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [{"intent": one, "taken_for": other, "times": n} for (one, other), n in ordered]
