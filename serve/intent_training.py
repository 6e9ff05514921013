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
from serve.intent_fitting import fitted_views, logistic_fit, pooling_weights, temperature
from serve.intent_views import (
    NEIGHBOURS,
    VIEWS,
    Floats,
    Ints,
    Known,
    Pooling,
    Scores,
    disputed,
    evidence,
    logistic,
    novelty,
)
from serve.intents import FORMAT, OUT_OF_SCOPE, Curve

MAX_EXAMPLES: Final = 20_000  # the kernel takes 4 bytes times their square
_FOLDS: Final = 5
_LEAST: Final = 4  # examples of an intent
_NOVEL_SHARE: Final = 0.01  # of the examples; where the score is 0.5 without examples of outsiders

Example = tuple[str, str]
Doubles = NDArray[np.float64]


def train_from_file(
    source: Path, out: Path, seed: int = 0, more: Sequence[Example] = ()
) -> dict[str, Any]:
    """Train from a file and write the head to `out`; the metrics. `more` are examples to learn from
    but not to be judged by. Raises DataError for a file that holds no examples."""
    examples = read_examples(source)
    known = set(examples)
    extra = [example for example in more if example not in known]
    embeddings = MiniLM().encode([text for text, _ in [*examples, *extra]])
    return train(examples, embeddings, out, seed, extra)


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
    """What cross-validation says: `scores` of each example by views that never saw it. `mistaken`
    has a place for every row learnt from; those that are not judged count as right."""

    scores: Scores
    pooling: Pooling
    mixed: Floats
    right: NDArray[np.bool_]
    mistaken: NDArray[np.bool_]

    def evidence(self, excess: Floats) -> Doubles:
        """The evidence for each example, see intent_views."""
        dispute = disputed(self.scores, self.mistaken)
        return evidence(self.mixed, self.pooling.each(self.scores), dispute, excess)


@dataclass(frozen=True, slots=True)
class Taught:
    """Everything to learn from; the first `judged` rows are also what the head is judged by."""

    texts: list[str]
    embeddings: Floats
    labels: Ints
    intents: list[str]
    judged: int

    def fitted(self, rows: Ints) -> Known:
        """The views, taught by these rows."""
        return fitted_views(
            [self.texts[i] for i in rows],
            self.embeddings[rows],
            self.labels[rows],
            len(self.intents),
        )


