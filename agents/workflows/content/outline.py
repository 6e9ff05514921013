"""Which facts the piece tells, as the routine model outlines them: a sheet of facts at a time.

An outline can be used when each point cites a fact of the sheet, once, that names the topic. What
can't be used is asked for once more; then the outline is composed from the facts that name it.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agents.chat import Chat
from agents.workflows.content.evidence import Fact, LeftOut, fitting, names
from agents.workflows.content.sheet import Sheet, sheets
from agents.workflows.prompts import NO_ANSWER, outline_messages
from cluster.errors import InvalidInput

ATTEMPTS: Final = 2
AT_ONCE: Final = 4
"""The most questions of a run that wait for an answer at a time."""
_TOKENS: Final = 120
_POINT: Final = re.compile(r"^\s*-\s*(E[1-9][0-9]?)\s*:\s*\S", re.MULTILINE)
MODEL, COMPOSED, BOTH = "model", "composed", "both"


@dataclass(frozen=True)
class Writer:
    """What the texts of a run are written with: its routine model, and for whom."""

    chat: Chat
    model: str
    timeout_s: float
    run: str
    topic: str
    audience: str
    tone: str
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ask(
        self, messages: list[dict[str, str]], name: str, attempt: int, max_tokens: int
    ) -> tuple[str, dict[str, Any]]:
        """The model's answer, "" when it takes no such request or did not come to an end; and what
        that took."""
        try:
            async with self.slots:
                answer = await self.chat.complete(
                    self.model, messages, max_tokens=max_tokens, timeout_s=self.timeout_s,
                    request_id=f"{self.run}-{name}-{attempt}", seed=attempt,
                    temperature=0.4 * attempt,
                )  # fmt: skip
        except InvalidInput:
            return "", {}
        return "" if answer.truncated else answer.text.strip(), answer.usage()


async def outlined(writer: Writer, facts: Sequence[Fact], thing: str) -> dict[str, Any]:
    """`points` (fact and kind, in the facts' order), those `added`, what is `left_out`, `by` whom,
    `problems` of answers that were of no use, and `usage`. Facts that name the thing and that the
    model has left out are added: its word alone keeps no fact from the reader."""
    told = await asyncio.gather(
        *(_sheet(writer, sheet, thing, number) for number, sheet in enumerate(sheets(facts), 1))
    )
    named = {id for part in told for id in part["points"]}
    added = [f.id for f in fitting(facts, thing) if f.id not in named]
    chosen = {*named, *added}
    left = [
        LeftOut(f.line, f.text, f"it does not name {thing}") for f in facts if f.id not in chosen
    ]
    return {
        "points": [{"fact": f.id, "kind": f.kind} for f in facts if f.id in chosen],
        "added": added,
        "left_out": [row.as_json() for row in left],
        "by": by_all([part["by"] for part in told]),
        "problems": [p for part in told for p in part["problems"]],
        "usage": [u for part in told for u in part["usage"]],
    }  # fmt: skip


def by_all(parts: Sequence[str]) -> str:
    """Who has written a text of these parts."""
    return parts[0] if len(set(parts)) == 1 else BOTH if parts else COMPOSED


def points_of(answer: str, sheet: Sheet, thing: str) -> list[str]:
    """The facts of a model's outline. InvalidInput when it can't be used."""
    if NO_ANSWER in answer:
        if fitting(sheet.facts, thing):
            raise InvalidInput("outline", NO_ANSWER, f"the facts that name {thing}")
        return []
    found: list[str] = []
    for id in _POINT.findall(answer):
        fact = sheet.fact(id)
        if fact is None:
            raise InvalidInput("outline", id, "a fact that there is")
        if not names(fact.text, thing):
            raise InvalidInput("outline", fact.text[:80], f"facts that name {thing}")
        if fact.id in found:
            raise InvalidInput("outline", id, "each fact once")
        found.append(fact.id)
    if not found:
        raise InvalidInput("outline", answer[:80], "a line for each fact")
    return found


def outline_text(topic: str, audience: str, points: Sequence[tuple[str, str]]) -> str:
    """An outline as the model writes it and takes it; `points` are (evidence id, kind)."""
    lines = [f"- {id}: {kind.capitalize()}" for id, kind in points]
    return "\n".join((f"# {topic}", *lines, f"- Call to action for {audience}"))


async def _sheet(writer: Writer, sheet: Sheet, thing: str, number: int) -> dict[str, Any]:
    messages = outline_messages(
        topic=writer.topic, audience=writer.audience, tone=writer.tone, evidence=sheet.evidence
    )
    usage: list[dict[str, Any]] = []
    problems: list[str] = []
    for attempt in range(ATTEMPTS):
        answer, used = await writer.ask(messages, f"outline-{number}", attempt, _TOKENS)
        usage += [used] if used else []
        try:
            points = points_of(answer, sheet, thing)
        except InvalidInput as error:
            problems.append(str(error))
            continue
        return {"points": points, "by": MODEL, "problems": problems, "usage": usage}
    composed = [f.id for f in fitting(sheet.facts, thing)]
    return {"points": composed, "by": COMPOSED, "problems": problems, "usage": usage}
