"""How well the quality head spends a stronger model, on questions with known answers.

    python -m benchmarks.routing --data FOLDER [--protocol tenth|subjects|cv] [--seeds 6]

FOLDER holds `*.jsonl.gz` files of `prompt`, `subject`, `weak_correct` and `strong_correct`. A file
of several subjects is measured by `tenth` (learn from a tenth of the questions, judged on the rest)
and `subjects` (learn from half of the subjects, judged on the others), one of a single subject by
`cv` (5 folds). APGR is 0.5 by chance. What is trained and asked is the product's own head.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, Figure, write
from memory.embed import MiniLM
from serve.quality import QualityHead, choose
from serve.quality_metrics import Doubles, apgr, cpt, recovered
from serve.quality_training import Examples, read_examples, train

TARGETS: Final = {"tenth": 0.66, "subjects": 0.58, "cv": 0.64}
PROMISES: Final = (0.80, 0.90, 0.95)
_TIMED: Final = 200
_PRICES: Final = (1.0, 0.0)  # strong, weak: the fields in the order of their names
_SHARES: Final = np.linspace(0, 1, 201)

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Questions:
    """A file's examples (strong first), their subjects and embeddings."""

    name: str
    examples: Examples
    subjects: NDArray[Any]
    embeddings: NDArray[Any]

    @property
    def protocols(self) -> tuple[str, ...]:
        return ("tenth", "subjects") if len(set(self.subjects)) > 1 else ("cv",)


