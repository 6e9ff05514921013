"""How likely each model is to answer a request right. NumPy only; trained by quality_training.

A model has three views on a text: its embedding with a few cheap features, its hashed words, and
the cheap features alone. Their logits, weighted and shifted on unseen folds, become a calibrated
chance. The same unseen folds say what a mix of models achieves, so that a promise can be checked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from memory.embed import DIMENSION
from serve.intent_views import Vocabulary

FORMAT: Final = 1
VIEWS: Final = 3
BINS: Final = 10
LEAST_WHOLE: Final = 30
"""Examples of which all models' answers are known, for fewer nothing is said of a mix of them."""
SURE: Final = 1.96  # standard errors either side of a 95 % interval
_STEPS: Final = 401
_FEATURE_WEIGHT: Final = 0.1  # beside an embedding of length 1
_FARTHEST: Final = 4.0

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

_SIGNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\\|\$|\^|=",
        r"\b(not|except|false|incorrect|least)\b",
        r"__",
        r"%",
        r"\b(II|III|IV)\b",
        r"\bstatements?\b|which of the following",
        r"\b(how|why)\b",
        r"\b(half|twice|each|every|remaining|total)\b",
    )
)
FEATURES: Final = 9 + len(_SIGNS)


def features(texts: Sequence[str]) -> Doubles:
    """Cheap features of texts, a row each, shape (n, FEATURES)."""
    return np.array([_features(text) for text in texts]).reshape(len(texts), FEATURES)


@dataclass(frozen=True, slots=True)
class Promise:
    """What choosing by `weight`, the chance of a right answer that a unit of price must buy,
    achieves on unseen examples, with its 95 % interval; `kept` when that meets the target."""

    target: float
    weight: float
    quality: float
    low: float
    high: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Mix:
    """A way to share requests out: what one of them costs on average, USD, and the share of right
    answers with its interval."""

    price: float
    quality: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scales:
    """How features are scaled: as on the examples learnt from."""

    middle: Doubles
    spread: Doubles

    def scaled(self, rows: Doubles) -> Doubles:
        """Centred, in standard deviations, none farther than four."""
        result: Doubles = np.clip((rows - self.middle) / self.spread, -_FARTHEST, _FARTHEST)
        return result


@dataclass(frozen=True, slots=True)
class Fitted:
    """The views' weights, a column for each model, the intercept last."""

    scales: Scales
    vocabulary: Vocabulary
    dense: Doubles
    words: Doubles
    plain: Doubles

    def logits(self, embeddings: NDArray[Any], texts: Sequence[str]) -> Doubles:
        """Each view's logit of each model being right, shape (n, models, VIEWS)."""
        scaled = self.scales.scaled(features(texts))
        dense = joined(embeddings, scaled) @ self.dense[:-1] + self.dense[-1]
        plain = scaled @ self.plain[:-1] + self.plain[-1]
        words = np.array([self._words(text) for text in texts]).reshape(plain.shape)
        return np.stack([dense, words, plain], axis=2)

    def _words(self, text: str) -> Doubles:
        positions, values = self.vocabulary.row(text)
        result: Doubles = values @ self.words[positions] + self.words[-1]
        return result


