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
from typing import Any, Final

from agents import offering
from agents import plan as plans
from agents.money import cents
from agents.references import References
from agents.toolbox import of_server
from agents.tools import WHOLE_TOTAL, Offer, support_offers
from agents.turn import Turn
from agents.workflows import prompts
from agents.workflows.answering import Parts, escalate, reply, thanked
from agents.workflows.cases import (
    CUSTOMER,
    KINDS,
    Case,
    evidence_for,
    keep,
    label_of,
    only_thanks,
    opened,
    passage,
    trouble_of,
    why,
)
from agents.workflows.languages import ENGLISH
from cluster.errors import InvalidInput
from cluster.settings import SupportSection

OUT_OF_SCOPE: Final = "out_of_scope"
_PLAN_ATTEMPTS: Final = 2
_PLAN_TOKENS: Final = 160
_CALL_TOKENS: Final = 240
"""What the arguments of servers' tools may take in addition."""


async def work(turn: Turn, parts: Parts) -> None:
    """Bring `turn`'s ticket to its end."""
    place = {"message": turn.run.input["message"]} if turn.run.input.get("message") else {}
    read = await turn.act("read", "read_ticket", place)
    if read.receipt is None:
        return await escalate(turn, parts, None, "ticket unreadable", why(read))
    case, orders = opened(read.receipt)
    amounts = case.amounts()
    if case.message and only_thanks(str(read.receipt["text"])):
        return await thanked(turn, case)
    if trouble := await _put_into_english(turn, parts, case):
        return await escalate(turn, parts, case, *trouble)
    case.intent = await turn.phase("intent", lambda: _classified(parts, case))
    if doubt := _doubt(case.intent, parts.section):
        return await escalate(turn, parts, case, *doubt)
    # What a plan may name comes from the ticket alone, never from what is recalled next.
    offers = support_offers(orders, amounts)
    numbers = case.references.of_kind("NUMBER")
    offers += await offering.for_turn(turn, parts.servers, case.ticket, numbers)
    case.passages = await _recall(turn, parts, case)
    plan = await _plan(turn, parts, case, offers)
    if plan is None:
        return await escalate(turn, parts, case, "no plan", "the planner gave no valid plan")
    for index, step in enumerate(plan.steps[:-1], 1):
        if trouble := await _do(turn, case, index, step):
            return await escalate(turn, parts, case, *trouble)
    last = plan.steps[-1]
    if last.tool == "escalate":
        return await escalate(
            turn, parts, case, last.args["reason"], "the plan hands it to a person"
        )
    await reply(turn, parts, case)
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


async def _classified(parts: Parts, case: Case) -> dict[str, Any]:
    """The intent of the customer's last word; of one that says little alone, with what it goes on
    from. And how far the thread has drifted from what it was opened with."""
    intent = await _intent(parts, case)
    if case.opened:
        drift = await parts.classifier.drift(case.opened, case.ticket)
        intent = {**intent, "drift": round(drift, 3)}
    return intent


async def _intent(parts: Parts, case: Case) -> dict[str, Any]:
    intent = await parts.classifier.classify(case.ticket)
    if not case.before or _doubt(intent, parts.section) is None:
        return intent
    earlier = [m["text"] for m in case.before if m["author"] == CUSTOMER]
    together = await parts.classifier.classify("\n".join((*earlier[-1:], case.ticket)))
    return intent if _doubt(together, parts.section) else together


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
        args = step.filled
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
