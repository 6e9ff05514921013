"""The support workflow: a ticket becomes a grounded reply or a person's task, never a guess.

    read -> intent -> recall -> plan -> steps -> draft -> grounding -> reply
                 \\________ any doubt: escalate, with the reason and all that was found

A reply goes out only when intent, grounding and policy all pass.

A run is about the ticket's own text, or, when its input names a `message`, about the customer's
last word in the thread up to there. What a plan may name comes from that word; only the order that
it is about may stand further up. What was answered before, and what a colleague has noted, are
evidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from agents import offering
from agents import plan as plans
from agents.chat import Chat
from agents.grounding import check
from agents.lessons import decision
from agents.memories import Recaller
from agents.money import cents
from agents.offering import Offering
from agents.references import References
from agents.toolbox import of_server
from agents.tools import WHOLE_TOTAL, Offer, support_offers
from agents.turn import Turn
from agents.workflows import prompts
from agents.workflows.cases import (
    CUSTOMER,
    KINDS,
    Case,
    evidence_for,
    from_servers,
    keep,
    label_of,
    only_thanks,
    opened,
    passage,
    result_of,
    trouble_of,
    why,
)
from agents.workflows.languages import ENGLISH, Tongues
from cluster.errors import DeadlineExceeded, InvalidInput, Overloaded, Unavailable
from cluster.settings import SupportSection
from cluster.telemetry import logger

SHOP: Final = "Lumen & Oak"
OUT_OF_SCOPE: Final = "out_of_scope"
_PLAN_ATTEMPTS: Final = 2
_DRAFT_ATTEMPTS: Final = 3
_PLAN_TOKENS: Final = 160
_CALL_TOKENS: Final = 240
"""What the arguments of servers' tools may take in addition."""
_DRAFT_TOKENS: Final = 220
log = logger("support")


class Classifier(Protocol):
    async def classify(self, text: str) -> dict[str, Any]:
        """`intent`, `confidence` (calibrated, 0 to 1), `out_of_scope` (0 to 1), `gate`."""


@dataclass(frozen=True)
class Parts:
    """What the workflow works with; all of it handed in by the host. Without `tongues` every
    ticket is taken for English."""

    chat: Chat
    classifier: Classifier
    memory: Recaller
    section: SupportSection
    planner: str
    routine: str
    model_timeout_s: float
    servers: Offering | None = None
    tongues: Tongues | None = None


async def work(turn: Turn, parts: Parts) -> None:
    """Bring `turn`'s ticket to its end."""
    place = {"message": turn.run.input["message"]} if turn.run.input.get("message") else {}
    read = await turn.act("read", "read_ticket", place)
    if read.receipt is None:
        return await _escalate(turn, parts, None, "ticket unreadable", why(read))
    case, orders = opened(read.receipt)
    amounts = case.amounts()
    if case.message and only_thanks(str(read.receipt["text"])):
        return await _thanked(turn, case)
    if trouble := await _put_into_english(turn, parts, case):
        return await _escalate(turn, parts, case, *trouble)
    case.intent = await turn.phase("intent", lambda: _classified(parts, case))
    if doubt := _doubt(case.intent, parts.section):
        return await _escalate(turn, parts, case, *doubt)
    # What a plan may name comes from the ticket alone, never from what is recalled next.
    offers = support_offers(orders, amounts)
    offers += await offering.for_turn(turn, parts.servers, case.ticket)
    case.passages = await _recall(turn, parts, case)
    plan = await _plan(turn, parts, case, offers)
    if plan is None:
        return await _escalate(turn, parts, case, "no plan", "the planner gave no valid plan")
    for index, step in enumerate(plan.steps[:-1], 1):
        if trouble := await _do(turn, case, index, step):
            return await _escalate(turn, parts, case, *trouble)
    last = plan.steps[-1]
    if last.tool == "escalate":
        return await _escalate(
            turn, parts, case, last.args["reason"], "the plan hands it to a person"
        )
    await _reply(turn, parts, case)
    return None


async def _put_into_english(turn: Turn, parts: Parts, case: Case) -> tuple[str, str] | None:
    """What keeps a ticket in another language from being worked here."""
    # What is journaled holds, also where the models speak otherwise by now.
    told = turn.run.phases.get("language")
    if told is None and (tongues := parts.tongues) is not None:
        told = await turn.phase("language", lambda: tongues.read(case.ticket, turn.run.run_id))
    if told is None:
        return None
    case.usage += told["usage"]
    if told["text"]:
        case.ticket, case.language = told["text"], told["language"]
    elif told["language"] != ENGLISH and parts.section.unspoken == "person":
        return "unspoken language", f"no model here puts {told['language']} into English"
    return None


