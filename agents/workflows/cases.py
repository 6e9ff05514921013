"""PURE: a ticket under work: what was gathered of it, what may be evidence, and how it is told."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from agents import taint
from agents.lessons import LESSON
from agents.memories import askable
from agents.pii import masked
from agents.references import References
from agents.taint import Label
from agents.toolbox import TOOL_RESULT, of_server
from agents.turn import Acted, Turn
from agents.workflows import prompts
from agents.workflows.prompts import Evidence
from memory.records import Hit, Query

KINDS: Final = ("policy", LESSON)
"""What is evidence: policies, and past tickets whose answers people stand by."""
_MOST_RESULT: Final = 1_200
"""Characters of a server's result that may be evidence."""
CUSTOMER: Final = "customer"
_SHORT: Final = 12
_WORDS: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_THANKS: Final = frozenset(
    "thanks thank thx cheers dank danke dankeschön merci gracias grazie bedankt obrigado".split()
)
_POLITE: Final = _THANKS | frozenset(
    "you so very much many a lot for your the help quick fast reply answer that's that is was all "
    "great perfect super wonderful nice ok okay good day bye and have best wishes regards hi hello "
    "vielen dank sehr viele grüße und alles klar beaucoup muchas mille molte bien hallo".split()
)


@dataclass
class Case:
    """What one turn has gathered so far."""

    ticket: str
    customer: str
    intent: dict[str, Any]
    references: References
    results: list[tuple[str, str]] = field(default_factory=list)
    passages: list[dict[str, Any]] = field(default_factory=list)
    plan: str = ""
    usage: list[dict[str, Any]] = field(default_factory=list)
    before: list[dict[str, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    opened: str = ""
    message: str = ""
    language: str = ""

    def amounts(self) -> list[str]:
        """The references of the amounts that the customer's last word names."""
        return [r for r in self.references.of_kind("AMOUNT") if r in self.ticket]

    def evidence(self) -> list[Evidence]:
        """Step results first, then what memory recalled, then what was answered before."""
        recalled = [(p["source"], p["text"]) for p in self.passages]
        pairs = [*self.results, *recalled, *(("thread", text) for text in self.said if text)]
        return [Evidence(f"E{i}", source, text) for i, (source, text) in enumerate(pairs, 1)]


def opened(read: dict[str, Any]) -> tuple[Case, list[str]]:
    """The case of a ticket, or of what was said in its thread since, as it was read, still without
    its intent; and the orders that a plan may name: those of the customer's last word, or else of
    the thread."""
    references = References()
    text = references.rewrite(str(read["text"]))
    orders = references.of_kind("ORDER")
    before = [{**m, "text": references.rewrite(m["text"])} for m in read.get("before", ())]
    intent = {"intent": "unknown", "confidence": 0.0, "out_of_scope": 1.0}
    case = Case(text, str(read["customer"]), intent, references, before=before)
    case.message = str(read.get("message", ""))
    case.opened = references.rewrite(str(read.get("opened", "")))
    if before and not orders:
        of_customer = " ".join(m["text"] for m in before if m["author"] == CUSTOMER)
        orders = [order for order in references.of_kind("ORDER") if order in of_customer][-1:]
        case.ticket = "\n".join((text, *(f"It is about order {order}." for order in orders)))
    notes = [references.rewrite(note) for note in read.get("notes", ())]
    case.results += [("note", f"A colleague has noted: {note}") for note in notes]
    case.said = [body_of(m["text"]) for m in before if m["author"] != CUSTOMER][-1:]
    return case, orders


def body_of(answer: str) -> str:
    """An answer without its greeting and its closing lines."""
    lines = [line.strip() for line in answer.splitlines()]
    return " ".join(line for line in lines if line.endswith((".", "!", "?", ":", ";")))


def only_thanks(text: str) -> bool:
    """Whether a further message says thanks and nothing else."""
    words = _WORDS.findall(text.casefold())
    asks = "?" in text or any(c.isdigit() for c in text)
    return (
        0 < len(words) <= _SHORT
        and not asks
        and all(w in _POLITE for w in words)
        and bool(_THANKS & set(words))
    )


def evidence_for(turn: Turn, text: str, kinds: tuple[str, ...], k: int) -> Query:
    """The question for what bears on a ticket. A ticket is long and in many a language: weak
    evidence is better for a plan than none."""
    return Query(
        turn.run.tenant, askable(text) or "-", k, kinds, min_relevance=0.0, tiers=("long_term",)
    )


def passage(hit: Hit) -> dict[str, Any]:
    """A recalled record as a phase's result holds it. Of a past ticket it is the answer that is
    evidence; what another customer asked only shows that the answer bears on this one."""
    record = hit.record
    return {
        "id": record.id, "source": record.source, "kind": record.kind,
        "text": record.meta.get("answer", record.text),
        "event_at": record.event_at, "score": round(hit.score, 4), "reason": hit.reason,
        "label": str(taint.of_record(record)),
    }  # fmt: skip


def label_of(recalled: dict[str, Any]) -> Label:
    """The label of the recall phase's result: that of its passages together."""
    return taint.join(taint.parse(p["label"]) for p in recalled["passages"])


def keep(case: Case, receipt: dict[str, Any]) -> None:
    """Make what a step has found evidence, once. What a server's tool returned is that as well:
    text of a stranger, without anything personal and without references of its own making."""
    kind = receipt["kind"]
    if kind == "order":
        text = prompts.order_text(receipt)
    elif kind == "account":
        text = prompts.account_text(receipt)
    elif kind == TOOL_RESULT:
        return _keep_result(case, receipt)
    else:
        text = prompts.refund_text(receipt)
    pair = (kind, case.references.rewrite(text))
    if pair not in case.results:
        case.results.append(pair)


def _keep_result(case: Case, receipt: dict[str, Any]) -> None:
    text = masked(str(receipt["text"])[:_MOST_RESULT])
    pair = (str(receipt["tool"]), case.references.rewrite(text))
    if text.strip() and pair not in case.results:
        case.results.append(pair)


def from_servers(case: Case, cited: Iterable[str]) -> list[str]:
    """The tools of servers whose results are among the evidence with these ids."""
    own = case.evidence()[: len(case.results)]
    return sorted({e.source for e in own if e.id in set(cited) and of_server(e.source)})


def result_of(case: Case | None) -> dict[str, Any]:
    """What the run's result says of the case."""
    if case is None:
        return {"intent": None, "confidence": 0.0, "evidence": [], "usage": [], "plan": ""}
    evidence = [kind for kind, _ in case.results] + [p["source"] for p in case.passages]
    return {
        "intent": case.intent["intent"], "confidence": case.intent["confidence"],
        "out_of_scope": case.intent["out_of_scope"], "evidence": evidence,
        "usage": case.usage, "plan": case.plan,
        **({"language": case.language} if case.language else {}),
    }  # fmt: skip


def trouble_of(tool: str, acted: Acted) -> tuple[str, str]:
    """Why a step was not done, as (reason, detail)."""
    if acted.refusal is not None and acted.refusal[0] == "not_found":
        return "not found", f"{tool}: {acted.refusal[1]}"
    if acted.decision.answer == "ask":
        return f"{tool} needs a person", why(acted)
    return f"{tool} refused", why(acted)


def why(acted: Acted) -> str:
    """The sentence of who refused."""
    if acted.refusal is not None:
        return acted.refusal[1]
    return f"{acted.decision.reason} [{acted.decision.rule}]"
