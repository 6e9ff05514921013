"""PURE: three views on a text's intent, and what their agreement says. NumPy only.

    kernel  kernel ridge regression on the embeddings: one score per intent; all near 0 far from
            everything known
    nearest the intents of the most similar known texts
    words   a linear classifier on hashed words, word pairs and parts of words

A weighted sum of their scores is the decision. Alone, each view's scores become probabilities by a
temperature; `evidence`, from which the confidence is computed, compares them.
"""

import itertools
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

VIEWS: Final = ("kernel", "nearest", "words")
NEIGHBOURS: Final = 15
_WIDTH: Final = 0.05  # cosine distance over which a neighbour's weight falls to 1/e
_DISPUTED_WIDTH: Final = 0.1
_FLOOR: Final = 1e-6
_SPACE: Final = 2**22  # hashes; two of some ten thousand rarely meet
_TOKEN: Final = re.compile(r"\w+")
_NUMBERED: Final = re.compile(r"_\d+\b")


def softmax(scores: NDArray[Any]) -> Floats:
    """Rows of probabilities."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Floats = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def kernel(similarity: Floats, gamma: float) -> Floats:
    """The RBF kernel of unit vectors, from their cosines."""
    result: Floats = np.exp(np.float32(gamma) * (similarity - np.float32(1)))
    return result


def nearest(similarity: Floats, labels: Ints, intents: int) -> tuple[Floats, Ints]:
    """Log share of each intent among the nearest texts by weight, and who they are, by row."""
    count = min(NEIGHBOURS, similarity.shape[1])
    who = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weight = np.exp((np.take_along_axis(similarity, who, axis=1) - 1) / _WIDTH)
    share = np.zeros((len(similarity), intents))
    rows = np.repeat(np.arange(len(similarity)), count)
    np.add.at(share, (rows, labels[who].ravel()), weight.ravel())
    share /= share.sum(axis=1, keepdims=True) + 1e-30
    return np.log(share + 1e-4).astype(np.float32), who


def grams(text: str) -> tuple[Counter[int], Counter[int]]:
    """Hashes of words and word pairs, and of the 3 to 5 letter parts of the words."""
    words = _TOKEN.findall(_NUMBERED.sub("", text.casefold()))
    wholes = [f"w{word}" for word in words]
    wholes += [f"p{one} {two}" for one, two in itertools.pairwise(words)]
    parts = [
        f"c{padded[i : i + size]}"
        for padded in (f" {word} " for word in words)
        for size in (3, 4, 5)
        for i in range(max(1, len(padded) - size + 1))
    ]
    return (
        Counter(zlib.crc32(gram.encode()) % _SPACE for gram in wholes),
        Counter(zlib.crc32(gram.encode()) % _SPACE for gram in parts),
    )


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Known hashes in rising order, and how much each weighs (inverse document frequency)."""

    hashes: Ints
    weights: Floats

    def row(self, text: str) -> tuple[Ints, Floats]:
        """Positions and values of a text; whole words and parts each make half of its length."""
        positions, values = [], []
        for counted in grams(text):
            keys = np.fromiter(counted.keys(), np.int64, len(counted))
            counts = np.fromiter(counted.values(), np.float32, len(counted))
            where = np.searchsorted(self.hashes, keys)
            where[where == len(self.hashes)] = 0
            known = self.hashes[where] == keys
            value = (1 + np.log(counts[known])) * self.weights[where[known]]
            positions.append(where[known])
            values.append(value / (np.sqrt(2 * (value**2).sum()) + 1e-12))
        return np.concatenate(positions), np.concatenate(values).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Scores:
    """Each view's raw scores (a row a text, a column an intent), the nearest known texts' positions
    and their cosines."""

    views: dict[str, Floats]
    who: Ints
    similarity: Floats


