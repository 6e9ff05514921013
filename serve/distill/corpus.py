"""The corpus of the reference checkpoints: an endless stream of chats, made from a seed.

The messages come from the very functions that the workflows use (`prompts`, `References`), over
tickets, orders, policies, conversations, briefs and injections made up here. The splits differ in
seed and share neither a template nor a word that names an article. English answers only; tickets
also in other languages.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final

from agents.references import References
from agents.workflows.prompts import Evidence, Message, draft_messages, plan_messages
from serve.distill.content import make_outline, make_posts
from serve.distill.drafts import make_draft
from serve.distill.grammar import SPLITS, expand, lexicon, words
from serve.distill.plans import expected_plan, tool_forms
from serve.distill.slots import make_slots
from serve.distill.summaries import make_summary
from serve.distill.tickets import INTENTS, Ticket, Values, item, make_ticket

_SOURCES: Final = ("delivery", "returns", "refunds", "warranty", "invoices", "payment", "account")


@dataclass(frozen=True)
class Example:
    """One chat: what the model is given, and what it should answer. `kind` is plan, slots, draft,
    summary, outline, posts, chat or tool."""

    kind: str
    messages: list[Message]
    answer: str
    tools: list[dict[str, Any]] | None = None


def examples(task: str, split: str, seed: int, start: int = 0) -> Iterator[Example]:
    """Examples without end for the model `task`, from number `start` on; the same seed gives the
    same ones."""
    for number in count(start):
        yield make_example(Random(f"{task}/{split}/{seed}/{number}"), task, split)


def make_example(rng: Random, task: str, split: str) -> Example:
    """One example for the model `task` ('planner' or 'routine')."""
    shares = SHARES[task]
    kind = rng.choices(list(shares), weights=list(shares.values()))[0]
    return _MAKERS[kind](rng, split)


def _plan(rng: Random, split: str) -> Example:
    ticket = make_ticket(rng, split)
    refs = References()
    text = refs.rewrite(ticket.text)
    tools = tool_forms(refs, order_tools=rng.random() < 0.05)
    answer = expected_plan(ticket, refs)
    history = ""
    if rng.random() < 0.4:
        template = rng.choice(words("tickets", "histories", split))
        history = refs.rewrite(expand(rng, template, Values(rng, split)))
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


def _slots(rng: Random, split: str) -> Example:
    return Example("slots", *make_slots(rng, split))


def _draft(rng: Random, split: str) -> Example:
    ticket: Ticket = make_ticket(rng, split, answerable=True)
    refs = References()
    text = refs.rewrite(ticket.text)
    evidence, answer = make_draft(rng, ticket, refs, split)
    messages = draft_messages(ticket=text, intent=ticket.intent, evidence=evidence)
    return Example("draft", messages, answer)


def _summary(rng: Random, split: str) -> Example:
    return Example("summary", *make_summary(rng, split))


def _outline(rng: Random, split: str) -> Example:
    return Example("outline", *make_outline(rng, split))


def _posts(rng: Random, split: str) -> Example:
    return Example("posts", *make_posts(rng, split))


def _chat(rng: Random, split: str) -> Example:
    pair = rng.choice(lexicon("chat")["chat"])
    ask = expand(rng, "{" + pair["ask"] + "}", Values(rng, split))
    messages = [{"role": "user", "content": _cased(rng, ask)}]
    if system := rng.choice(lexicon("chat")["systems"]):
        messages.insert(0, {"role": "system", "content": system})
    return Example("chat", messages, pair["say"])


def _tool(rng: Random, split: str) -> Example:
    listed = lexicon("chat")["tools"]
    chosen = rng.choice(listed)
    values = Values(rng, split)
    value = {
        "city": rng.choice(words("chat", "cities", split)),
        "order": values("order"),
        "query": item(rng, split),
    }[chosen["argument"]]
    offered = rng.sample(listed, rng.choice((1, 1, 2)))
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


_MAKERS: Final[dict[str, Callable[[Random, str], Example]]] = {
    "plan": _plan,
    "slots": _slots,
    "draft": _draft,
    "summary": _summary,
    "outline": _outline,
    "posts": _posts,
    "chat": _chat,
    "tool": _tool,
}
# How often each model is shown each kind of chat: what it is asked for most, most.
SHARES: Final[dict[str, dict[str, float]]] = {
    "planner": {
        "plan": 0.46, "slots": 0.18, "draft": 0.24, "outline": 0.05, "chat": 0.03, "tool": 0.04,
    },
    "routine": {
        "draft": 0.42, "slots": 0.22, "summary": 0.16, "outline": 0.06, "posts": 0.11,
        "chat": 0.03,
    },
    "tiny": {"chat": 1.0},
}  # fmt: skip
TASKS: Final = ("planner", "routine")

__all__ = ["INTENTS", "SPLITS", "TASKS", "Example", "examples", "make_example", "tool_schema"]