def train(
    examples: Sequence[Example],
    embeddings: Vectors,
    out: Path,
    seed: int = 0,
    extra: Sequence[Example] = (),
) -> dict[str, Any]:
    """Train on the examples and write the head; the metrics. Same seed, same head.

    `extra` are learnt from but judge nothing; `embeddings` has a row for each example, then for
    each extra one. Raises InvalidInput for fewer than two intents or fewer than 4 examples of one.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    taught = _taught(examples, extra, embeddings)
    # on a busy machine two BLAS threads wait for each other and take ten times as long as one
    with threadpool_limits(1):
        return _train(taught, out, seed)


def _train(taught: Taught, out: Path, seed: int) -> dict[str, Any]:
    intents, labels = taught.intents, taught.labels[: taught.judged]
    outside = intents.index(OUT_OF_SCOPE) if OUT_OF_SCOPE in intents else None
    judged = _judge(taught, seed)
    excess = _excess(judged.mixed, judged.right)
    confidence = _unseen_confidence(judged, seed)
    weights = logistic_fit(judged.evidence(excess), judged.right)
    novel = novelty(judged.scores, judged.mixed, outside)
    strange, novel_weights = _novelty_fit(novel, labels, outside, seed)
    order = np.argsort(-confidence, kind="stable")
    curve = Curve(confidence[order], judged.right[order])
    metrics = measure.described(
        intents, labels, judged.mixed, judged.right, confidence, curve, strange, outside
    )
    metrics["learnt_from"] = len(taught.labels)
    parts = {
        "intents": np.array(intents),
        "pooling": np.array([judged.pooling.weights[view] for view in VIEWS]),
        "temperatures": np.array([judged.pooling.temperatures[view] for view in VIEWS]),
        "mistaken": judged.mistaken,
        "excess": excess,
        "confidence_weights": weights,
        "novelty_weights": novel_weights,
        "curve": curve.confidence.astype(np.float32),
        "curve_right": curve.right,
    }
    _write(out, taught.fitted(np.arange(len(taught.labels))), parts, metrics)
    return metrics


def _taught(examples: Sequence[Example], extra: Sequence[Example], embeddings: Vectors) -> Taught:
    together = [*examples, *extra]
    if embeddings.shape != (len(together), DIMENSION):
        expected = f"the shape ({len(together)}, {DIMENSION})"
        raise InvalidInput("embeddings", embeddings.shape, expected)
    if len(together) > MAX_EXAMPLES:
        raise InvalidInput("examples", len(together), f"at most {MAX_EXAMPLES}")
    counts = Counter(intent for _, intent in examples)
    if len(counts) < 2:
        raise InvalidInput("examples", sorted(counts), "at least two intents")
    few = {intent: count for intent, count in counts.items() if count < _LEAST}
    if few:
        raise InvalidInput("examples", few, f"at least {_LEAST} of every intent")
    if unknown := {intent for _, intent in extra} - set(counts):
        raise InvalidInput("extra examples", sorted(unknown), "intents of the examples")
    intents = sorted(counts)
    return Taught(
        [text for text, _ in together],
        # as they will be stored, so that what is measured is what will run
        embeddings.astype(np.float16).astype(np.float32),
        np.array([intents.index(intent) for _, intent in together], np.int64),
        intents,
        len(examples),
    )


def _judge(data: Taught, seed: int) -> Judged:
    labels = data.labels[: data.judged]
    beside = np.arange(data.judged, len(data.labels))
    views = {view: np.zeros((len(labels), len(data.intents)), np.float32) for view in VIEWS}
    # the smallest part to learn from: a tiny set may hold fewer texts than neighbours asked for
    near = min(NEIGHBOURS, *(len(taught) for taught, _ in _folds(labels, seed)))
    who = np.zeros((len(labels), near), np.int64)
    similarity = np.zeros((len(labels), near), np.float32)
    for taught, unseen in _folds(labels, seed):
        rows = np.concatenate([taught, beside])
        texts = [data.texts[i] for i in unseen]
        found = data.fitted(rows).scores(data.embeddings[unseen], texts)
        for view in VIEWS:
            views[view][unseen] = found.views[view]
        who[unseen] = rows[found.who[:, :near]]
        similarity[unseen] = found.similarity[:, :near]
    scores = Scores(views, who, similarity)
    temperatures = {view: temperature(views[view], labels) for view in VIEWS}
    pooling = Pooling(pooling_weights(scores, temperatures, labels), temperatures)
    mixed = pooling.mixed(scores)
    right = mixed.argmax(axis=1) == labels
    mistaken = np.concatenate([~right, np.zeros(len(beside), bool)])
    return Judged(scores, pooling, mixed, right, mistaken)


def _folds(labels: Ints, seed: int) -> Iterable[tuple[Ints, Ints]]:
    from sklearn.model_selection import StratifiedKFold

    count = min(_FOLDS, int(np.bincount(labels).min()))
    folds = StratifiedKFold(count, shuffle=True, random_state=seed)
    result: Iterable[tuple[Ints, Ints]] = folds.split(np.zeros(len(labels)), labels)
    return result


def _excess(mixed: Floats, right: NDArray[np.bool_]) -> Floats:
    """Per intent, the log of mistakes seen over mistakes expected, both with two added."""
    top, sure = mixed.argmax(axis=1), mixed.max(axis=1)
    count = mixed.shape[1]
    seen = np.bincount(top, weights=~right, minlength=count)
    expected = np.bincount(top, weights=1 - sure, minlength=count)
    result: Floats = np.log((seen + 2) / (expected + 2)).astype(np.float32)
    return result


def _unseen_confidence(judged: Judged, seed: int) -> Doubles:
    """Each example's confidence by a calibration that did not see it."""
    found = np.zeros(len(judged.right))
    for taught, unseen in _folds_of(judged.right, seed + 1):
        excess = _excess(judged.mixed[taught], judged.right[taught])
        part = judged.evidence(excess)
        found[unseen] = logistic(part[unseen], logistic_fit(part[taught], judged.right[taught]))
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
            found[unseen] = logistic(rows[unseen], logistic_fit(rows[taught], strange[taught]))
        return found, logistic_fit(rows, strange)
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
