"""How much the intent gate lets pass and how often it is wrong: `python -m benchmarks.gating --data
DIR`.

Trains on the published train split, takes the gate from cross-validation on that split, and judges
the published test split once. The peer is a logistic regression on the same embeddings with its
highest probability as the confidence and its gate found by the same rule. CLINC150 adds texts that
belong to no intent (its own out-of-scope examples teach the head what that looks like).
"""

import argparse
import csv
import gzip
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Figure, write
from memory.embed import MiniLM, Vectors
from serve.intent_metrics import LEAST_AUTOMATED, MOST_WRONG, QUEUE, auroc, calibration_error
from serve.intent_metrics import recommended as recommended_gate
from serve.intent_training import train
from serve.intents import MAX_OUT_OF_SCOPE, OUT_OF_SCOPE, Curve, IntentHead

TARGET_MS: Final = 15.0
_DRAWS: Final = 200
_TIMED: Final = 300

Example = tuple[str, str]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """A gate's doing on the test split: what passed, and which first choices were right."""

    passed: Flags
    right: Flags

    @property
    def automated(self) -> float:
        return float(self.passed.mean())

    @property
    def wrong(self) -> float:
        return float((~self.right[self.passed]).mean()) if self.passed.any() else 0.0

    def promise_kept(self, seed: int = 0) -> float:
        """The share of 200 draws of 500 tickets in which both halves of the promise hold."""
        rng = np.random.default_rng(seed)
        kept = 0
        for _ in range(_DRAWS):
            drawn = rng.choice(len(self.passed), QUEUE, replace=False)
            part = Outcome(self.passed[drawn], self.right[drawn])
            kept += part.automated >= LEAST_AUTOMATED and part.wrong <= MOST_WRONG
        return kept / _DRAWS

    def counts(self) -> dict[str, int]:
        return {
            "tickets": len(self.passed),
            "passed": int(self.passed.sum()),
            "wrong": int((self.passed & ~self.right).sum()),
        }


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gating")
    parser.add_argument("--data", type=Path, required=True, help="folder with banking77/")
    parser.add_argument("--no-clinc", action="store_true", help="leave out CLINC150 (minutes)")
    given = parser.parse_args()
    if not (given.data / "banking77" / "train.csv.gz").is_file():
        print(f"skipped: {given.data} holds no banking77/train.csv.gz", file=sys.stderr)
        return 1
    model = MiniLM(cached=0)
    figures, details, peers = _banking(model, given.data / "banking77")
    clinc = given.data / "clinc150" / "data_full.json.gz"
    if clinc.is_file() and not given.no_clinc:
        more, details["clinc150"] = _clinc(model, clinc)
        figures += more
    return write(
        "gating", figures, load="Banking77 test split, 3,080 tickets", peers=peers, details=details
    )


def _banking(model: MiniLM, folder: Path) -> tuple[list[Figure], dict[str, Any], dict[str, Any]]:
    taught, asked = read_csv(folder / "train.csv.gz"), read_csv(folder / "test.csv.gz")
    taught = list(dict.fromkeys(taught))
    known = model.encode([text for text, _ in taught])
    vectors = model.encode([text for text, _ in asked])
    head, seconds = _head(taught, known)
    texts = [text for text, _ in asked]
    scores = head.classify(vectors, texts)
    right = np.array([s.intent == label for s, (_, label) in zip(scores, asked, strict=True)])
    ours = Outcome(np.array([s.gate for s in scores]), right)
    confidence = np.array([s.confidence for s in scores])
    peer = _logistic_peer(taught, known, asked, vectors)
    figures = [
        Figure("Banking77 accuracy, all tickets", float(right.mean())),
        Figure("Banking77 automated", ours.automated, LEAST_AUTOMATED, "at least"),
        Figure("Banking77 wrong among automated", ours.wrong, MOST_WRONG, "at most"),
        Figure("draws of 500 that keep both", ours.promise_kept()),
        Figure("calibration error, test", calibration_error(confidence, right)),
        Figure("embed and classify one ticket, CPU ms", _ms(model, head, texts), TARGET_MS),
        Figure("training, s", seconds),
        Figure("peer: accuracy, all tickets", float(peer.right.mean())),
        Figure("peer: automated", peer.automated),
        Figure("peer: wrong among automated", peer.wrong),
        Figure("peer: draws of 500 that keep both", peer.promise_kept()),
    ]
    details = {"banking77": ours.counts(), "gate": head.metrics["gate"]}
    return figures, details, {"logistic regression, highest probability": peer.counts()}


