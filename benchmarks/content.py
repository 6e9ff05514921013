"""What the content workflow does with its evaluation set: `make bench-content`.

Each case of `agents/workflows/content/evaluation.yaml` is one run on a desk of its own: real
policy, real desk, and the routine model of a live stack (`--url`, or one that is started here;
`--no-model` composes everything).

What is counted: runs that told just the facts that fit and ended as they must; outlines that were
right as the model wrote them; statements of the published texts with a word or a value that is in
no such fact; texts that were composed because the model's did not hold.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.progress import track

from agents.chat import Chat, HttpChat
from agents.evaluation import cases
from agents.packs import load
from agents.rehearsal import Script
from agents.workflows.content.evaluation import Told, tried
from benchmarks.report import Figure, write
from benchmarks.stacks import stack

NAME: Final = "content"
RIGHT, INVENTED, LONGEST_S = 0.95, 0.005, 60.0


def figures(told: Sequence[Told]) -> list[Figure]:
    """The figures of these cases."""
    count, said = len(told), sum(t.statements for t in told)
    parts = [by for t in told for by in t.by]
    return [
        Figure("plans right", sum(not t.wrong for t in told) / count, RIGHT, "at least", count),
        Figure("outlines right as the model wrote them", sum(t.outlined for t in told) / count,
               count=count),
        Figure("statements with something of their own", sum(len(t.strange) for t in told) / said,
               INVENTED, "at most", said),
        Figure("texts composed instead of written",
               sum(by != "model" for by in parts) / len(parts), count=len(parts)),
        Figure("the longest run, s", max(t.seconds for t in told), LONGEST_S, "at most"),
    ]  # fmt: skip


async def _all(chat: Chat) -> list[Told]:
    told: list[Told] = []
    for case in track(cases(load([NAME])[NAME]), "cases"):
        with tempfile.TemporaryDirectory() as folder:
            told.append(await tried(case, Path(folder), chat))
    return told


@contextmanager
def _chat(given: argparse.Namespace) -> Iterator[Chat]:
    if given.no_model:
        yield Script(["NO_ANSWER"])
    elif given.url:
        yield HttpChat(f"{given.url}/v1")
    else:
        with tempfile.TemporaryDirectory() as folder, stack(Path(folder)) as running:
            yield HttpChat(f"{running.url}/v1")


def main() -> int:
    """Try every case, and tell."""
    parser = argparse.ArgumentParser(prog="make bench-content", description=__doc__)
    parser.add_argument("--url", default="", help="a running stack's address, without /v1")
    parser.add_argument("--no-model", action="store_true", help="compose everything")
    parser.add_argument("--examples", type=Path, help="write every case's problems to this JSONL")
    given = parser.parse_args()
    with _chat(given) as chat:
        told = asyncio.run(_all(chat))
    for one in told:
        for what in [one.wrong, *one.strange]:
            if what:
                print(f"{one.topic}: {what}")
    if given.examples:
        rows = [json.dumps({"topic": t.topic, "by": t.by, "problems": t.problems}) for t in told]
        given.examples.write_text("\n".join(rows) + "\n", encoding="utf-8")
    model = "no model" if given.no_model else "the routine model"
    return write(NAME, figures(told), load=f"{len(told)} runs one after the other, {model}")


if __name__ == "__main__":
    sys.exit(main())
