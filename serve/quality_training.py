"""Train a quality head from requests of which is known which models answered them right.

Every figure comes from cross-validation: each example is judged by views that never saw it. Needs
scikit-learn; a trained head does not.
"""

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from memory.embed import MiniLM
from serve.intent_fitting import logistic_fit, matrix_of, vocabulary_of
from serve.quality import (
    FORMAT,
    VIEWS,
    Doubles,
    Fitted,
    Flags,
    QualityHead,
    Scales,
    calibrated,
    features,
    joined,
)
from serve.quality_metrics import described

LEAST_EXAMPLES: Final = 40
LEAST_OF_MODEL: Final = 20
MAX_EXAMPLES: Final = 50_000
_FOLDS: Final = 5
_SUFFIX: Final = "_correct"
_STRENGTHS: Final = (1.0, 1.0, 0.03)  # of the views' fits: dense, words, plain


@dataclass(frozen=True, slots=True)
class Examples:
    """Requests and which of `models` answered them right, shape (n, models). `known` says where
    that is known, in the same shape; None: everywhere."""

    models: tuple[str, ...]
    texts: list[str]
    right: Flags
    known: Flags | None = None

    @property
    def labelled(self) -> Flags:
        """Where there is a label."""
        return np.ones(self.right.shape, bool) if self.known is None else self.known

    def taken(self, rows: NDArray[Any]) -> "Examples":
        """Only these rows."""
        texts = [self.texts[i] for i in rows]
        return Examples(self.models, texts, self.right[rows], self.labelled[rows])


def read_examples(source: Path, names: dict[str, str] | None = None) -> Examples:
    """The examples of a JSONL file, also gzipped: `prompt`, and `NAME_correct` true or false for
    each model, null where that is not known; `names` renames them. Raises DataError that names the
    line and the field."""
    opened = gzip.open if source.suffix == ".gz" else open
    try:
        with opened(source, "rt", encoding="utf-8") as file:
            rows = [_row(source, n, line) for n, line in enumerate(file, 1) if line.strip()]
    except (OSError, EOFError, UnicodeError) as error:
        raise DataError(str(source), f"no examples ({error})") from error
    if not rows:
        raise DataError(str(source), "it holds no example")
    models = tuple(rows[0][1])
    for number, (_, right) in enumerate(rows, 1):
        if tuple(right) != models:
            raise DataError(f"{source}, example {number}", f"fields {[*right]}, before {[*models]}")
    renamed = tuple((names or {}).get(m, m) for m in models)
    labels = [[*right.values()] for _, right in rows]
    known = np.array([[label is not None for label in row] for row in labels])
    return Examples(renamed, [t for t, _ in rows], np.array(labels).astype(bool), known)


def train_to(out: Path, examples: Examples, seed: int = 0) -> dict[str, Any]:
    """Train and write the head to `out`; the metrics."""
    head, parts = train(examples, MiniLM().encode(examples.texts), seed)
    write(out, parts, head.metrics)
    return dict(head.metrics)


def train(
    examples: Examples, embeddings: NDArray[Any], seed: int = 0
) -> tuple[QualityHead, dict[str, NDArray[Any]]]:
    """A head and the arrays it is stored as. Same seed, same head. Raises InvalidInput for fewer
    than two models, or too few or too many examples."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    _check(examples, embeddings)
    # on a busy machine two BLAS threads wait for each other and take ten times as long as one
    with threadpool_limits(1):
        logits = _unseen_logits(examples, embeddings, seed)
        unseen = _unseen_chances(logits, examples, seed)
        fitted = _fitted(examples, embeddings)
        weights = _weights(logits, examples)
    parts: dict[str, NDArray[Any]] = {
        "format": np.array(FORMAT),
        "models": np.array(examples.models),
        "middle": fitted.scales.middle,
        "spread": fitted.scales.spread,
        "hashes": fitted.vocabulary.hashes.astype(np.int32),
        "idf": fitted.vocabulary.weights,
        "dense": fitted.dense,
        "words": fitted.words.astype(np.float32),
        "plain": fitted.plain,
        "weights": weights,
        "unseen": unseen,
        "right": examples.right,
        "known": examples.labelled,
    }
    metrics = described(examples.models, unseen, examples.right, examples.labelled)
    return QualityHead.of(parts, metrics), parts


def write(out: Path, parts: dict[str, Any], metrics: Any) -> None:
    """Store a head; whoever reads meanwhile sees the old or the new arrays, never half."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / "quality.part.npz"
    np.savez_compressed(temporary, **parts)
    os.replace(temporary, out / "quality.npz")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _row(source: Path, number: int, line: str) -> tuple[str, dict[str, bool | None]]:
    where = f"{source}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(where, "not a JSON object")
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(where, f"prompt is {prompt!r:.80}, expected a text")
    right = {k.removesuffix(_SUFFIX): v for k, v in sorted(row.items()) if k.endswith(_SUFFIX)}
    for name, value in right.items():
        if not isinstance(value, bool | None):
            raise DataError(
                where, f"{name}{_SUFFIX} is {value!r:.80}, expected true, false or null"
            )
    if len(right) < 2:
        raise DataError(where, f"fields NAME{_SUFFIX} of {len(right)} models, expected two or more")
    return prompt, right


