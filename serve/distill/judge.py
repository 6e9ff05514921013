"""PURE: what is right and what is wrong about an answer to a chat of the corpus.

Covered: the form of JSON, tools and arguments, the references that an answer has to copy, facts
that stand nowhere in the evidence, refusals and questions. Not covered: whether a reply reads well;
`exact` says how many are the expected letters, which is the strictest that can be said of it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from agents.grounding import Finding, check
from agents.references import REFERENCE, References
from agents.workflows.prompts import NO_ANSWER, Evidence
from serve.distill.corpus import Example
from serve.distill.summaries import keeps_all

# Figures of which a True is bad.
BAD: Final = ("ungrounded", "garbled")
_GARBLED: Final = ("a word again and again", "said twice")
_UNKNOWN: Final = "not in the evidence"
_EVIDENCE = re.compile(r"<evidence>\n(.*?)\n?</evidence>", re.DOTALL)
_TOOLS = re.compile(r"<tools>(.*)</tools>\Z", re.DOTALL)
_FORM = re.compile(r"([a-z_]+)\(([a-z_,]*)\)")
_EVIDENCE_ID = re.compile(r"\bE[1-9][0-9]?\b")
_CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>", re.DOTALL)
_ASKS = re.compile(r"\?|\bplease send\b", re.IGNORECASE)

Figures = dict[str, bool]


def judge(example: Example, answer: str) -> Figures:
    """The figures that apply to `example`, by name.

    json_valid       it parses and has the shape that its kind has
    plan_right       the tools of the plan, and their order
    arguments_right  every argument of every step; orders, amount and person of the slots
    intent_right     the intent of the slots
    facts_copied     all references of the expected answer, in order for drafts; content: and
                     evidence ids
    ungrounded       bad: a reference, value, name or citation that is in no evidence
    supported        drafts: nothing that the workflow's grounding check would stop
    asks_or_refuses  it does so where something is missing and the expected answer does
    summary_keeps    every id, amount and promise, and none beside them
    garbled          bad: a word again and again, a sentence twice
    exact            the expected answer to the letter
    """
    figures = _JUDGES[example.kind](example, answer) if example.kind in _JUDGES else {}
    return {**figures, "exact": answer == example.answer}


def failed(figures: Figures) -> list[str]:
    """The names of the figures that speak against the answer."""
    return [name for name, value in figures.items() if value == (name in BAD)]


def evidence_of(example: Example) -> list[Evidence]:
    """The evidence lines that stand in the example's prompt."""
    block = _EVIDENCE.search(example.messages[-1]["content"])
    pairs = (line.split(" ", 1) for line in (block.group(1) if block else "").splitlines())
    return [Evidence(pair[0], "", pair[1]) for pair in pairs if len(pair) == 2]


def _plan(example: Example, answer: str) -> Figures:
    block = _TOOLS.search(example.messages[-1]["content"])
    forms = {
        name: [p for p in parameters.split(",") if p]
        for name, parameters in _FORM.findall(block.group(1) if block else "")
    }
    wanted, got = steps_of(example.answer, forms), steps_of(answer, forms)
    figures = {
        "json_valid": got is not None,
        "plan_right": got is not None and _tools(got) == _tools(wanted or []),
        "arguments_right": got is not None and got == wanted,
    }
    if missing := _missing(wanted or []):
        figures["asks_or_refuses"] = _missing(got or []) == missing
    return figures


def steps_of(answer: str, forms: dict[str, list[str]]) -> list[dict[str, str]] | None:
    """The steps of a plan in which each is a tool of `forms` with just its parameters, as text;
    None for anything else."""
    data = _parsed(answer)
    steps = data.get("steps") if isinstance(data, dict) and len(data) == 1 else None
    if not isinstance(steps, list) or not steps:
        return None
    for step in steps:
        named = isinstance(step, dict) and all(isinstance(v, str) for v in step.values())
        if not named or step.get("tool") not in forms:
            return None
        if set(step) != {"tool", *forms[step["tool"]]}:
            return None
    return steps


def _tools(steps: Sequence[dict[str, str]]) -> list[str]:
    return [step["tool"] for step in steps]


def _missing(steps: Sequence[dict[str, str]]) -> str:
    """How a plan deals with what the ticket leaves out: it asks, by way of the account, or has a
    person ask; "" when it takes nothing to be missing."""
    for step in steps:
        if step["tool"] == "lookup_account":
            return "looks the account up"
        if step.get("reason") == "missing_information":
            return "escalates"
    return ""


