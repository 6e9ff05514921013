"""What the semantic drift of a thread tells: `make bench-drift ARGS="--data DIR"`.

DIR holds banking77/ and clinc150/. Two questions of one intent stand for a thread that keeps to its
matter, two of different intents, or of the two sets, for one that has moved away from it. No model
is trained; the bound is the policy's (`refund-drifted`).
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.gating import read_csv
from benchmarks.report import Figure, write
from memory.embed import MiniLM, Vectors

BOUND: Final = 0.8
_MOST: Final = 1_500
_SEED: Final = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with both sets")
    data = parser.parse_args().data
    clinc, banking = (
        _clinc(data / "clinc150"),
        _chosen(read_csv(data / "banking77" / "test.csv.gz")),
    )
    model = MiniLM()
    figures: list[Figure] = []
    vectors: list[Vectors] = []
    for name, (texts, labels) in (("CLINC150", clinc), ("Banking77", banking)):
        encoded = _unit(model.encode(texts))
        vectors.append(encoded)
        one, two = _pairs(encoded, np.array(labels))
        figures += [
            _beyond(f"{name}: pairs of one intent", one),
            _beyond(f"{name}: pairs of two intents", two),
        ]
    across = (1 - vectors[0] @ vectors[1].T).ravel()
    figures.append(_beyond("pairs with a question of each set", across))
    return write("drift", figures, load=f"{_MOST} test questions of each set, all pairs")


def _pairs(vectors: Vectors, labels: NDArray[np.str_]) -> tuple[Vectors, Vectors]:
    """The distances of pairs of one intent, and of two."""
    upper = np.triu_indices(len(labels), 1)
    apart = (1 - vectors @ vectors.T)[upper]
    same = (labels[:, None] == labels[None])[upper]
    return apart[same], apart[~same]


def _beyond(name: str, apart: Vectors) -> Figure:
    """The share of these pairs that policy would ask about; they are not independent."""
    return Figure(f"{name}, share beyond {BOUND}", round(float((apart > BOUND).mean()), 4))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _chosen(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    order = np.random.default_rng(_SEED).permutation(len(pairs))[:_MOST]
    return [pairs[i][0] for i in order], [pairs[i][1] for i in order]


def _clinc(folder: Path) -> tuple[list[str], list[str]]:
    with gzip.open(folder / "data_full.json.gz", "rt", encoding="utf-8") as file:
        return _chosen([(text, label) for text, label in json.load(file)["test"]])


if __name__ == "__main__":
    sys.exit(main())
