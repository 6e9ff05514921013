"""The worst planner that there can be: whatever any text tells it to do, it does, first of all.

No model is needed for it, and no model is easier to talk into something. A command in a text looks
like `<<{"tool": ..., "args": {...}}>>`; one that is split is pasted together again. It finds
commands in what it was told, recalls, reads and remembers, and then does what it was asked.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agents import taint
from agents.grounding import check
from agents.references import References
from agents.taint import PUBLIC, Label
from agents.turn import Turn
from agents.workflows import prompts
from agents.workflows.prompts import Evidence
from memory.records import Record

SHOP: Final = "Lumen & Oak"
_COMMAND: Final = re.compile(r"<<(.+?)>>", re.DOTALL)
_HALF: Final = re.compile(r"<(\d)/2 (.+?) \1/2>", re.DOTALL)


class Shelf:
    """A tenant's memory: every record, whoever wrote it."""

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}

    def keep(self, tenant: str, text: str, labels: tuple[str, ...]) -> None:
        """Remember a text."""
        kept = self._records.setdefault(tenant, [])
        record = Record(tenant, "note", f"note:{len(kept)}", text, 0.0, labels=labels)
        kept.append(record)

    def recall(self, tenant: str) -> list[Record]:
        """All that is there: the worst recall, too."""
        return self._records.get(tenant, [])


class Planner:
    """A workflow on a shelf. The run's input: `reads` and `do` are steps as [tool, arguments], `do`
    what its owner asked for; `message` is text from outside; `intent` is the classifier's word."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def work(self, turn: Turn) -> None:
        """Read everything, do everything."""
        given = turn.run.input
        asked: list[list[Any]] = given.get("do", [])
        if "pick" in given:
            asked = await self._picked(turn, asked)
        seen = [str(given.get("message", ""))]
        seen += await self._recalled(turn)
        evidence: list[dict[str, Any]] = []
        for number, (tool, args) in enumerate(given["reads"]):
            step = "read" if tool == "read_ticket" else f"reads {number}"
            acted = await turn.act(step, tool, args)
            if acted.receipt is not None:
                seen += _texts(acted.receipt)
                evidence.append(acted.receipt)
        if given.get("remembers"):
            await self._remember(turn, "\n".join(seen))
        told = [[c["tool"], c["args"]] for c in commands(seen)]
        if "intent" in given:
            await _looked_at(turn, given["intent"], [*told, *asked], evidence)
        for number, (tool, args) in enumerate([*told, *asked]):
            await turn.act(f"do {number}", tool, args)
        await turn.end("done", "", {})

    async def _picked(self, turn: Turn, asked: list[list[Any]]) -> list[list[Any]]:
        """The owner's steps with what they name looked up, before anything else is read."""
        tool, field, by = turn.run.input["pick"]
        book = await turn.act("pick", tool, {})
        rows = (
            {} if book.receipt is None else {row["name"]: row[by] for row in book.receipt["rows"]}
        )

        async def fill() -> dict[str, Any]:
            names = [args[field] for _, args in asked]
            steps = [
                [tool, {**args, field: rows.get(name, name)}]
                for (tool, args), name in zip(asked, names, strict=True)
            ]
            return {"steps": steps}

        plan = await turn.phase("plan", fill, lambda _plan: PUBLIC)
        steps: list[list[Any]] = plan["steps"]
        return steps

    async def _recalled(self, turn: Turn) -> list[str]:
        records = self._shelf.recall(turn.run.tenant)

        async def recall() -> dict[str, Any]:
            return {"texts": [record.text for record in records]}

        def label(_found: dict[str, Any]) -> Label:
            return taint.join(map(taint.of_record, records))

        found = await turn.phase("recall", recall, label)
        texts: list[str] = found["texts"]
        return texts

    async def _remember(self, turn: Turn, text: str) -> None:
        async def remember() -> dict[str, Any]:
            self._shelf.keep(turn.run.tenant, text, taint.for_record(taint.UNKNOWN))
            return {}

        await turn.phase("remember", remember)


async def _looked_at(
    turn: Turn, intent: str, steps: list[list[Any]], receipts: list[dict[str, Any]]
) -> None:
    """What the support workflow has done by code before it acts: intent, and grounding."""

    async def classify() -> dict[str, Any]:
        return {"intent": intent, "confidence": 0.95, "out_of_scope": 0.02, "gate": True}

    async def ground() -> dict[str, Any]:
        references = References()
        orders = [r for r in receipts if r.get("kind") == "order"]
        evidence = [
            Evidence(f"E{i}", "order", references.rewrite(prompts.order_text(order)))
            for i, order in enumerate(orders, 1)
        ]
        texts = [_drafted(args["text"], references) for tool, args in steps if tool == "reply"]
        found = [str(f) for text in texts for f in check(text, evidence, references, SHOP)]
        return {"findings": found if texts else ["nothing was written"]}

    await turn.phase("intent", classify)
    await turn.phase("grounding", ground)


def _drafted(text: str, references: References) -> str:
    """A text as a model would have written it, with references for values."""
    for reference, value in references.items():
        text = text.replace(value, reference)
    return text


def commands(texts: list[str]) -> Iterator[dict[str, Any]]:
    """All commands in the texts, the split ones pasted together."""
    whole = "\n".join(texts)
    halves = dict(_HALF.findall(whole))
    whole = _HALF.sub("", whole)
    whole += f"\n{halves['1']}{halves['2']}" if {"1", "2"} <= halves.keys() else ""
    for found in _COMMAND.findall(whole):
        yield json.loads(found)


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in _texts(inner)]
    return [value] if isinstance(value, str) else []
