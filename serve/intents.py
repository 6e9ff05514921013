"""What a customer wants: intent heads on MiniLM embeddings, with a confidence that can be trusted.

A head is a folder with `head.npz` and `metrics.json`, written by `mainspring intents train
--from FILE --out DIR` (serve/intent_training.py) and read here with NumPy alone. `confidence` is
the calibrated probability that the first choice is right, `out_of_scope` from 0 to 1 says how far
the text is from everything the head was taught; 0.5 is where it should go to a person. The gate
lets a ticket pass when tickets at least as sure were wrong no more often than the target error in
cross-validation on the training examples.

Covered: texts like the examples. Not covered: a change in what customers write; train again then.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from memory.embed import DIMENSION, Vectors
from serve.intent_views import (
    VIEWS,
    Floats,
    Known,
    Pooling,
    Vocabulary,
    disputed,
    evidence,
    logistic,
    novelty,
)

FORMAT: Final = 1
OUT_OF_SCOPE: Final = "out_of_scope"
"""The label of examples that belong to no intent."""
MAX_OUT_OF_SCOPE: Final = 0.5
_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class IntentScore:
    """One text's intent. margin is the gap between the first and the second choice's probability,
    agreement the share of the nearest known texts that have the same intent; `gate` says whether
    the head's own gate lets the text pass, and `why`."""

    intent: str
    confidence: float
    out_of_scope: float
    margin: float
    agreement: float
    gate: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Confidences from cross-validation, highest first, and whether each was right."""

    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]

    def threshold(self, target_error: float) -> float:
        """The lowest confidence above which at most this share was wrong; over 1 when none is."""
        if not 0 <= target_error <= 1:
            raise InvalidInput("target_error", target_error, "a share between 0 and 1")
        wrong = np.cumsum(~self.right) / np.arange(1, len(self.right) + 1)
        # a threshold lets equal confidences pass together, so only the last of them can be one
        last = np.append(self.confidence[1:] < self.confidence[:-1], True)
        allowed = np.flatnonzero((wrong <= target_error) & last)
        return float(self.confidence[allowed[-1]]) if len(allowed) else 2.0


class IntentHead:
    """A trained head. Thread-safe: it only reads."""

    def __init__(self, known: Known, parts: dict[str, NDArray[Any]], metrics: dict[str, Any]):
        self.metrics = metrics
        self.intents: tuple[str, ...] = tuple(str(name) for name in parts["intents"])
        self._known = known
        self._pooling = Pooling(
            dict(zip(VIEWS, parts["pooling"].tolist(), strict=True)),
            dict(zip(VIEWS, parts["temperatures"].tolist(), strict=True)),
        )
        self._mistaken = parts["mistaken"].astype(bool)
        self._excess = parts["excess"].astype(np.float32)
        self._confidence = parts["confidence_weights"].astype(np.float64)
        self._novelty = parts["novelty_weights"].astype(np.float64)
        self._outside = self.intents.index(OUT_OF_SCOPE) if OUT_OF_SCOPE in self.intents else None
        self.curve = Curve(parts["curve"].astype(np.float64), parts["curve_right"].astype(bool))
        self.threshold = float(metrics["gate"]["threshold"])

    @classmethod
    def load(cls, folder: Path) -> "IntentHead":
        """Read a head. Raises DataError when it is missing, damaged or of another format."""
        try:
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            with np.load(folder / "head.npz", allow_pickle=False) as stored:
                parts = {name: stored[name] for name in stored.files}
            if int(parts["format"]) != FORMAT:
                raise DataError(str(folder), f"format {parts['format']}, expected {FORMAT}")
            return cls(_known(parts), parts, metrics)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(str(folder), f"not an intent head ({error})") from error

    def classify(self, embeddings: Vectors, texts: Sequence[str]) -> list[IntentScore]:
        """One score a text, in order; row n of `embeddings` belongs to text n."""
        if embeddings.shape != (len(texts), DIMENSION):
            expected = f"the shape ({len(texts)}, {DIMENSION})"
            raise InvalidInput("embeddings", embeddings.shape, expected)
        found: list[IntentScore] = []
        for start in range(0, len(texts), _ROWS):
            part = slice(start, start + _ROWS)
            found += self._classify(embeddings[part].astype(np.float32), list(texts[part]))
        return found

    def _classify(self, embeddings: Floats, texts: list[str]) -> list[IntentScore]:
        scores = self._known.scores(embeddings, texts)
        mixed = self._pooling.mixed(scores)
        dispute = disputed(scores, self._mistaken)
        proof = evidence(mixed, self._pooling.each(scores), dispute, self._excess)
        confidence = logistic(proof, self._confidence)
        outside = logistic(novelty(scores, mixed, self._outside), self._novelty)
        top = mixed.argmax(axis=1)
        ordered = np.sort(mixed, axis=1)
        agreement = (self._known.labels[scores.who] == top[:, None]).mean(axis=1)
        found = []
        for row, intent in enumerate(top):
            score = IntentScore(
                intent=self.intents[intent],
                confidence=float(confidence[row]),
                out_of_scope=float(outside[row]),
                margin=float(ordered[row, -1] - ordered[row, -2]),
                agreement=float(agreement[row]),
            )
            found.append(_gated(score, self.threshold))
        return found

    def gate(self, score: IntentScore, target_error: float) -> tuple[bool, str]:
        """Whether the text may pass unseen by a person when at most `target_error` of those that
        pass may have a wrong intent; and why."""
        gated = _gated(score, self.curve.threshold(target_error))
        return gated.gate, gated.why


def _gated(score: IntentScore, threshold: float) -> IntentScore:
    shown = f"confidence {score.confidence:.3f}"
    if score.intent == OUT_OF_SCOPE or score.out_of_scope > MAX_OUT_OF_SCOPE:
        passes, why = False, f"out of scope with {score.out_of_scope:.2f}"
    elif threshold > 1:
        passes, why = False, "no confidence is high enough for the target error"
    elif score.confidence < threshold:
        passes, why = False, f"{shown}, below {threshold:.3f}"
    else:
        passes, why = True, f"{shown}, at least {threshold:.3f}"
    return IntentScore(
        score.intent, score.confidence, score.out_of_scope, score.margin, score.agreement,
        passes, why,
    )  # fmt: skip


def _known(parts: dict[str, NDArray[Any]]) -> Known:
    labels = parts["labels"].astype(np.int64)
    known = Known(
        embeddings=parts["embeddings"].astype(np.float32),
        labels=labels,
        alphas=parts["alphas"].astype(np.float32),
        gamma=float(parts["gamma"]),
        vocabulary=Vocabulary(parts["hashes"].astype(np.int64), parts["idf"].astype(np.float32)),
        word_weights=parts["word_weights"].astype(np.float32),
        word_bias=parts["word_bias"].astype(np.float32),
    )
    count, intents = len(labels), len(parts["intents"])
    shapes = {
        "embeddings": (known.embeddings.shape, (count, DIMENSION)),
        "alphas": (known.alphas.shape, (count, intents)),
        "mistaken": (parts["mistaken"].shape, (count,)),
        "word_weights": (known.word_weights.shape, (len(known.vocabulary.hashes), intents)),
    }
    for name, (found, expected) in shapes.items():
        if found != expected:
            raise ValueError(f"{name} has shape {found}, expected {expected}")
    return known
