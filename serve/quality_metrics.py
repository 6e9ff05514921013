"""PURE: how well an order of requests, the likeliest gains first, spends a stronger model.

The gap recovered is 0 at the weaker model's share of right answers and 1 at the stronger one's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.errors import InvalidInput
from serve.intent_metrics import calibration_error

Flags = NDArray[np.bool_]
Doubles = NDArray[np.float64]


def recovered(gain: Doubles, weak: Flags, strong: Flags) -> Doubles:
    """The gap recovered after sending 0, 1, ... n requests up, highest predicted gain first.

    Shape (n + 1,). Equal gains are sent in their given order. Raises InvalidInput when the lengths
    differ or the stronger model is not the better one, which leaves no gap to recover.
    """
    if not len(gain) == len(weak) == len(strong):
        raise InvalidInput("gain", len(gain), f"as many as {len(weak)} and {len(strong)} answers")
    gap = int(strong.sum()) - int(weak.sum())
    if gap <= 0:
        raise InvalidInput("strong", int(strong.sum()), f"more than {int(weak.sum())} right")
    order = np.argsort(-gain, kind="stable")
    won = strong[order].astype(np.int64) - weak[order].astype(np.int64)
    curve: Doubles = np.concatenate([[0.0], np.cumsum(won) / gap])
    return curve


def apgr(curve: Doubles) -> float:
    """The mean gap recovered over all shares of calls: 0.5 is what chance gives."""
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def cpt(curve: Doubles, share: float) -> float:
    """The smallest share of calls that recovers `share` (0 to 1) of the gap."""
    if not 0 <= share <= 1:
        raise InvalidInput("share", share, "0 to 1")
    return int(np.argmax(curve >= share - 1e-12)) / (len(curve) - 1)


def described(
    models: Sequence[str], chances: Doubles, right: Flags, known: Flags
) -> dict[str, Any]:
    """The content of metrics.json, from each example's chances, predicted without it. `apgr` is of
    the most accurate model over the least accurate one, by the examples of which all is `known`;
    None where these show no gap."""
    return {
        "examples": len(right),
        "apgr": _apgr(chances, right, np.all(known, axis=1)),
        "models": {
            name: _of_model(chances[:, i][known[:, i]], right[:, i][known[:, i]])
            for i, name in enumerate(models)
        },
    }


def _apgr(chances: Doubles, right: Flags, whole: Flags) -> float | None:
    sums = right[whole].sum(axis=0)
    weak, strong = int(sums.argmin()), int(sums.argmax())
    if sums[weak] == sums[strong]:
        return None
    gain = chances[whole, strong] - chances[whole, weak]
    return round(apgr(recovered(gain, right[whole, weak], right[whole, strong])), 4)


def _of_model(chances: Doubles, right: Flags) -> dict[str, float]:
    if not len(right):
        return {"labels": 0}
    return {
        "labels": len(right),
        "right": round(float(right.mean()), 4),
        "predicted": round(float(chances.mean()), 4),
        "calibration_error": round(calibration_error(chances, right), 4),
        "squared_error": round(float(((chances - right) ** 2).mean()), 4),
    }


def better(
    found: Doubles, before: Doubles, right: Flags, known: Flags
) -> tuple[float, float, float]:
    """By how much the mean squared error of `found` is below that of `before`, and the 95 %
    interval, from the same examples, each with something `known`; shapes (n, models)."""
    errors = (before - right) ** 2 - (found - right) ** 2
    won = (errors * known).sum(axis=1) / known.sum(axis=1)
    error = 1.96 * float(won.std(ddof=1)) / len(won) ** 0.5
    middle = float(won.mean())
    return middle, middle - error, middle + error
