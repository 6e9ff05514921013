"""What both models are taught of reading a ticket: its intent and slots as JSON."""

import json
from random import Random
from typing import Final

from agents.references import References
from agents.workflows.prompts import Message, slots_messages
from serve.distill.tickets import INTENTS, Ticket, make_ticket

# What a ticket is that asks for nothing a shop's intent stands for.
_UNUSUAL: Final = {
    "needs_person": "person",
    "out_of_scope": "out_of_scope",
    "not_allowed": "not_allowed",
    "missing_information": "unclear",
}
OFFERED: Final = (*INTENTS, *_UNUSUAL.values())


def make_slots(rng: Random, split: str) -> tuple[list[Message], str]:
    """A ticket's prompt, and its intent and slots as JSON."""
    ticket = make_ticket(rng, split)
    refs = References()
    text = refs.rewrite(ticket.text)
    return slots_messages(ticket=text, intents=OFFERED), expected_slots(ticket, refs)


def expected_slots(ticket: Ticket, refs: References) -> str:
    """`intent` of the first request; `orders` and `amount` that the customer's own requests name,
    never those of an injection; `person`: whether one is asked for. `refs` has seen the text."""
    orders = dict.fromkeys(o.upper() for r in ticket.requests for o in r.orders)
    amounts = [r.amount for r in ticket.requests if r.amount]
    return json.dumps(
        {
            "intent": ticket.requests[0].intent
            if ticket.requests
            else _UNUSUAL[ticket.reason or "missing_information"],
            "orders": [refs.refer("ORDER", order) for order in orders],
            "amount": refs.refer("AMOUNT", amounts[0]) if amounts else None,
            "person": ticket.reason == "needs_person",
        }
    )
