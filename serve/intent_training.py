"""Train an intent head from labelled examples, and say how good it is.

Every figure and every threshold comes from cross-validation on the examples: each is judged by
views that never saw it, and its confidence by a calibration that never saw it either. Needs
scikit-learn; a trained head does not.
"""

import csv
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from memory.embed import DIMENSION, MiniLM, Vectors
from serve import intent_metrics as measure
from serve.intent_views import (
    NEIGHBOURS,
    VIEWS,
    Floats,
    Ints,
    Known,
    Pooling,
    Scores,
    Vocabulary,
    disputed,
    evidence,
    grams,
    kernel,
    logistic,
    novelty,
    softmax,
)
from serve.intents import FORMAT, OUT_OF_SCOPE, Curve

GAMMA: Final = 2.0
RIDGE: Final = 0.1
_FOLDS: Final = 5
_LEAST: Final = 4  # examples of an intent
_NOVEL_SHARE: Final = 0.01  # of the examples; where the score is 0.5 without examples of outsiders

Example = tuple[str, str]
Doubles = NDArray[np.float64]


def train_from_file(source: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Train from a file and write the head to `out`; the metrics. Raises DataError for a file that
    holds no examples."""
    examples = read_examples(source)
    return train(examples, MiniLM().encode([text for text, _ in examples]), out, seed)


def read_examples(source: Path) -> list[Example]:
    """The (text, intent) of each row, without repetitions."""
    opened = gzip.open if source.suffix == ".gz" else open
    try:
        with opened(source, "rt", encoding="utf-8", newline="") as file:
            if ".csv" in source.suffixes:
                found = [(row["text"], row["category"]) for row in csv.DictReader(file)]
            else:
                rows = [json.loads(line) for line in file if line.strip()]
                found = [(row["text"], row["intent"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(str(source), f"no labelled examples ({error!r})") from error
    return list(dict.fromkeys((str(text), str(intent)) for text, intent in found))


@dataclass(frozen=True, slots=True)
class Judged:
    """What cross-validation says: `scores` of each example by views that never saw it."""

    scores: Scores
    pooling: Pooling
    mixed: Floats
    right: NDArray[np.bool_]

    def evidence(self, excess: Floats) -> Doubles:
        """The evidence for each example, see intent_views."""
        dispute = disputed(self.scores, ~self.right)
        return evidence(self.mixed, self.pooling.each(self.scores), dispute, excess)


def train(
    examples: Sequence[Example], embeddings: Vectors, out: Path, seed: int = 0
) -> dict[str, Any]:
    """Train on the examples and write the head; the metrics. Same seed, same head.

    Raises InvalidInput for fewer than two intents or fewer than 4 examples of one.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    intents, labels = _labelled(examples, embeddings)
    # on a busy machine two BLAS threads wait for each other and take ten times as long as one
    with threadpool_limits(1):
        return _train(examples, embeddings, intents, labels, out, seed)


def _train(
    examples: Sequence[Example],
    embeddings: Vectors,
    intents: list[str],
    labels: Ints,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    texts = [text for text, _ in examples]
    # as they will be stored, so that what is measured is what will run
    stored = embeddings.astype(np.float16).astype(np.float32)
    outside = intents.index(OUT_OF_SCOPE) if OUT_OF_SCOPE in intents else None
    judged = _judge(texts, stored, labels, len(intents), seed)
    excess = _excess(judged.mixed, judged.right)
    confidence = _unseen_confidence(judged, seed)
    weights = _logistic_fit(judged.evidence(excess), judged.right)
    novel = novelty(judged.scores, judged.mixed, outside)
    strange, novel_weights = _novelty_fit(novel, labels, outside, seed)
    order = np.argsort(-confidence, kind="stable")
    curve = Curve(confidence[order], judged.right[order])
    metrics = measure.described(
        intents, labels, judged.mixed, judged.right, confidence, curve, strange, outside
    )
    known = _fitted(texts, stored, labels, len(intents))
    parts = {
        "intents": np.array(intents),
        "pooling": np.array([judged.pooling.weights[view] for view in VIEWS]),
        "temperatures": np.array([judged.pooling.temperatures[view] for view in VIEWS]),
        "mistaken": ~judged.right,
        "excess": excess,
        "confidence_weights": weights,
        "novelty_weights": novel_weights,
        "curve": curve.confidence.astype(np.float32),
        "curve_right": curve.right,
    }
    _write(out, known, parts, metrics)
    return metrics


def _labelled(examples: Sequence[Example], embeddings: Vectors) -> tuple[list[str], Ints]:
    if embeddings.shape != (len(examples), DIMENSION):
        expected = f"the shape ({len(examples)}, {DIMENSION})"
        raise InvalidInput("embeddings", embeddings.shape, expected)
    counts = Counter(intent for _, intent in examples)
    if len(counts) < 2:
        raise InvalidInput("examples", sorted(counts), "at least two intents")
    few = {intent: count for intent, count in counts.items() if count < _LEAST}
    if few:
        raise InvalidInput("examples", few, f"at least {_LEAST} of every intent")
    intents = sorted(counts)
    return intents, np.array([intents.index(intent) for _, intent in examples], np.int64)


def _judge(texts: list[str], embeddings: Floats, labels: Ints, count: int, seed: int) -> Judged:
    views = {view: np.zeros((len(labels), count), np.float32) for view in VIEWS}
    # the smallest part to learn from: a tiny set may hold fewer texts than neighbours asked for
    near = min(NEIGHBOURS, *(len(taught) for taught, _ in _folds(labels, seed)))
    who = np.zeros((len(labels), near), np.int64)
    similarity = np.zeros((len(labels), near), np.float32)
    for taught, unseen in _folds(labels, seed):
        known = _fitted([texts[i] for i in taught], embeddings[taught], labels[taught], count)
        found = known.scores(embeddings[unseen], [texts[i] for i in unseen])
        for view in VIEWS:
            views[view][unseen] = found.views[view]
        who[unseen] = taught[found.who[:, :near]]
        similarity[unseen] = found.similarity[:, :near]
    scores = Scores(views, who, similarity)
    temperatures = {view: _temperature(views[view], labels) for view in VIEWS}
    pooling = Pooling(_weights(scores, temperatures, labels), temperatures)
    mixed = pooling.mixed(scores)
    return Judged(scores, pooling, mixed, mixed.argmax(axis=1) == labels)


def _folds(labels: Ints, seed: int) -> Iterable[tuple[Ints, Ints]]:
    from sklearn.model_selection import StratifiedKFold

    count = min(_FOLDS, int(np.bincount(labels).min()))
    folds = StratifiedKFold(count, shuffle=True, random_state=seed)
    result: Iterable[tuple[Ints, Ints]] = folds.split(np.zeros(len(labels)), labels)
    return result


def _fitted(texts: list[str], embeddings: Floats, labels: Ints, count: int) -> Known:
    from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]

    matrix = kernel(embeddings @ embeddings.T, GAMMA)
    matrix[np.diag_indices(len(matrix))] += RIDGE
    factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    alphas = cho_solve(factor, np.eye(count, dtype=np.float32)[labels], check_finite=False)
    vocabulary = _vocabulary(texts)
    weights, bias = _words_fit(vocabulary, texts, labels, count)
    return Known(
        embeddings=embeddings,
        labels=labels,
        alphas=alphas.astype(np.float16).astype(np.float32),
        gamma=GAMMA,
        vocabulary=vocabulary,
        word_weights=weights.astype(np.float16).astype(np.float32),
        word_bias=bias,
    )


def _vocabulary(texts: list[str]) -> Vocabulary:
    """The grams of at least two texts: what one customer wrote once teaches nothing."""
    seen: Counter[int] = Counter()
    for text in texts:
        wholes, parts = grams(text)
        seen.update(wholes.keys() | parts.keys())
    frequent = sorted(key for key, number in seen.items() if number >= 2)
    counts = np.array([seen[key] for key in frequent], np.float64)
    weights = np.log((1 + len(texts)) / (1 + counts)) + 1
    hashes = np.array(frequent or [0], np.int64)
    return Vocabulary(hashes, (weights if frequent else np.ones(1)).astype(np.float32))


def _words_fit(
    vocabulary: Vocabulary, texts: list[str], labels: Ints, count: int
) -> tuple[Floats, Floats]:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
    from sklearn.svm import LinearSVC

    rows = [vocabulary.row(text) for text in texts]
    starts = np.cumsum([0, *(len(positions) for positions, _ in rows)])
    matrix = csr_matrix(
        (np.concatenate([v for _, v in rows]), np.concatenate([p for p, _ in rows]), starts),
        shape=(len(texts), len(vocabulary.hashes)),
    )
    model = LinearSVC(C=0.5, random_state=0).fit(matrix, labels)
    weights, bias = model.coef_.T, model.intercept_
    if count == 2:  # one column stands for both
        weights, bias = np.hstack([-weights, weights]), np.array([-bias[0], bias[0]])
    return weights.astype(np.float32), bias.astype(np.float32)


def _temperature(scores: Floats, labels: Ints) -> float:
    """The factor that makes softmax(factor x scores) as likely as possible."""
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    rows = np.arange(len(labels))

    def surprise(power: float) -> float:
        likely = softmax(scores * np.float32(np.exp(power)))[rows, labels]
        return float(-np.log(likely + 1e-12).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-4, 6), method="bounded").x))


