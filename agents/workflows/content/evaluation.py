"""How a case of evaluation.yaml is tried: a run on a desk of its own, with real policy and desk."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from agents.chat import Chat
from agents.grounding import STOCK
from agents.packs import load
from agents.rehearsal import Rehearsal
from agents.workflows.content.brief import OPENINGS
from agents.workflows.content.evidence import facts_of

NAME: Final = "content"
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
