"""The help-desk's connector: an actor that alone holds the desk and what is personal in it.

Whatever leaves it has [NAME_1]-like references in place of personal data; whatever enters it as
a reply gets them filled in on the way to the customer. Writes are done once per key, in one
transaction with their receipt, so that a repeat after a crash returns the first receipt.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agents.guarded import Guarded
from agents.helpdesk import HelpDesk
from agents.intents import Guard
from agents.macros import Macros
from agents.presidio import PATTERNS, detectors
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import PiiSection

_WRITES: Final = {
    "refund": ("order", "amount_cents"),
    "reply": ("text", "message"),
    "escalate": ("reason", "summary"),
    "assign": ("queue",),
    "withdraw": ("of",),
    "take": ("by",),
    "answer": ("by", "draft"),
    "give_back": ("by", "draft"),
    "close_ticket": ("by",),
    "rate": ("score", "draft"),
}
"""The desk's methods that are tools, with the arguments that they take."""


class Connector(Guarded):
    """The tools of `agents/tools.py` on a help-desk."""

    def __init__(
        self, path: Path, seed: Path, make_guard: Callable[[], Guard],
        pii: PiiSection = PATTERNS,
    ) -> None:  # fmt: skip
        super().__init__(make_guard())
        self._desk = HelpDesk(path, SystemClock(), detectors(pii))
        self._desk.seed(seed)
        self._macros = Macros(seed)

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
            case "read_ticket" if args.get("message"):
                return {"kind": "ticket", **self._desk.read_message(ticket, args["message"])}
            case "read_ticket":
                return {"kind": "ticket", **self._desk.read_ticket(ticket)}
            case "lookup_account":
                return {"kind": "account", **self._desk.account(self._desk.customer_of(ticket))}
            case "lookup_order":
                order = self._desk.order(self._desk.customer_of(ticket), args["order"])
                return {"kind": "order", **order}
        if tool not in _WRITES:
            raise InvalidInput("tool", tool, "a tool of the help-desk")
        given = {name: args[name] for name in _WRITES[tool] if name in args}
        return {"kind": tool, **getattr(self._desk, tool)(key, ticket, **given)}

    # --- what people and their programs see and bring (raw: not for models or logs)

    def opened(
        self, id: str, customer: str, email: str, name: str, subject: str, body: str, received: str
    ) -> dict[str, Any]:
        """Put a ticket on the desk; whose it is, and whether it was there."""
        who = customer or self._desk.customer_for(email, name, received[:10])
        return self._desk.open_ticket(id, who, subject, body, received)

    def said(self, ticket: str, id: str, text: str) -> dict[str, Any]:
        """See `Threads.say`."""
        return self._desk.say(ticket, id, text)

    def drafted(self, ticket: str, by: str, text: str) -> str:
        """See `Threads.draft`."""
        return self._desk.draft(ticket, by, text)

    def filled(self, ticket: str, by: str, macro: str) -> tuple[str, bool]:
        """The draft that a macro makes for a ticket, and whether the macro closes it. NotFound for
        an unknown macro."""
        found = self._macros.require(macro)
        return self._desk.draft(ticket, by, macro=found), found.closes

    def thread(self, ticket: str) -> dict[str, Any]:
        """See `Threads.whole`, with the macros."""
        macros = [macro.model_dump(mode="json") for macro in self._macros.fitting()]
        return {**self._desk.whole(ticket), "macros": macros}

    def listed(self, status: str, after: str, limit: int) -> list[dict[str, Any]]:
        """See `Threads.listed`."""
        return self._desk.listed(status, after, limit)

    def find(self, key: str) -> dict[str, Any] | None:
        """The receipt of the write done under `key`, or None when there was none."""
        return self._desk.find(key)

    def sent(self, ticket: str) -> str | None:
        """The reply as the customer got it."""
        return self._desk.sent(ticket)

    def counts(self) -> dict[str, int]:
        """How many rows each kind of effect has; for reports and tests."""
        return self._desk.counts()
