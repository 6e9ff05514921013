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
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml
from rich.progress import track

from agents.chat import Chat, HttpChat
from agents.grounding import STOCK
from agents.packs import load
from agents.rehearsal import Rehearsal, Script
from agents.workflows.content.brief import OPENINGS
from agents.workflows.content.evidence import facts_of
from benchmarks.report import Figure, write
from benchmarks.stacks import stack

NAME: Final = "content"
RIGHT, INVENTED, LONGEST_S = 0.95, 0.005, 60.0
_WORD: Final = re.compile(r"[^\W\d_]{4,}|\d+(?:[.,:]\d+)*")


@dataclass(frozen=True)
class Told:
    """What a case came to: `wrong` says what was expected instead, "" when it is right; `strange`
    are the statements with something of their own, of `statements`; `by` says who wrote each text
    and `outlined` whether the model's own outline was right."""

    topic: str
    wrong: str
    outlined: bool
    strange: tuple[str, ...]
    statements: int
    by: tuple[str, ...]
    seconds: float
    problems: tuple[str, ...] = ()


def cases() -> list[dict[str, Any]]:
    """The evaluation set."""
    (pack,) = load([NAME]).values()
    found = yaml.safe_load((pack.folder / "evaluation.yaml").read_text("utf-8"))
    return list(found["cases"])


async def tried(case: dict[str, Any], folder: Path, chat: Chat) -> Told:
    """Do one case in an empty folder."""
    (pack,) = load([NAME]).values()
    text = "\n".join(f"- {line}" for line in mixed(case))
    rehearsal = Rehearsal(pack, folder, chat=chat)
    given: dict[str, Any] = {
        n: case[n] for n in ("topic", "audience", "tone", "about") if n in case
    }
    began = time.perf_counter()
    run = await rehearsal.run({**given, "text": text})
    seconds = time.perf_counter() - began
    rehearsal.desk.close()
    decision, result = (run.ended.decision, run.ended.result) if run.ended else ("waits", {})
    outline = result.get("outline", {"points": [], "by": "", "added": []})
    facts = {fact.id: fact.text for fact in facts_of(text)[0]}
    chosen = [facts[point["fact"]] for point in outline["points"]]
    texts = run.phases["texts"]
    said = [p["text"] for s in texts["sections"] for p in s["passages"]]
    said += [post["text"] for post in texts["posts"].values()]
    return Told(
        case["topic"], _wrong(case, decision, chosen),
        outline["by"] == "model" and not outline["added"] and not _wrong(case, decision, chosen),
        tuple(s for s in said if strange(s, case)) if decision == "published" else (), len(said),
        (*(s["by"] for s in texts["sections"]), *(p["by"] for p in texts["posts"].values())),
        seconds, tuple(result.get("problems", ())),
    )  # fmt: skip


def mixed(case: dict[str, Any]) -> list[str]:
    """The lines of a brief in an order that its topic makes."""
    lines = [*case["fit"], *case["not"]]
    Random(case["topic"]).shuffle(lines)
    return lines


def strange(text: str, case: dict[str, Any]) -> list[str]:
    """The longer words and the values of a text that are in no fact which fits, in no opening and
    in no polite letter. Stricter than the check that the workflow makes."""
    known = {w.lower() for fact in case["fit"] for w in _WORD.findall(fact)}
    known |= {w.lower() for w in _WORD.findall(OPENINGS[case["tone"]])}
    return [w for w in _WORD.findall(text) if w.lower() not in known | STOCK]


def _wrong(case: dict[str, Any], decision: str, chosen: Sequence[str]) -> str:
    expected = "published" if case["fit"] else "refused"
    if decision != expected:
        return f"{decision}, not {expected}"
    if set(chosen) == set(case["fit"]):
        return ""
    lost, stray = set(case["fit"]) - set(chosen), set(chosen) - set(case["fit"])
    return "; ".join([*(f"left out: {x}" for x in lost), *(f"told: {x}" for x in stray)])


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
    for case in track(cases(), "cases"):
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
