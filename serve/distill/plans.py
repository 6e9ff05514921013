"""What the planner is taught: from the requests of a ticket to its plan."""

import json
from typing import Final

from agents.references import References
from serve.distill.tickets import ORDER_INTENTS, PERSON_INTENTS, REFUND_INTENTS, Ticket

Step = dict[str, str]

MAX_ORDERS: Final = 2
TOOLS: Final = ("lookup_account()", "reply()", "escalate(reason)")
ORDER_TOOLS: Final = ("lookup_order(order)", "refund(order,amount)")


def tool_forms(refs: References, *, order_tools: bool = False) -> list[str]:
    """The call forms offered for a ticket: the order tools where an order is named, or where
    something recalled has brought one in."""
    if order_tools or refs.of_kind("ORDER"):
        return [TOOLS[0], *ORDER_TOOLS, *TOOLS[1:]]
    return list(TOOLS)


def expected_plan(ticket: Ticket, refs: References) -> str:
    """The plan of `ticket` as compact JSON. `refs` has seen the ticket's text."""
    return json.dumps({"steps": expected_steps(ticket, refs)})


def expected_steps(ticket: Ticket, refs: References) -> list[Step]:
    """Lookups, then refunds, then the one end. What no tool can do goes to a person at once."""
    if ticket.reason:
        return [{"tool": "escalate", "reason": ticket.reason}]
    if any(r.intent in PERSON_INTENTS for r in ticket.requests):
        return [{"tool": "escalate", "reason": "needs_person"}]
    named = list(dict.fromkeys(o.upper() for r in ticket.requests for o in r.orders))[:MAX_ORDERS]
    steps: list[Step] = [
        {"tool": "lookup_order", "order": refs.refer("ORDER", order)} for order in named
    ]
    if not named and any(r.intent in ORDER_INTENTS + REFUND_INTENTS for r in ticket.requests):
        steps.append({"tool": "lookup_account"})
    for request in ticket.requests:
        if request.intent in REFUND_INTENTS:
            amount = refs.refer("AMOUNT", request.amount) if request.amount else "total"
            steps += [
                {"tool": "refund", "order": refs.refer("ORDER", order), "amount": amount}
                for order in request.orders
                if order.upper() in named
            ]
    steps.append({"tool": "reply"})
    return steps
