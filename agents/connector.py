"""Connectors: the help-desk's, an actor that alone holds the desk and what is personal in it, and
those of workflow packs.

Whatever leaves the help-desk's has [NAME_1]-like references in place of personal data; whatever
enters it as a reply gets them filled in on the way to the customer. Writes are done once per key,
in one transaction with their receipt, so that a repeat after a crash returns the first receipt.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray

from agents.guarded import Guarded
from agents.guarding import pack_guard
from agents.helpdesk import HelpDesk
from agents.intents import Guard
from agents.packs import CONNECTOR, PACKS, load
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.session import NAMESPACE


class PackConnector(Guarded):
    """The tools of one workflow pack, on its desk: an actor that alone holds what the desk needs to
    reach the world."""

    def __init__(self, pack: str, folder: Path, make_guard: Callable[[], Guard]) -> None:
        """`pack` is its name or path in the settings, `folder` the stack's data folder."""
        super().__init__(make_guard())
        (found,) = load([pack]).values()
        self._desk = found.desk(folder / PACKS / found.name, SystemClock())

    def pid(self) -> int:
        return os.getpid()

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """See `agents.packs.Desk`; the receipt carries its `kind`, the tool's name there."""
        name = tool.partition(".")[2]
        return {"kind": name, **self._desk.perform(name, key, ticket, args)}

    def find(self, key: str) -> dict[str, Any] | None:
        """See `agents.packs.Desk`."""
        return self._desk.find(key)


def start_desk(packs: Mapping[str, str], folder: Path, name: str) -> Any:
    """The actor of this name that is a pack's connector; it is started when there is none, by the
    first effect that the pack wants. `packs` holds their names in the settings by their own."""
    pack = name.removeprefix(CONNECTOR)
    return (
        ray.remote(PackConnector)
        .options(
            name=name, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_task_retries=0, max_concurrency=8,
        )
        .remote(packs[pack], folder, partial(pack_guard, folder, pack))
    )  # fmt: skip


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
