"""How well the reference checkpoints do their job: `make bench-reference`.

Chats of the corpus's test split, whose templates and words training never saw, answered by vLLM as
a CPU engine of the profile would (greedy, no grammar) and judged by `serve.distill.judge`. Speed is
that of both models on the same core with the same batch of the same prompts, one after the other.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from scipy import stats  # type: ignore[import-untyped]

from benchmarks.report import Figure, write
from serve.catalog import resolve_source
from serve.distill.corpus import SPLITS, TASKS, Example, examples
from serve.distill.judge import BAD, failed, judge
from serve.distill.sampling import Prompt, answers

# Figure, in words, and the target of each model that has one.
PROMISES: Final = (
    ("json_valid", "JSON valid without a grammar", {"planner": 0.99, "routine": 0.99}),
    ("plan_right", "right tool and order of the whole plan", {"planner": 0.97}),
    ("arguments_right", "slots and arguments exactly right", {"planner": 0.97, "routine": 0.97}),
    ("facts_copied", "facts copied right", {"planner": 0.98, "routine": 0.97}),
    ("ungrounded", "replies with a fact in no evidence", {"planner": 0.005, "routine": 0.01}),
    ("asks_or_refuses", "asks or escalates", {"planner": 0.97, "routine": 0.95}),
    ("summary_keeps", "summary keeps all", {"routine": 0.95}),
)
# Without a promise: which of them were written to the letter, and what else is known of them.
REPORTED: Final = ("intent_right", "supported", "garbled", "exact")
FASTER: Final = 3.0
TOKENS_PER_S: Final = 300.0
_SEED: Final = 2_000_003
_SPEED_TOKENS: Final = 64
_SPEED_ROUNDS: Final = 4  # batches, so that the last one to start is no large part of it


@dataclass(frozen=True)
class Answered:
    """An example, what the model wrote, and the figures of that."""

    example: Example
    answer: str
    figures: dict[str, bool]

    def row(self, model: str) -> dict[str, Any]:
        """The line of `--examples`."""
        return {
            "model": model, "kind": self.example.kind, "failed": failed(self.figures),
            "expected": self.example.answer, "written": self.answer,
            "messages": self.example.messages,
        }  # fmt: skip


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    models = [given.only] if given.only else list(TASKS)
    folders = {m: _folder(m, given.checkpoints) for m in models}
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for model, folder in folders.items():
        asked = drawn(model, given.split, given.count, given.seed)
        sampled = answers(folder, _prompts(asked), core=given.core, batch=given.batch)
        answered = [
            Answered(e, text, judge(e, text)) for e, text in zip(asked, sampled.texts, strict=True)
        ]
        figures += [*promised(model, answered), *reported(model, answered)]
        details[model] = {
            "kinds": by_kind(answered), "too long": sampled.refused,
            "tokens": sampled.tokens, "seconds": round(sampled.seconds, 1),
        }  # fmt: skip
        _print_kinds(model, details[model]["kinds"])
        if given.examples:
            _keep(given.examples, model, answered, fresh=model == models[0])
    figures += _speeds(folders, given.core, given.batch)
    return write(
        "reference", figures, details=details,
        load=f"{given.count} chats of the {given.split} split for each model, temperature 0, "
        f"batch {given.batch} on one core; speed: {_SPEED_ROUNDS * given.batch} drafts, "
        f"{_SPEED_TOKENS} tokens each",
    )  # fmt: skip


def drawn(model: str, split: str, count: int, seed: int = _SEED) -> list[Example]:
    """`count` examples of `model`, none twice; fewer when the split has no more to give."""
    unique: dict[str, Example] = {}
    for example in islice(examples(model, split, seed), 20 * count):
        unique.setdefault(json.dumps([example.messages, example.tools]), example)
        if len(unique) == count:
            break
    return list(unique.values())


def promised(model: str, answered: Sequence[Answered]) -> list[Figure]:
    """The figures of `model` that have a target. One that no example tells of is missed."""
    return [
        _share(f"{model}: {words}", name, answered, targets[model])
        for name, words, targets in PROMISES
        if model in targets
    ]


def reported(model: str, answered: Sequence[Answered]) -> list[Figure]:
    """Figures without a target, of those that apply to some example."""
    applying = {name for a in answered for name in a.figures}
    return [
        _share(f"{model}: {name.replace('_', ' ')}", name, answered)
        for name in REPORTED
        if name in applying
    ]


def _share(
    words: str, name: str, answered: Sequence[Answered], target: float | None = None
) -> Figure:
    values = [a.figures[name] for a in answered if name in a.figures]
    sense: Any = "at most" if name in BAD else "at least"
    if not values:
        return Figure(words, float(name in BAD), target, sense, 0, (0.0, 1.0))
    found = stats.binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    interval = (float(found.low), float(found.high))
    return Figure(words, sum(values) / len(values), target, sense, len(values), interval)


def by_kind(answered: Sequence[Answered]) -> dict[str, dict[str, list[int]]]:
    """For each kind and figure: how often it is true, and of how many."""
    counts: Counter[tuple[str, str, bool]] = Counter(
        (a.example.kind, name, value) for a in answered for name, value in a.figures.items()
    )
    found: dict[str, dict[str, list[int]]] = {}
    for kind, name in sorted({key[:2] for key in counts}):
        true, false = counts[kind, name, True], counts[kind, name, False]
        found.setdefault(kind, {})[name] = [true, true + false]
    return found


def _speeds(folders: dict[str, Path], core: str, batch: int) -> list[Figure]:
    prompts = _prompts(list(islice(_drafts(), _SPEED_ROUNDS * batch)))
    speeds = {
        model: answers(
            folder, prompts, core=core, batch=batch, max_tokens=_SPEED_TOKENS, whole=True
        ).tokens_per_s
        for model, folder in folders.items()
    }
    figures = [
        Figure(f"{model}: tokens/s, batch of {batch}", round(speed, 1), TOKENS_PER_S, "at least")
        for model, speed in speeds.items()
    ]
    if set(TASKS) <= set(speeds):
        times = speeds["routine"] / speeds["planner"]
        figures.append(Figure("routine is faster, times", round(times, 2), FASTER, "at least"))
    return figures


def _drafts() -> Iterator[Example]:
    # Drafts: what both models are asked for.
    return (e for e in examples("routine", "test", _SEED + 1) if e.kind == "draft")


def _prompts(asked: Sequence[Example]) -> list[Prompt]:
    return [Prompt(e.messages, e.tools) for e in asked]


def _folder(model: str, checkpoints: Path | None) -> Path:
    return checkpoints / model if checkpoints else Path(resolve_source(f"checkpoint:{model}"))


def _keep(path: Path, model: str, answered: Sequence[Answered], *, fresh: bool) -> None:
    with path.open("w" if fresh else "a", encoding="utf-8") as file:
        for one in answered:
            file.write(json.dumps(one.row(model), ensure_ascii=False) + "\n")


def _print_kinds(model: str, kinds: dict[str, dict[str, list[int]]]) -> None:
    for kind, figures in kinds.items():
        shown = ", ".join(f"{name} {true}/{count}" for name, (true, count) in figures.items())
        print(f"{model} {kind}: {shown}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.reference")
    parser.add_argument("--count", type=int, default=1000, help="chats for each model")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--only", choices=TASKS, help="just this model")
    parser.add_argument("--checkpoints", type=Path, help="folder with planner/ and routine/")
    parser.add_argument("--examples", type=Path, help="write every chat and answer to this JSONL")
    parser.add_argument("--seed", type=int, default=_SEED, help="which chats are drawn")
    parser.add_argument("--core", default="0", help="the core that the engine may use")
    parser.add_argument("--batch", type=int, default=32, help="sequences at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