def read_csv(path: Path) -> list[Example]:
    """The texts of a split of Banking77, each with its intent."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def _head(taught: list[Example], embeddings: Vectors) -> tuple[IntentHead, float]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gating-") as folder:
        train(taught, embeddings, Path(folder))
        return IntentHead.load(Path(folder)), round(time.monotonic() - began, 1)


def _ms(model: MiniLM, head: IntentHead, texts: list[str]) -> float:
    """CPU time of one ticket at a time on one BLAS thread: what waits for other work on a busy
    machine is not counted."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        began = time.process_time()
        for text in texts[:_TIMED]:
            head.classify(model.encode([text]), [text])
        return 1000 * (time.process_time() - began) / _TIMED


def _logistic_peer(
    taught: list[Example], known: Vectors, asked: list[Example], vectors: Vectors
) -> Outcome:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    labels = np.array([label for _, label in taught])
    model = LogisticRegression(C=30, max_iter=1000)
    unseen = cross_val_predict(model, known, labels, cv=5, method="predict_proba")
    model.fit(known, labels)
    sure = unseen.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    right = model.classes_[unseen.argmax(axis=1)] == labels
    threshold = recommended_gate(Curve(sure[order], right[order]))["threshold"]
    found = model.predict_proba(vectors)
    chosen = model.classes_[found.argmax(axis=1)]
    truth = np.array([label for _, label in asked])
    return Outcome(found.max(axis=1) >= threshold, chosen == truth)


def _clinc(model: MiniLM, path: Path) -> tuple[list[Figure], dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        data: dict[str, list[list[str]]] = json.load(file)
    taught = [(text, label) for text, label in data["train"]]
    taught += [(text, OUT_OF_SCOPE) for text, _ in data["oos_train"]]
    asked = [text for text, _ in data["test"] + data["oos_test"]]
    inside = np.arange(len(asked)) < len(data["test"])
    head, _ = _head(taught, model.encode([text for text, _ in taught]))
    scores = head.classify(model.encode(asked), asked)
    strange = np.array([s.out_of_scope for s in scores])
    truth = [label for _, label in data["test"]]
    right = np.array([s.intent == label for s, label in zip(scores, truth, strict=False)])
    passed = np.array([s.gate for s in scores])
    flagged = strange > MAX_OUT_OF_SCOPE
    figures = [
        Figure("CLINC150 accuracy in scope", float(right.mean())),
        Figure("CLINC150 out-of-scope AUROC", auroc(strange, ~inside)),
        Figure("CLINC150 automated, in scope", float(passed[inside].mean())),
        Figure("CLINC150 wrong among those", float((~right[passed[inside]]).mean())),
        Figure("CLINC150 outsiders that pass", float(passed[~inside].mean())),
    ]
    details = {
        "in_scope": int(inside.sum()), "right": int(right.sum()),
        "in_scope_passed": int(passed[inside].sum()), "outsiders": int((~inside).sum()),
        "outsiders_passed": int(passed[~inside].sum()),
        "outsiders_found": int(flagged[~inside].sum()),
        "false_alarms": int(flagged[inside].sum()),
    }  # fmt: skip
    return figures, details


if __name__ == "__main__":
    sys.exit(main())
