"""The help-desk's connector: an actor that alone holds the desk and what is personal in it.

Whatever leaves it has [NAME_1]-like references in place of personal data; whatever enters it as
a reply gets them filled in on the way to the customer. Writes are done once per key, in one
transaction with their receipt, so that a repeat after a crash returns the first receipt.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.guarded import Guarded
from agents.helpdesk import HelpDesk
from agents.intents import Guard
from cluster.errors import InvalidInput
from cluster.ids import SystemClock


class Connector(Guarded):
    """The tools of `agents/tools.py` on a help-desk."""

    def __init__(self, path: Path, seed: Path, make_guard: Callable[[], Guard]) -> None:
        super().__init__(make_guard())
        self._desk = HelpDesk(path, SystemClock())
        self._desk.seed(seed)

    def pid(self) -> int:
        return os.getpid()

    def open_tickets(self, tickets: list[dict[str, str]]) -> int:
        """Put tickets on the desk; one that is there already stays as it is."""
        for t in tickets:
            self._desk.open_ticket(
                t["id"], t["customer"], t.get("subject", ""), t["body"], t["received"]
            )
        return len(tickets)

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """Do `tool` for `ticket`; the receipt carries its `kind`.

        Raises NotFound or Conflict when the desk refuses (nothing was done then), InvalidInput
        for a tool that it does not have.
        """
        match tool:
            case "read_ticket":
                return {"kind": "ticket", **self._desk.read_ticket(ticket)}
            case "lookup_account":
                return {"kind": "account", **self._desk.account(self._desk.customer_of(ticket))}
            case "lookup_order":
                order = self._desk.order(self._desk.customer_of(ticket), args["order"])
                return {"kind": "order", **order}
            case "refund":
                receipt = self._desk.refund(key, ticket, args["order"], args["amount_cents"])
            case "reply":
                receipt = self._desk.reply(key, ticket, args["text"])
            case "escalate":
                receipt = self._desk.escalate(key, ticket, args["reason"], args["summary"])
            case "assign":
                receipt = self._desk.assign(key, ticket, args["queue"])
            case "withdraw":
                receipt = self._desk.withdraw(key, ticket, args["of"])
            case _:
                raise InvalidInput("tool", tool, "a tool of the help-desk")
        return {"kind": tool, **receipt}

    def find(self, key: str) -> dict[str, Any] | None:
        """The receipt of the write done under `key`, or None when there was none."""
        return self._desk.find(key)

    def sent(self, ticket: str) -> str | None:
        """The reply as the customer got it."""
        return self._desk.sent(ticket)

    def counts(self) -> dict[str, int]:
        """How many rows each kind of effect has; for reports and tests."""
        return self._desk.counts()
