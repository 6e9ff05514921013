"""The corpus of the reference checkpoints: an endless stream of chats, made from a seed.

The messages come from the very functions that the support workflow uses (`prompts`, `References`),
over tickets, orders, policies and injections made up here. Training and validation differ in seed
and in a part of the templates. English replies only; tickets also in German, French and Spanish.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from agents.references import References
from agents.workflows.prompts import Evidence, Message, draft_messages, plan_messages
from serve.distill.drafts import make_draft
from serve.distill.grammar import expand, lexicon
from serve.distill.plans import expected_plan, tool_forms
from serve.distill.tickets import INTENTS, Ticket, Values, item, make_ticket

TASKS: Final = ("planner", "routine")
SPLITS: Final = ("train", "validation")
_CHAT_SHARE: Final = 0.04
_TOOL_SHARE: Final = 0.02
_SOURCES: Final = ("delivery", "returns", "refunds", "warranty", "invoices", "payment", "account")


@dataclass(frozen=True)
class Example:
    """One chat: what the model is given, and what it should answer. `kind` is plan, draft, chat
    or tool."""

    kind: str
    messages: list[Message]
    answer: str
    tools: list[dict[str, Any]] | None = None


def examples(task: str, split: str, seed: int) -> Iterator[Example]:
    """Examples without end for the model `task`; the same seed gives the same ones."""
    number = 0
    while True:
        yield make_example(Random(f"{task}/{split}/{seed}/{number}"), task, split)
        number += 1


def make_example(rng: Random, task: str, split: str) -> Example:
    """One example of `task` ('planner' or 'routine')."""
    kind = rng.random()
    if kind < _CHAT_SHARE:
        return _chat(rng)
    if task == "planner":
        return _tool(rng) if kind < _CHAT_SHARE + _TOOL_SHARE else _plan(rng, split)
    return _draft(rng, split)


def _plan(rng: Random, split: str) -> Example:
    ticket = make_ticket(rng, split)
    refs = References()
    text = refs.rewrite(ticket.text)
    tools = tool_forms(refs, order_tools=rng.random() < 0.05)
    answer = expected_plan(ticket, refs)
    history = refs.rewrite(
        expand(rng, rng.choice(lexicon("tickets")["histories"]), Values(rng))
        if rng.random() < 0.4
        else ""
    )
    sources = [_source(rng) for _ in range(rng.choice((0, 1, 2, 3, 3)))]
    messages = plan_messages(
        ticket=text,
        intent=ticket.intent,
        history=history,
        evidence=[Evidence(f"E{i}", source, "") for i, source in enumerate(sources, 1)],
        tools=tools,
    )
    return Example("plan", messages, answer)


def _source(rng: Random) -> str:
    if rng.random() < 0.5:
        return f"ticket:{rng.randrange(1, 3000)}"
    return f"policy:{rng.choice(_SOURCES)}.md#{rng.randrange(1, 4)}"


def _draft(rng: Random, split: str) -> Example:
    ticket: Ticket = make_ticket(rng, split, answerable=True)
    refs = References()
    text = refs.rewrite(ticket.text)
    evidence, answer = make_draft(rng, ticket, refs, split)
    messages = draft_messages(ticket=text, intent=ticket.intent, evidence=evidence)
    return Example("draft", messages, answer)


def _chat(rng: Random) -> Example:
    words = lexicon("chat")
    pair = rng.choice(words["chat"])
    ask = expand(rng, "{" + pair["ask"] + "}", Values(rng))
    messages = [{"role": "user", "content": _cased(rng, ask)}]
    if system := rng.choice(words["systems"]):
        messages.insert(0, {"role": "system", "content": system})
    return Example("chat", messages, pair["say"])


def _tool(rng: Random) -> Example:
    words = lexicon("chat")
    chosen = rng.choice(words["tools"])
    values = Values(rng)
    value = {"city": rng.choice(words["cities"]), "order": values("order"), "query": item(rng)}[
        chosen["argument"]
    ]
    offered = rng.sample(words["tools"], rng.choice((1, 1, 2)))
    if chosen not in offered:
        offered[0] = chosen
    ask = expand(rng, chosen["ask"], lambda _: value)
    call = {"name": chosen["name"], "arguments": {chosen["argument"]: value}}
    answer = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    tools = [tool_schema(t) for t in offered]
    return Example("tool", [{"role": "user", "content": _cased(rng, ask)}], answer, tools)


def tool_schema(tool: dict[str, str]) -> dict[str, Any]:
    """A tool as an OpenAI client offers it."""
    return {
        "type": "function",
        "function": {
            "name": tool["name"],
            "description": tool["description"],
            "parameters": {
                "type": "object",
                "properties": {tool["argument"]: {"type": "string"}},
                "required": [tool["argument"]],
            },
        },
    }


def _cased(rng: Random, text: str) -> str:
    return text[0].upper() + text[1:] if rng.random() < 0.6 else text


__all__ = ["INTENTS", "SPLITS", "TASKS", "Example", "examples", "make_example", "tool_schema"]