@dataclass(frozen=True, slots=True)
class Pooling:
    """How views become probabilities: together by weights, alone by temperatures."""

    weights: dict[str, float]
    temperatures: dict[str, float]

    def mixed(self, scores: Scores) -> Floats:
        """The decision's probabilities."""
        weighted = [self.weights[view] * scores.views[view] for view in VIEWS]
        return softmax(np.sum(weighted, axis=0))

    def each(self, scores: Scores) -> dict[str, Floats]:
        """Each view's own probabilities."""
        return {view: softmax(scores.views[view] * self.temperatures[view]) for view in VIEWS}


@dataclass(frozen=True, slots=True)
class Known:
    """Everything the views need; see serve.intent_training for how it is found."""

    embeddings: Floats
    labels: Ints
    alphas: Floats
    gamma: float
    vocabulary: Vocabulary
    word_weights: Floats
    word_bias: Floats

    def scores(self, embeddings: Floats, texts: list[str]) -> Scores:
        """What the views say of the texts."""
        similarity = embeddings @ self.embeddings.T
        intents = self.alphas.shape[1]
        near, who = nearest(similarity, self.labels, intents)
        words = np.empty((len(texts), intents), np.float32)
        for number, text in enumerate(texts):
            positions, values = self.vocabulary.row(text)
            words[number] = values @ self.word_weights[positions] + self.word_bias
        views = {
            "kernel": kernel(similarity, self.gamma) @ self.alphas,
            "nearest": near,
            "words": words,
        }
        return Scores(views, who, np.take_along_axis(similarity, who, axis=1))


def disputed(scores: Scores, mistaken: NDArray[np.bool_]) -> Floats:
    """The share of mistakes among the nearest known texts by weight; `mistaken` says of each known
    text whether cross-validation got it wrong, be it by a hard text or a doubtful label."""
    weight = np.exp((scores.similarity - 1) / _DISPUTED_WIDTH)
    share: Floats = (weight * mistaken[scores.who]).sum(axis=1) / weight.sum(axis=1)
    return share


def evidence(
    mixed: Floats, each: dict[str, Floats], dispute: Floats, excess: Floats
) -> NDArray[np.float64]:
    """What the confidence in the first choice is computed from, a row a text.

    `excess` is, per intent, the log of how many more mistakes it sees than its probabilities say.
    """
    rows = np.arange(len(mixed))
    top = mixed.argmax(axis=1)
    ordered = np.sort(mixed, axis=1)
    second = ordered[:, -2] if mixed.shape[1] > 1 else np.zeros(len(mixed))
    columns = [
        _logit(ordered[:, -1]),
        np.log(ordered[:, -1] + _FLOOR) - np.log(second + _FLOOR),
        excess[top],
        dispute,
    ]
    for view in VIEWS:
        columns.append(_logit(each[view][rows, top]))
        columns.append((each[view].argmax(axis=1) == top).astype(np.float64))
    return np.stack(columns, axis=1).astype(np.float64)


def novelty(scores: Scores, mixed: Floats, outside: int | None) -> NDArray[np.float64]:
    """What tells a text that belongs to no intent, a row a text. `outside` is the position of the
    label for such texts, when there are examples of them."""
    inside = np.ones(mixed.shape[1], bool)
    if outside is not None:
        inside[outside] = False
    columns = [
        -scores.views["kernel"][:, inside].max(axis=1),
        -np.sort(scores.similarity, axis=1)[:, -3:].mean(axis=1),
    ]
    if outside is not None:
        columns += [_logit(mixed[:, outside]), scores.views["kernel"][:, outside]]
    return np.stack(columns, axis=1).astype(np.float64)


def _logit(p: NDArray[Any]) -> NDArray[np.float64]:
    clipped = np.clip(p.astype(np.float64), _FLOOR, 1 - _FLOOR)
    result: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return result


def logistic(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of a logistic regression; its last weight is the intercept."""
    result: NDArray[np.float64] = 1 / (1 + np.exp(-(rows @ weights[:-1] + weights[-1])))
    return result