def _slots(example: Example, answer: str) -> Figures:
    wanted, got = _slots_in(example.answer), _slots_in(answer)
    named = [{k: v for k, v in (slots or {}).items() if k != "intent"} for slots in (wanted, got)]
    return {
        "json_valid": got is not None,
        "arguments_right": got is not None and named[0] == named[1],
        "intent_right": got is not None
        and wanted is not None
        and got["intent"] == wanted["intent"],
    }


def _slots_in(text: str) -> dict[str, Any] | None:
    slots = _parsed(text)
    if not isinstance(slots, dict) or set(slots) != {"intent", "orders", "amount", "person"}:
        return None
    typed = (
        isinstance(slots["intent"], str)
        and isinstance(slots["orders"], list)
        and all(isinstance(order, str) for order in slots["orders"])
        and isinstance(slots["amount"], str | None)
        and isinstance(slots["person"], bool)
    )
    return slots if typed else None


def _tool(example: Example, answer: str) -> Figures:
    call = _CALL.fullmatch(answer.strip())
    data: Any = _parsed(call.group(1)) if call else None
    offered = {t["function"]["name"]: t["function"]["parameters"] for t in example.tools or []}
    shaped = isinstance(data, dict) and set(data) == {"name", "arguments"}
    if not shaped or data["name"] not in offered or not isinstance(data["arguments"], dict):
        return {"json_valid": False}
    return {"json_valid": set(data["arguments"]) == set(offered[data["name"]]["properties"])}


def _draft(example: Example, answer: str) -> Figures:
    if refuses(example.answer):
        figures = {"asks_or_refuses": refuses(answer)}
    elif facts := references_of(example.answer):
        figures = {"facts_copied": _in_order(facts, references_of(answer))}
    else:
        figures = {}
    if _ASKS.search(example.answer):
        figures["asks_or_refuses"] = bool(_ASKS.search(answer))
    if refuses(answer):
        return figures
    # The expected letter is signed as the shop signs.
    findings = check(answer, evidence_of(example), References(), example.answer)
    figures["supported"] = not findings
    return figures | _written(findings)


def _written(findings: Sequence[Finding]) -> Figures:
    return {
        "ungrounded": any(_UNKNOWN in f.what or f.what == "citation of nothing" for f in findings),
        "garbled": any(f.what in _GARBLED for f in findings),
    }


def _content(example: Example, answer: str) -> Figures:
    if refuses(example.answer):
        figures = {"asks_or_refuses": refuses(answer)}
    else:
        figures = {"facts_copied": Counter(_facts(example.answer)) <= Counter(_facts(answer))}
    return figures if refuses(answer) else figures | _written(_strange(example, answer))


def _strange(example: Example, answer: str) -> list[Finding]:
    """The findings in a text that holds evidence ids outside brackets and words of its brief."""
    evidence = evidence_of(example)
    known = {e.id for e in evidence}
    cited = [m.group() for m in _EVIDENCE_ID.finditer(answer) if m.group() not in known]
    # The brief's words, and those of the fixed phrases that only the expected answer shows.
    around = f"{example.messages[-1]['content']} {example.answer}"
    held = Evidence("", "brief", _EVIDENCE_ID.sub(" ", around))
    findings = [Finding("citation of nothing", id) for id in cited]
    # A line at a time: two posts may well say the same.
    for line in _EVIDENCE_ID.sub(" ", answer).splitlines():
        findings += check(line, [*evidence, held], References(), example.answer)
    return findings


def _summary(example: Example, answer: str) -> Figures:
    figures = {"summary_keeps": keeps_all(example.answer, answer)}
    if facts := set(references_of(example.answer)):
        figures["facts_copied"] = facts <= set(references_of(answer))
    return figures


def _facts(text: str) -> list[str]:
    return [*references_of(text), *(m.group() for m in _EVIDENCE_ID.finditer(text))]


def references_of(text: str) -> list[str]:
    """The references in `text`, in order, with repeats."""
    return [m.group() for m in REFERENCE.finditer(text)]


def _in_order(wanted: Sequence[str], got: Sequence[str]) -> bool:
    rest = iter(got)
    return all(reference in rest for reference in wanted)


def refuses(answer: str) -> bool:
    """Whether it says that the evidence has no answer, as the workflow reads it."""
    return NO_ANSWER in answer


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_JUDGES: Final[dict[str, Callable[[Example, str], Figures]]] = {
    "plan": _plan,
    "slots": _slots,
    "tool": _tool,
    "draft": _draft,
    "summary": _summary,
    "outline": _content,
    "posts": _content,
}
