"""What the routine model is taught: evidence for a ticket, and the reply that rests on it.

The reply is a function of the evidence: one sentence for each step result, then the first passage
that fits what is asked, copied. A citation comes before what rests on it: whoever writes word by
word first chooses a source and then copies, which a small model finds much easier than the other
way round. Same wording every time: a model of this size learns one way to say a thing well.
"""

from collections.abc import Mapping
from random import Random
from typing import Final

from agents.references import References
from agents.workflows.prompts import NO_ANSWER, Evidence, account_text, order_text, refund_text
from serve.distill.passages import Passage, make_passage, make_past_answer, make_trap
from serve.distill.plans import Step, expected_steps
from serve.distill.tickets import (
    ORDER_INTENTS,
    POLICY_INTENTS,
    Ticket,
    amount,
    date,
    item,
    make_ticket,
)

SIGN_OFF: Final = "Kind regards,\nLumen & Oak"
STATUSES: Final = ("processing", "shipped", "delivered", "shipped", "delivered", "returned")
_CANCELLED: Final = 0.1
_ANSWERED: Final = 0.7  # of the topics asked about have a passage
_NEEDS_PASSAGE: Final = ("return_item", *POLICY_INTENTS)
_USES_PASSAGE: Final = ("delivery_late", *_NEEDS_PASSAGE)
_TOPICS: Final = (*_USES_PASSAGE, "refund_request", "damaged_item", "wrong_item", "other")
# Topics so near that one must not stand beside the other as a distractor.
_NEAR: Final = {
    "delivery_late": ("delivery_options",),
    "delivery_options": ("delivery_late",),
}

Draft = tuple[list[Evidence], str]


class _Reply:
    """Evidence and the sentences that cite it, numbered together."""

    def __init__(self, refs: References) -> None:
        self._refs = refs
        self.evidence: list[Evidence] = []
        self.sentences: list[str] = []

    def add(self, source: str, text: str) -> str:
        """Put a line into the evidence; its id."""
        id = f"E{len(self.evidence) + 1}"
        self.evidence.append(Evidence(id, source, self._refs.rewrite(text)))
        return id

    def say(self, sentence: str, id: str) -> None:
        """A sentence, or several, of the reply that rest on the evidence `id`."""
        self.sentences.append(f"({id}) {self._refs.rewrite(sentence).rstrip('.')}.")


def make_draft(rng: Random, ticket: Ticket, refs: References, split: str) -> Draft:
    """Evidence for `ticket`, whose text `refs` has seen, and the reply to it."""
    reply = _Reply(refs)
    passages, present = _recalled(rng, ticket, split)
    # As in the workflow: memory is asked first, so its values get the first references.
    for passage in passages:
        refs.rewrite(passage.text)
    named = False
    steps = expected_steps(ticket, refs)
    for step in steps:
        if step["tool"] == "lookup_account":
            named = _account(rng, reply) or named
    orders: dict[str, dict[str, object]] = {}
    for step in steps:
        if step["tool"] == "lookup_order":
            orders[step["order"]] = _order(rng, reply, step["order"], split)
    for step in steps:
        if step["tool"] == "refund":
            _refund(rng, reply, step, orders[step["order"]])
    asks = any(step["tool"] == "lookup_account" for step in steps)
    answered = _cite(reply, ticket, passages, present) or asks
    if not reply.sentences or not answered:
        return reply.evidence, NO_ANSWER
    greeting = "Hello [NAME_1]," if named else "Hello,"
    return reply.evidence, f"{greeting}\n{' '.join(reply.sentences)}\n{SIGN_OFF}"


def order_sentence(order: Mapping[str, object]) -> str:
    """An order in words for the customer; keys as in `order_text`."""
    start = f"Your order {order['id']} with the {order['item']}"
    status = order["status"]
    expected = f"it is expected on {order['expected']}" if order.get("expected") else ""
    if status == "processing":
        return f"{start} is processing" + (f"; {expected}" if expected else "")
    if status == "shipped":
        text = f"{start} was shipped"
        text += f" on {order['shipped']}" if order.get("shipped") else ""
        text += f"; {expected}" if expected else ""
        if order.get("tracking"):
            text += f"; the tracking number is {order['tracking']}"
        return text
    if status == "delivered":
        return f"{start} was delivered" + (
            f" on {order['delivered']}" if order.get("delivered") else ""
        )
    text = f"{start} was {status}"
    return text + (f"; {order['refunded']} was refunded" if order.get("refunded") else "")


