"""Fits what serve.intent_views computes with. Needs scikit-learn and SciPy."""

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve.intent_views import (
    VIEWS,
    Floats,
    Ints,
    Known,
    Pooling,
    Scores,
    Vocabulary,
    grams,
    kernel,
    softmax,
)

GAMMA: Final = 2.0
RIDGE: Final = 0.1

Doubles = NDArray[np.float64]


def fitted_views(texts: list[str], embeddings: Floats, labels: Ints, count: int) -> Known:
    """The views, taught by texts and the positions of their intents among `count`."""
    from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]

    matrix = kernel(embeddings @ embeddings.T, GAMMA)
    matrix[np.diag_indices(len(matrix))] += RIDGE
    factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    alphas = cho_solve(factor, np.eye(count, dtype=np.float32)[labels], check_finite=False)
    vocabulary = vocabulary_of(texts)
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


def vocabulary_of(texts: list[str]) -> Vocabulary:
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


def matrix_of(vocabulary: Vocabulary, texts: list[str]) -> Any:
    """The texts' rows as a SciPy matrix."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    rows = [vocabulary.row(text) for text in texts]
    starts = np.cumsum([0, *(len(positions) for positions, _ in rows)])
    return csr_matrix(
        (np.concatenate([v for _, v in rows]), np.concatenate([p for p, _ in rows]), starts),
        shape=(len(texts), len(vocabulary.hashes)),
    )


def _words_fit(
    vocabulary: Vocabulary, texts: list[str], labels: Ints, count: int
) -> tuple[Floats, Floats]:
    from sklearn.svm import LinearSVC

    matrix = matrix_of(vocabulary, texts)
    model = LinearSVC(C=0.5, random_state=0).fit(matrix, labels)
    weights, bias = model.coef_.T, model.intercept_
    if count == 2:  # one column stands for both
        weights, bias = np.hstack([-weights, weights]), np.array([-bias[0], bias[0]])
    return weights.astype(np.float32), bias.astype(np.float32)


def temperature(scores: Floats, labels: Ints) -> float:
    """The factor that makes softmax(factor x scores) as likely as possible."""
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    rows = np.arange(len(labels))

    def surprise(power: float) -> float:
        likely = softmax(scores * np.float32(np.exp(power)))[rows, labels]
        return float(-np.log(likely + 1e-12).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-4, 6), method="bounded").x))


def pooling_weights(
    scores: Scores, temperatures: dict[str, float], labels: Ints
) -> dict[str, float]:
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


def logistic_fit(rows: Doubles, answers: NDArray[np.bool_]) -> Doubles:
    """Weights for serve.intent_views.logistic; the last is the intercept."""
    from sklearn.linear_model import LogisticRegression

    if answers.all() or not answers.any():  # nothing to tell apart: the rule of succession
        share = (answers.sum() + 1) / (len(answers) + 2)
        return np.append(np.zeros(rows.shape[1]), np.log(share / (1 - share)))
    # scaled for the fit only, so that the penalty means the same for every column
    middle, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=1000).fit((rows - middle) / spread, answers)
    weights = model.coef_[0] / spread
    return np.append(weights, model.intercept_[0] - weights @ middle)