class QualityHead:
    """Predicts for each of `models` the chance that it answers right; see the module."""

    def __init__(
        self,
        models: Sequence[str],
        fitted: Fitted,
        weights: Doubles,
        unseen: Doubles,
        right: Flags,
        known: Flags,
        metrics: Mapping[str, Any],
    ) -> None:
        """`weights` has a row for each model, the intercept last; `unseen` are the chances of the
        examples, each predicted without it, and `right` what came of them, where that is `known`.
        What a mix of models achieves is told by the examples of which all is known."""
        self.models, self.metrics = tuple(models), metrics
        self._fitted, self._weights = fitted, weights
        whole = known.all(axis=1)
        self._unseen, self._right = unseen[whole], right[whole]
        self._edges, self._spread = _spread(unseen, right, known)
        self.promise = lru_cache(256)(self._promise)

    @classmethod
    def load(cls, folder: Path) -> "QualityHead":
        """Raises DataError when the folder holds no head of this format."""
        import json

        try:
            with np.load(folder / "quality.npz", allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
            if int(parts["format"]) != FORMAT:
                raise ValueError(f"format {parts['format']}, expected {FORMAT}")
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            return cls.of(parts, metrics)
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise DataError(str(folder), f"no quality head ({error})") from error

    @classmethod
    def of(cls, parts: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any]) -> "QualityHead":
        """A head from the arrays that quality_training writes."""
        if parts["dense"].shape[0] != DIMENSION + FEATURES + 1:
            raise ValueError(f"weights of {parts['dense'].shape[0]} rows")
        fitted = Fitted(
            Scales(parts["middle"], parts["spread"]),
            Vocabulary(parts["hashes"].astype(np.int64), parts["idf"].astype(np.float32)),
            parts["dense"].astype(np.float64),
            parts["words"].astype(np.float64),
            parts["plain"].astype(np.float64),
        )
        names = [str(name) for name in parts["models"]]
        right = parts["right"]
        known = parts.get("known", np.ones(right.shape, bool))  # earlier heads knew all
        return cls(names, fitted, parts["weights"], parts["unseen"], right, known, metrics)

    def chances(self, embeddings: NDArray[Any], texts: Sequence[str]) -> Doubles:
        """The chance of each model being right on each text, shape (n, models).

        Raises InvalidInput when there is not one embedding for each text."""
        if embeddings.shape != (len(texts), DIMENSION):
            raise InvalidInput("embeddings", embeddings.shape, f"({len(texts)}, {DIMENSION})")
        return calibrated(self._fitted.logits(embeddings, texts), self._weights)

    def uncertainty(self, chances: Doubles) -> Doubles:
        """One standard error of each chance, from unseen examples of about the same chance."""
        rows = [np.searchsorted(e, c) for e, c in zip(self._edges, chances.T, strict=True)]
        found: Doubles = np.stack([s[r] for s, r in zip(self._spread, rows, strict=True)], axis=1)
        return found

    def _promise(self, target: float, prices: tuple[float, ...]) -> Promise:
        """The cheapest mix of the models, at these prices, that meets the target on unseen
        examples; the best one, not kept, when none does or there are not LEAST_WHOLE of them."""
        if len(prices) != len(self.models):
            raise InvalidInput("prices", len(prices), f"one for each of {len(self.models)} models")
        best = Promise(target, 0.0, 0.0, 0.0, 1.0, False)
        if len(self._right) < LEAST_WHOLE:
            return best
        for weight in np.linspace(1, 0, _STEPS):
            chosen = choose(self._unseen, prices, float(weight))
            found = _achieved(target, float(weight), self._right[np.arange(len(chosen)), chosen])
            if found.kept:
                return found
            best = max(best, found, key=lambda p: p.quality)
        return best

    def curve(self, prices: Sequence[float]) -> list[Mix]:
        """What mixes of the models cost and achieve on unseen examples, the cheapest first;
        `prices` are what a request comes to on each of them. Empty for fewer than LEAST_WHOLE."""
        found: dict[float, Mix] = {}
        if len(self._right) < LEAST_WHOLE:
            return []
        for weight in np.linspace(1, 0, _STEPS):
            chosen = choose(self._unseen, tuple(prices), float(weight))
            achieved = _achieved(0.0, float(weight), self._right[np.arange(len(chosen)), chosen])
            price = float(np.array(prices)[chosen].mean())
            found[price] = Mix(price, achieved.quality, achieved.low, achieved.high)
        return [found[price] for price in sorted(found)]


def choose(chances: Doubles, prices: Sequence[float], weight: float) -> NDArray[np.intp]:
    """Which model each row takes: the highest chance after `weight` times the price, which counts
    from 0 for the cheapest to 1 for the dearest; of equals the cheaper one."""
    low, high = min(prices), max(prices)
    scaled = (np.array(prices) - low) / ((high - low) or 1.0)
    order = np.argsort(scaled, kind="stable")
    result: NDArray[np.intp] = order[(chances - weight * scaled)[:, order].argmax(axis=1)]
    return result


def calibrated(logits: Doubles, weights: Doubles) -> Doubles:
    """Chances from the views' logits, shape (n, models)."""
    total = (logits * weights[:, :-1]).sum(axis=2) + weights[:, -1]
    result: Doubles = 1 / (1 + np.exp(-np.clip(total, -30, 30)))
    return result


def joined(embeddings: NDArray[Any], scaled: Doubles) -> Doubles:
    """What the first view sees."""
    return np.hstack([embeddings.astype(np.float64), scaled * _FEATURE_WEIGHT])


def _achieved(target: float, weight: float, right: Flags) -> Promise:
    count = len(right)
    quality = float(right.mean())
    # two right and two wrong ones added: no interval of a small set is empty
    middle = (right.sum() + 2) / (count + 4)
    error = SURE * float(np.sqrt(middle * (1 - middle) / (count + 4)))
    low, high = max(0.0, quality - error), min(1.0, quality + error)
    return Promise(target, weight, quality, low, high, quality >= target)


def _spread(unseen: Doubles, right: Flags, known: Flags) -> tuple[list[Doubles], list[Doubles]]:
    """Per model: the edges between bins of equal size, and each bin's standard error."""
    edges, spread = [], []
    for model, labelled in enumerate(known.T):
        chance, answers = unseen[labelled, model], right[labelled, model]
        bins = np.array_split(np.argsort(chance), min(BINS, max(1, len(chance) // BINS)))
        edges.append(np.array([chance[b[-1]] for b in bins[:-1]]))
        share = np.array([(answers[b].sum() + 1) / (len(b) + 2) for b in bins])
        gap = np.array([answers[b].mean() - chance[b].mean() for b in bins])
        sizes = np.array([len(b) for b in bins])
        spread.append(np.sqrt(share * (1 - share) / sizes + gap**2))
    return edges, spread


def _features(text: str) -> list[float]:
    length, words = max(len(text), 1), text.split()
    numbers = re.findall(r"\d+", text)
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(words))),
        sum(map(len, words)) / max(len(words), 1),
        sum(map(len, numbers)) / length,
        float(np.log1p(len(numbers))),
        len(re.findall(r"[=+*/^<>\\]", text)) / length,
        text.count(".") / length,
        float(np.log1p(text.count("\n"))),
        sum(map(str.isupper, text)) / length,
        *(float(bool(sign.search(text))) for sign in _SIGNS),
    ]