async def _in_their_language(turn: Turn, parts: Parts, case: Case, text: str) -> str:
    """The draft in the ticket's language; in English where no model could put it so."""
    language, told = case.language, turn.run.phases.get("translation")
    if told is None and language and (tongues := parts.tongues) is not None:
        told = await turn.phase(
            "translation", lambda: tongues.put(text, ENGLISH, language, turn.run.run_id)
        )
    if told is None:
        return text
    case.usage += told["usage"]
    return str(told["text"]) or text


async def _classified(parts: Parts, case: Case) -> dict[str, Any]:
    """The intent of the customer's last word; of one that says little alone, with what it goes on
    from."""
    intent = await parts.classifier.classify(case.ticket)
    if not case.before or _doubt(intent, parts.section) is None:
        return intent
    earlier = [m["text"] for m in case.before if m["author"] == CUSTOMER]
    together = await parts.classifier.classify("\n".join((*earlier[-1:], case.ticket)))
    return intent if _doubt(together, parts.section) else together


async def _thanked(turn: Turn, case: Case) -> None:
    case.intent = {"intent": "thanks", "confidence": 1.0, "out_of_scope": 0.0}
    closed = await turn.act("close", "close_ticket", {"by": "support"})
    reason = why(closed) if closed.receipt is None else closed.decision.reason
    await turn.end("closed" if closed.receipt is not None else "failed", reason, result_of(case))


def _doubt(intent: dict[str, Any], section: SupportSection) -> tuple[str, str] | None:
    if intent["intent"] == OUT_OF_SCOPE or intent["out_of_scope"] > section.max_out_of_scope:
        return OUT_OF_SCOPE, f"out of scope with {intent['out_of_scope']:.2f}"
    if intent["confidence"] < section.min_confidence:
        shown = f"{intent['intent']} with {intent['confidence']:.2f}"
        return "unsure intent", f"{shown}, below {section.min_confidence:.2f}"
    return None


async def _recall(turn: Turn, parts: Parts, case: Case) -> list[dict[str, Any]]:
    async def recall() -> dict[str, Any]:
        asked = evidence_for(turn, case.ticket, KINDS, parts.section.evidence)
        return {"passages": [passage(hit) for hit in await parts.memory.recall(asked)]}

    found = await turn.phase("recall", recall, label_of)
    # Rewritten in the journal's order, so that a resumed turn has the same references.
    return [{**p, "text": case.references.rewrite(p["text"])} for p in found["passages"]]


async def _plan(turn: Turn, parts: Parts, case: Case, offers: Sequence[Offer]) -> plans.Plan | None:
    messages = prompts.plan_messages(
        ticket=case.ticket,
        intent=case.intent["intent"],
        history=_history(turn),
        evidence=case.evidence(),
        tools=[offer.tool.form for offer in offers if offer.schema is None],
        server_tools=[offering.shown(offer) for offer in offers if offer.schema is not None],
    )
    most = _PLAN_TOKENS + (_CALL_TOKENS if any(o.schema is not None for o in offers) else 0)
    render = case.references.render

    async def write() -> dict[str, Any]:
        usage: list[dict[str, Any]] = []
        problem = ""
        for attempt in range(_PLAN_ATTEMPTS):
            answer = await parts.chat.complete(
                parts.planner, messages, schema=plans.schema(offers), max_tokens=most,
                timeout_s=parts.model_timeout_s, request_id=f"{turn.run.run_id}-plan-{attempt}",
                seed=attempt, temperature=0.7 * attempt,
            )  # fmt: skip
            usage.append(answer.usage())
            try:
                plan = plans.parse(answer.text, offers, render).as_json()
            except InvalidInput as error:
                problem = str(error)
                continue
            return {"plan": plan, "problem": problem, "usage": usage}
        return {"plan": "", "problem": problem, "usage": usage}

    written = await turn.phase("plan", write)
    case.usage += written["usage"]
    case.plan = written["plan"]
    return plans.parse(case.plan, offers, render) if case.plan else None


def _history(turn: Turn) -> str:
    last = turn.agent.turns[-3:]
    return "; ".join(f"{t.intent} {t.decision}" for t in last)


async def _do(turn: Turn, case: Case, index: int, step: plans.Step) -> tuple[str, str] | None:
    """Do one step; what went wrong as (reason, detail), or None."""
    args: dict[str, Any] = {}
    if of_server(step.tool):
        args = plans.rendered(step.args, case.references.render)
    elif "order" in step.args:
        args["order"] = (case.references.value(step.args["order"]) or "").upper()
    if step.tool == "refund":
        looked = await _ensure_order(turn, case, index, args["order"])
        if isinstance(looked, tuple):
            return looked
        amount = _cents(case.references, step.args["amount"], looked)
        if amount is None:
            return "unclear amount", f"{step.args['amount']} is no amount in the desk's currency"
        args["amount_cents"] = amount
    acted = await turn.act(f"{index}:{step.tool}", step.tool, args)
    if acted.receipt is None:
        return trouble_of(step.tool, acted)
    keep(case, acted.receipt)
    return None