def _weights(scores: Scores, temperatures: dict[str, float], labels: Ints) -> dict[str, float]:
    """The weights under which the views together find the labels most likely."""
    from scipy.optimize import minimize

    rows = np.arange(len(labels))

    def named(powers: Doubles) -> dict[str, float]:
        return dict(zip(VIEWS, np.exp(powers).tolist(), strict=True))

    def surprise(powers: Doubles) -> float:
        likely = Pooling(named(powers), temperatures).mixed(scores)[rows, labels]
        return float(-np.log(likely + 1e-12).mean())

    start = np.log([temperatures[view] / len(VIEWS) for view in VIEWS])
    limits = {"maxiter": 150, "xatol": 0.02, "fatol": 1e-5}
    return named(minimize(surprise, start, method="Nelder-Mead", options=limits).x)


def _excess(mixed: Floats, right: NDArray[np.bool_]) -> Floats:
    """Per intent, the log of mistakes seen over mistakes expected, both with two added."""
    top, sure = mixed.argmax(axis=1), mixed.max(axis=1)
    count = mixed.shape[1]
    seen = np.bincount(top, weights=~right, minlength=count)
    expected = np.bincount(top, weights=1 - sure, minlength=count)
    result: Floats = np.log((seen + 2) / (expected + 2)).astype(np.float32)
    return result