@dataclass(frozen=True)
class Outcome:
    """One seed: recovered gap by the share sent up, and by a linear head on the embedding; what was
    promised (target, kept, interval) and achieved."""

    ours: Doubles
    linear: Doubles
    promises: list[dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of *.jsonl.gz files")
    parser.add_argument("--protocol", choices=sorted(TARGETS), help="default: all that fit")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--embeddings", type=Path, help="a folder to keep embeddings in")
    options = parser.parse_args(arguments)
    files = sorted(options.data.glob("*.jsonl.gz"))
    if not files:
        print(f"skipped: no *.jsonl.gz in {options.data}")
        return 0
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for file in files:
        asked = _questions(file, options.embeddings)
        for protocol in asked.protocols:
            if options.protocol in (None, protocol):
                outcomes = [_outcome(asked, protocol, seed) for seed in range(options.seeds)]
                name = f"{asked.name} {protocol}"
                figures += _figures(name, protocol, outcomes)
                details[name] = _details(asked, outcomes)
                print(name, "done", flush=True)
    if not details:
        print(f"skipped: no file in {options.data} fits the protocol {options.protocol}")
        return 0
    figures += _times(asked)
    options.out.mkdir(parents=True, exist_ok=True)
    _draw(details, options.out / "routing_curves.png")
    load = f"{options.seeds} seeds; intervals are of the mean over seeds, 95 %"
    return write("routing", figures, load=load, details=details, folder=options.out)


def _questions(file: Path, kept: Path | None) -> Questions:
    examples = read_examples(file)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        subjects = np.array([json.loads(line).get("subject", "") for line in lines if line.strip()])
    name = file.name.removesuffix(".jsonl.gz")
    store = None if kept is None else kept / f"{name}.npy"
    if store is not None and store.is_file():
        return Questions(name, examples, subjects, np.load(store))
    embeddings = MiniLM(cached=0).encode(examples.texts)
    if store is not None:
        store.parent.mkdir(parents=True, exist_ok=True)
        np.save(store, embeddings)
    return Questions(name, examples, subjects, embeddings)


def _splits(asked: Questions, protocol: str, seed: int) -> Iterator[tuple[Rows, Rows]]:
    rng, count = np.random.default_rng(seed), len(asked.subjects)
    if protocol == "tenth":
        order = rng.permutation(count)
        yield order[: count // 10], order[count // 10 :]
    elif protocol == "subjects":
        shuffled = rng.permutation(sorted(set(asked.subjects)))
        known = np.isin(asked.subjects, shuffled[: len(shuffled) // 2])
        yield np.flatnonzero(known), np.flatnonzero(~known)
    else:
        folds = np.array_split(rng.permutation(count), 5)
        for fold in folds:
            yield np.setdiff1d(np.arange(count), fold), fold


def _outcome(asked: Questions, protocol: str, seed: int) -> Outcome:
    right = asked.examples.right
    ours, linear = np.full(len(right), np.nan), np.full(len(right), np.nan)
    promises = []
    for taught, unseen in _splits(asked, protocol, seed):
        head, _ = train(asked.examples.taken(taught), asked.embeddings[taught], seed)
        texts = [asked.examples.texts[i] for i in unseen]
        chances = head.chances(asked.embeddings[unseen], texts)
        ours[unseen] = chances[:, 0] - chances[:, 1]
        linear[unseen] = _linear(asked, taught, unseen)
        promises += [_kept(head, chances, right[unseen], target) for target in PROMISES]
    rows = np.flatnonzero(~np.isnan(ours))
    strong, weak = right[rows].T
    return Outcome(
        recovered(ours[rows], weak, strong), recovered(linear[rows], weak, strong), promises
    )


def _linear(asked: Questions, taught: Rows, unseen: Rows) -> Doubles:
    from sklearn.linear_model import Ridge

    strong, weak = asked.examples.right[taught].astype(float).T
    model = Ridge(alpha=3.0).fit(asked.embeddings[taught], strong - weak)
    result: Doubles = model.predict(asked.embeddings[unseen])
    return result


def _kept(head: QualityHead, chances: Doubles, right: Any, target: float) -> dict[str, float]:
    promise = head.promise(target, _PRICES)
    chosen = choose(chances, _PRICES, promise.weight)
    return {
        "target": target, "promised": float(promise.kept), "low": promise.low,
        "high": promise.high, "expected": promise.quality, "calls": float((chosen == 0).mean()),
        "achieved": float(right[np.arange(len(chosen)), chosen].mean()),
    }  # fmt: skip


def _figures(name: str, protocol: str, outcomes: list[Outcome]) -> list[Figure]:
    figures = [
        _mean(f"{name} APGR", [apgr(o.ours) for o in outcomes], TARGETS[protocol]),
        _mean(f"{name} APGR, linear on MiniLM", [apgr(o.linear) for o in outcomes]),
    ]
    figures += [
        _mean(f"{name} CPT({share:.0%})", [cpt(o.ours, share) for o in outcomes])
        for share in (0.5, 0.8)
    ]
    for target in PROMISES:
        found = [p for o in outcomes for p in o.promises if p["target"] == target]
        made = [p for p in found if p["promised"]]
        figures.append(Figure(f"{name} quality {target:.2f}: promised", len(made) / len(found)))
        if made:
            figures.append(_mean(f"{name} quality {target:.2f}: achieved", _of(made, "achieved")))
            inside = np.mean([p["low"] <= p["achieved"] <= p["high"] for p in made])
            figures.append(Figure(f"{name} quality {target:.2f}: within interval", float(inside)))
    return figures


def _mean(name: str, values: list[float], target: float | None = None) -> Figure:
    middle = float(np.mean(values))
    error = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    interval = (middle - error, middle + error)
    return Figure(name, middle, target, "at least", count=len(values), interval=interval)


def _of(rows: list[dict[str, float]], field: str) -> list[float]:
    return [row[field] for row in rows]


def _details(asked: Questions, outcomes: list[Outcome]) -> dict[str, Any]:
    strong, weak = asked.examples.right.T
    oracle = recovered(strong.astype(float) - weak, weak, strong)
    return {
        "questions": len(strong), "strong": float(strong.mean()), "weak": float(weak.mean()),
        "apgr": [apgr(o.ours) for o in outcomes], "oracle_apgr": apgr(oracle), "random_apgr": 0.5,
        "promises": [p for o in outcomes for p in o.promises],
        "curve": np.mean([_at(o.ours) for o in outcomes], axis=0).tolist(),
        "linear_curve": np.mean([_at(o.linear) for o in outcomes], axis=0).tolist(),
        "oracle_curve": _at(oracle).tolist(),
    }  # fmt: skip


def _at(curve: Doubles) -> Doubles:
    return np.interp(_SHARES, np.linspace(0, 1, len(curve)), curve)


def _times(asked: Questions) -> list[Figure]:
    """One decision at a time, with its embedding, on one core."""
    rows = np.arange(min(len(asked.subjects), 600))
    head, _ = train(asked.examples.taken(rows), asked.embeddings[rows])
    model, taken = MiniLM(cached=0), []
    head.promise(0.9, _PRICES)
    for text in asked.examples.texts[:_TIMED]:
        began = time.perf_counter()
        choose(
            head.chances(model.encode([text]), [text]), _PRICES, head.promise(0.9, _PRICES).weight
        )
        taken.append(1000 * (time.perf_counter() - began))
    return [
        Figure("decision with embedding, p50, ms", float(np.percentile(taken, 50)), 10.0),
        Figure("decision with embedding, p99, ms", float(np.percentile(taken, 99)), 25.0),
    ]


def _draw(details: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawing, panels = plt.subplots(1, len(details), figsize=(5 * len(details), 4), squeeze=False)
    for axes, (name, found) in zip(panels[0], details.items(), strict=True):
        lines = {"Mainspring": "curve", "linear": "linear_curve", "oracle": "oracle_curve"}
        gap = found["strong"] - found["weak"]
        for label, field in lines.items():
            axes.plot(_SHARES, found["weak"] + gap * np.array(found[field]), label=label)
        axes.plot([0, 1], [found["weak"], found["strong"]], "--", label="random")
        axes.set(title=name, xlabel="share sent to the stronger model", ylabel="answered right")
        axes.legend()
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


if __name__ == "__main__":
    sys.exit(main())