async def _ensure_order(
    turn: Turn, case: Case, index: int, order: str
) -> dict[str, Any] | tuple[str, str]:
    """The order's receipt, looked up first when the plan did not: a refund needs its facts."""
    acted = await turn.act(f"{index}:order-of-refund", "lookup_order", {"order": order})
    if acted.receipt is None:
        return trouble_of("lookup_order", acted)
    keep(case, acted.receipt)
    return acted.receipt


def _cents(references: References, amount: str, order: dict[str, Any]) -> int | None:
    if amount == WHOLE_TOTAL:
        return int(order["total_cents"]) - int(order.get("refunded_cents", 0))
    return cents(references.value(amount) or "")


async def _reply(turn: Turn, parts: Parts, case: Case) -> None:
    evidence = case.evidence()
    messages = prompts.draft_messages(
        ticket=case.ticket, intent=case.intent["intent"], evidence=evidence
    )

    async def write() -> dict[str, Any]:
        usage: list[dict[str, Any]] = []
        text, findings = "", ["nothing was written"]
        for attempt in range(_DRAFT_ATTEMPTS):
            answer = await parts.chat.complete(
                parts.routine, messages, max_tokens=_DRAFT_TOKENS,
                timeout_s=parts.model_timeout_s, request_id=f"{turn.run.run_id}-draft-{attempt}",
                seed=attempt, temperature=0.4 * attempt,
            )  # fmt: skip
            usage.append(answer.usage())
            text = answer.text.strip()
            findings = [str(f) for f in check(text, evidence, case.references, SHOP)]
            if answer.truncated:
                findings.append(f"cut off: after {_DRAFT_TOKENS} tokens")
            if not findings:
                break
        return {"text": text, "findings": findings, "usage": usage}

    draft = await turn.phase("draft", write)
    case.usage += draft["usage"]

    async def ground() -> dict[str, Any]:
        cited = prompts.citations(draft["text"])
        outside = from_servers(case, cited)
        found = {"findings": draft["findings"], "cited": cited}
        return found | ({"outside": outside} if outside else {})

    grounding = await turn.phase("grounding", ground)
    said = prompts.without_citations(draft["text"])
    text = case.references.render(await _in_their_language(turn, parts, case, said))
    args = {"text": text, "message": case.message} if case.message else {"text": text}
    acted = await turn.act("reply", "reply", args)
    if acted.receipt is None:
        detail = "; ".join(grounding["findings"][:3]) or why(acted)
        return await _escalate(turn, parts, case, "reply withheld", f"{why(acted)} ({detail})")
    cited = set(grounding["cited"])
    sources = [e.source for e in evidence if e.id in cited]
    result = result_of(case) | {"reply": text, "cited": sources}
    await _remember(turn, parts, case, "replied", acted.decision.reason)
    await turn.end("replied", acted.decision.reason, result)
    return None


async def _remember(turn: Turn, parts: Parts, case: Case, ended: str, reason: str) -> None:
    """Keep how the ticket was decided, once however often it is done. It is decided all the same
    when memory is away; the journal has it."""
    record = decision(turn.run, case.customer, case.intent["intent"], ended, reason)
    try:
        await parts.memory.remember([record])
    except (Unavailable, Overloaded, DeadlineExceeded) as error:
        log.warning("run %s is not remembered: %s", turn.run.run_id, error)


async def _escalate(turn: Turn, parts: Parts, case: Case | None, reason: str, detail: str) -> None:
    summary = f"{reason}: {detail}"
    if case is not None:
        found = "\n".join(f"{e.id} {e.source}: {e.text}" for e in case.evidence())
        said = "".join(f"\n{m['author']}: {m['text']}" for m in case.before)
        summary = case.references.render(
            f"{summary}\nintent: {case.intent['intent']} {case.intent['confidence']:.2f}\n"
            f"plan: {case.plan or 'none'}\nfound:\n{found or 'nothing'}"
            f"{chr(10) + 'said before:' + said if said else ''}"
        )
    handed = await turn.act("escalate", "escalate", {"reason": reason, "summary": summary})
    if handed.receipt is None:
        detail = f"{detail}; the hand-over was refused too: {why(handed)}"
        return await turn.end("failed", f"{reason}: {detail}", result_of(case))
    if case is not None:
        await _remember(turn, parts, case, "escalated", reason)
    return await turn.end("escalated", f"{reason}: {detail}", result_of(case))