def _logistic_fit(rows: Doubles, answers: NDArray[np.bool_]) -> Doubles:
    from sklearn.linear_model import LogisticRegression

    if answers.all() or not answers.any():  # nothing to tell apart: the rule of succession
        share = (answers.sum() + 1) / (len(answers) + 2)
        return np.append(np.zeros(rows.shape[1]), np.log(share / (1 - share)))
    # scaled for the fit only, so that the penalty means the same for every column
    middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=1000).fit((rows - middle) / spread, answers)
    weights = model.coef_[0] / spread
    return np.append(weights, model.intercept_[0] - weights @ middle)


def _unseen_confidence(judged: Judged, seed: int) -> Doubles:
    """Each example's confidence by a calibration that did not see it."""
    found = np.zeros(len(judged.right))
    for taught, unseen in _folds_of(judged.right, seed + 1):
        excess = _excess(judged.mixed[taught], judged.right[taught])
        part = judged.evidence(excess)
        found[unseen] = logistic(part[unseen], _logistic_fit(part[taught], judged.right[taught]))
    return found


def _folds_of(answers: NDArray[np.bool_], seed: int) -> Iterable[tuple[Ints, Ints]]:
    from sklearn.model_selection import KFold

    result: Iterable[tuple[Ints, Ints]] = KFold(_FOLDS, shuffle=True, random_state=seed).split(
        answers
    )
    return result


def _novelty_fit(
    rows: Doubles, labels: Ints, outside: int | None, seed: int
) -> tuple[Doubles, Doubles]:
    """Each example's out-of-scope score by a fit that did not see it, and the weights for use."""
    if outside is not None:
        strange = labels == outside
        found = np.zeros(len(labels))
        for taught, unseen in _folds_of(strange, seed + 1):
            found[unseen] = logistic(rows[unseen], _logistic_fit(rows[taught], strange[taught]))
        return found, _logistic_fit(rows, strange)
    # without outsiders to learn from: 0.5 where only a hundredth of the examples is stranger
    far = rows / (rows.std(axis=0) + 1e-9)
    total = far.sum(axis=1)
    edge = float(np.quantile(total, 1 - _NOVEL_SHARE))
    weights = np.append(2 / (rows.std(axis=0) + 1e-9), -2 * edge)
    return logistic(rows, weights), weights


def _write(
    out: Path, known: Known, parts: dict[str, NDArray[Any]], metrics: dict[str, Any]
) -> None:
    arrays: dict[str, Any] = dict(
        format=np.array(FORMAT),
        embeddings=known.embeddings.astype(np.float16),
        labels=known.labels.astype(np.int16),
        alphas=known.alphas.astype(np.float16),
        gamma=np.array(known.gamma),
        hashes=known.vocabulary.hashes.astype(np.int32),
        idf=known.vocabulary.weights.astype(np.float16),
        word_weights=known.word_weights.astype(np.float16),
        word_bias=known.word_bias,
        **parts,
    )
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "head.part.npz"
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, out / "head.npz")
    text = json.dumps(metrics, indent=2, ensure_ascii=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
