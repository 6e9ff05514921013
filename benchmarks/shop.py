"""What the shop's workflow does with its evaluation set: `make bench-shop`.

Each case of `agents/workflows/shop/evaluation.yaml` is one run on a shop of its own: real policy,
real desk, and the routine model of a live stack (`--url`, or one that is started here; `--no-model`
leaves the model out). What is counted: runs that did the right writes in order and ended as they
must, and copy with a value that is in no attribute.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.progress import track

from agents.chat import Chat, HttpChat
from agents.evaluation import cases
from agents.packs import load
from agents.rehearsal import Script
from agents.workflows.shop.evaluation import Told, tried
from benchmarks.report import Figure, write
from benchmarks.stacks import stack

NAME: Final = "shop"
RIGHT, INVENTED = 0.95, 0.005


async def _all(chat: Chat) -> list[Told]:
    told: list[Told] = []
    for case in track(cases(load([NAME])[NAME]), "cases"):
        with tempfile.TemporaryDirectory() as folder:
            told.append(await tried(case, Path(folder), chat))
    return told


@contextmanager
def _chat(given: argparse.Namespace) -> Iterator[Chat]:
    if given.no_model:
        yield Script([])
    elif given.url:
        yield HttpChat(f"{given.url}/v1")
    else:
        with tempfile.TemporaryDirectory() as folder, stack(Path(folder)) as running:
            yield HttpChat(f"{running.url}/v1")


def main() -> int:
    """Try every case, and tell."""
    parser = argparse.ArgumentParser(prog="make bench-shop", description=__doc__)
    parser.add_argument("--url", default="", help="a running stack's address, without /v1")
    parser.add_argument("--no-model", action="store_true", help="leave the model out")
    given = parser.parse_args()
    with _chat(given) as chat:
        told = asyncio.run(_all(chat))
    for one in told:
        if one.wrong or one.invented:
            print(f"{one.task}: {one.name}: {one.wrong or 'a value that is in no attribute'}")
    copies = [one for one in told if one.task == "copy"]
    count = len(told)
    figures = [
        Figure("plans right", sum(not t.wrong for t in told) / count, RIGHT, "at least", count),
        Figure("copy with a value of its own", sum(bool(t.invented) for t in copies) / len(copies),
               INVENTED, "at most", len(copies)),
        Figure("copy without the model's lead", sum(t.composed for t in copies) / len(copies),
               count=len(copies)),
    ]  # fmt: skip
    model = "no model" if given.no_model else "the routine model"
    return write("shop", figures, load=f"{count} runs one after the other, {model}")


if __name__ == "__main__":
    sys.exit(main())