def _check(examples: Examples, embeddings: NDArray[Any]) -> None:
    count = len(examples.texts)
    if not LEAST_EXAMPLES <= count <= MAX_EXAMPLES:
        raise InvalidInput("examples", count, f"{LEAST_EXAMPLES} to {MAX_EXAMPLES}")
    for model, labels in zip(examples.models, examples.labelled.sum(axis=0), strict=True):
        if labels < LEAST_OF_MODEL:
            raise InvalidInput("examples", f"{labels} of {model}", f"{LEAST_OF_MODEL} or more")
    if len(embeddings) != count:
        raise InvalidInput("embeddings", len(embeddings), f"one for each of {count} examples")


def _fitted(examples: Examples, embeddings: NDArray[Any]) -> Fitted:
    rows = features(examples.texts)
    scales = Scales(rows.mean(axis=0), rows.std(axis=0) + 1e-9)
    scaled = scales.scaled(rows)
    vocabulary = vocabulary_of(examples.texts)
    seen = (joined(embeddings, scaled), matrix_of(vocabulary, examples.texts), scaled)
    labels = [*zip(examples.right.T, examples.labelled.T, strict=True)]
    views = [
        np.stack([_linear(part[known], right[known], strength) for right, known in labels], axis=1)
        for part, strength in zip(seen, _STRENGTHS, strict=True)
    ]
    return Fitted(scales, vocabulary, *views)


def _linear(rows: Any, answers: Flags, strength: float) -> Doubles:
    """Weights of a logistic regression, the intercept last."""
    from sklearn.linear_model import LogisticRegression

    if answers.all() or not answers.any():  # nothing to tell apart: the rule of succession
        share = (answers.sum() + 1) / (len(answers) + 2)
        return np.append(np.zeros(rows.shape[1]), np.log(share / (1 - share)))
    model = LogisticRegression(C=strength, max_iter=500).fit(rows, answers)
    return np.append(model.coef_[0], model.intercept_[0])


def _folds(count: int, seed: int) -> Any:
    from sklearn.model_selection import KFold

    return KFold(_FOLDS, shuffle=True, random_state=seed).split(np.zeros(count))


def _unseen_logits(examples: Examples, embeddings: NDArray[Any], seed: int) -> Doubles:
    logits = np.zeros((*examples.right.shape, VIEWS))
    for taught, unseen in _folds(len(logits), seed):
        fitted = _fitted(examples.taken(taught), embeddings[taught])
        logits[unseen] = fitted.logits(embeddings[unseen], [examples.texts[i] for i in unseen])
    return logits


def _weights(logits: Doubles, examples: Examples) -> Doubles:
    """How the mean of the views becomes a chance: three equal weights and a shift for a model."""
    rows = []
    for model, (right, known) in enumerate(zip(examples.right.T, examples.labelled.T, strict=True)):
        found = logits[known, model].mean(axis=1, keepdims=True)
        slope, shift = logistic_fit(found, right[known])
        rows.append([*[slope / VIEWS] * VIEWS, shift])
    return np.array(rows)


def _unseen_chances(logits: Doubles, examples: Examples, seed: int) -> Doubles:
    """Each example's chances by a calibration that did not see it."""
    found = np.zeros(examples.right.shape)
    for taught, unseen in _folds(len(found), seed + 1):
        found[unseen] = calibrated(logits[unseen], _weights(logits[taught], examples.taken(taught)))
    return found