def _order(rng: Random, reply: _Reply, reference: str, split: str) -> dict[str, object]:
    status = "cancelled" if rng.random() < _CANCELLED else rng.choice(STATUSES)
    order: dict[str, object] = {
        "id": reference,
        "status": status,
        "item": item(rng, split),
        "total": amount(rng),
        "ordered": date(rng),
    }
    if status in ("processing", "shipped") and rng.random() < 0.85:
        order["expected"] = date(rng)
    if status in ("shipped", "delivered", "returned") and rng.random() < 0.9:
        order["shipped"] = date(rng)
        if rng.random() < 0.85:
            order["tracking"] = f"LX{rng.randrange(10**8, 10**9)}DE"
    if status == "delivered" and rng.random() < 0.9:
        order["delivered"] = date(rng)
        if rng.random() < 0.5:
            order["expected"] = date(rng)
    if status == "returned" and rng.random() < 0.5:
        order["delivered"] = date(rng)
    if status in ("returned", "cancelled") and rng.random() < 0.7:
        order["refunded"] = amount(rng)
    reply.say(order_sentence(order), reply.add("order", order_text(order)))
    return order


def _refund(rng: Random, reply: _Reply, step: Step, order: Mapping[str, object]) -> None:
    paid = order["total"] if step["amount"] == "total" else step["amount"]
    refund = {"amount": paid, "order": step["order"], "days": rng.randrange(2, 15)}
    id = reply.add("refund", refund_text(refund))
    reply.say(
        f"We have refunded {paid} for order {step['order']}; "
        f"it arrives within {refund['days']} working days",
        id,
    )


def _account(rng: Random, reply: _Reply) -> bool:
    """The account line and what to ask about it; whether the line names the customer."""
    named = rng.random() < 0.85
    orders = [f"LO-{rng.randrange(10_000, 100_000)}" for _ in range(rng.choice((0, 1, 2, 2, 3, 4)))]
    since = rng.choice((date(rng), str(rng.randrange(2012, 2027))))
    name = "[NAME_1]" if named else "[EMAIL_1]"
    id = reply.add("account", account_text({"name": name, "since": since, "orders": orders}))
    if not orders:
        reply.say("We have no orders from you", id)
        reply.sentences.append("Please send us your order number.")
        return named
    listed = orders[0] if len(orders) == 1 else f"{', '.join(orders[:-1])} and {orders[-1]}"
    if len(orders) > 1:
        reply.say(f"You have the orders {listed} with us", id)
        reply.sentences.append("Which one do you mean?")
    else:
        reply.say(f"You have the order {listed} with us", id)
        reply.sentences.append("Do you mean this order?")
    return named


def _recalled(rng: Random, ticket: Ticket, split: str) -> tuple[list[Passage], list[str]]:
    """What memory gives for `ticket`, in random order, and the topics that it answers."""
    asked = [r.intent for r in ticket.requests]
    usable = [t for t in asked if t in _USES_PASSAGE]
    present = [t for t in usable if rng.random() < _ANSWERED]
    near = [n for topic in asked for n in _NEAR.get(topic, ())]
    distractors = [t for t in _TOPICS if t not in usable and t not in near]
    passages = [_passage(rng, topic, split) for topic in present]
    if present and rng.random() < 0.4:
        # Recall often finds more than one paragraph that fits.
        passages.append(_passage(rng, rng.choice(present), split))
    for _ in range(3 - len(passages) if rng.random() < 0.7 else rng.choice((0, 1))):
        passages.append(_passage(rng, rng.choice(distractors), split))
    if rng.random() < 0.06:
        passages.append(make_trap(rng, split))
    rng.shuffle(passages)
    return passages, present


def _cite(reply: _Reply, ticket: Ticket, passages: list[Passage], present: list[str]) -> bool:
    """Put the passages into the evidence and answer each topic from the first policy that fits,
    or else from the first past answer; whether all that has to be answered from one is."""
    numbered = [(reply.add(p.source, p.text), p) for p in passages]
    numbered.sort(key=lambda pair: pair[1].source.startswith("ticket:"))
    for topic in present:
        id, passage = next((i, p) for i, p in numbered if p.topic == topic)
        reply.say(" ".join(passage.answer), id)
    return all(r.intent in present for r in ticket.requests if r.intent in _NEEDS_PASSAGE)


def _passage(rng: Random, topic: str, split: str) -> Passage:
    if rng.random() < 0.2:
        return make_past_answer(rng, topic, split, lambda: _question(rng, topic, split))
    return make_passage(rng, topic, split)


def _question(rng: Random, topic: str, split: str) -> str:
    for _ in range(20):
        ticket = make_ticket(rng, split, answerable=True)
        if ticket.intent == topic and len(ticket.text) < 80:
            return ticket.text
    return "How does this work?"


__all__ = ["ORDER_INTENTS", "SIGN_OFF", "make_draft", "order_sentence"]
