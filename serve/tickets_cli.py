"""`mainspring tickets`: the help-desk from the terminal; tickets of another system onto it."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from agents.helpdesk import HelpDesk
from agents.macros import Macros
from agents.threads import STATUSES
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import SystemClock
from cluster.settings import infra_path, load
from serve import ticket_files
from serve.mcp_cli import KEY_VARIABLE
from serve.ticket_files import FORMS, Form, Ticket, Wrong

if TYPE_CHECKING:
    from serve.client import Client

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
BY = typer.Option(..., "--by", help="Who does it; kept with what is done.")
JSON = typer.Option(False, "--json", help="For scripts.")
TICKET = typer.Argument(..., help="A ticket's id.")
tickets = typer.Typer(no_args_is_help=True, help="The help-desk's tickets.")
_SHOWN: Final = 20
SOME_WRONG: Final = 1


@tickets.command("import")
def imported(
    file: Path = typer.Argument(..., help="A CSV, a mailbox (.mbox), or Zendesk's JSON export."),
    form: str = typer.Option("", help="csv, mbox or zendesk; default: by the file's name."),
    work: bool = typer.Option(False, "--work", help="Have the running stack work them, too."),
    profile: str | None = typer.Option(
        None, "--profile", help="A profile's name or file; default: local."
    ),
) -> None:
    """Take tickets over onto the help-desk, with their customers; again is the same as once. Exit
    status 1 when some could not be taken over."""
    if form and form not in FORMS.values():
        raise InvalidInput("form", form, f"one of {sorted(set(FORMS.values()))}")
    read_as: Form = ticket_files.form_of(file) if not form else form  # type: ignore[assignment]
    settings = load(profile)
    desk = HelpDesk(settings.path("desk.db"), SystemClock())
    counts: Counter[str] = Counter()
    added: dict[str, str] = {}
    try:
        desk.seed(infra_path("", settings.support.desk))
        before = desk.counts()["customers"]
        for found in track(ticket_files.tickets(file, read_as), "tickets", console=console):
            became = found if isinstance(found, Wrong) else _opened(desk, found, counts)
            if isinstance(became, Wrong):
                counts["wrong"] += 1
                if counts["wrong"] <= _SHOWN:
                    console.print(f"{became.where}: {became.why}", markup=False)
            elif isinstance(found, Ticket) and work:
                added[found.id] = became
        customers = desk.counts()["customers"] - before
    finally:
        desk.close()
    told = f"{counts['added']} added, {counts['known']} there already, {counts['wrong']} wrong"
    console.print(f"{told}; {customers} new customers")
    if work:
        asyncio.run(_worked(profile, added))
    if counts["wrong"]:
        raise typer.Exit(SOME_WRONG)


def _opened(desk: HelpDesk, ticket: Ticket, counts: Counter[str]) -> Wrong | str:
    """Whose ticket it is, once it is on the desk."""
    try:
        customer = ticket.customer or desk.customer_for(ticket.email, ticket.name, ticket.received)
        opened = desk.open_ticket(ticket.id, customer, ticket.subject, ticket.body, ticket.received)
    except (NotFound, Conflict, InvalidInput) as error:
        return Wrong(f"ticket {ticket.id}", str(error))
    counts["known" if opened["repeated"] else "added"] += 1
    return str(customer)


async def _worked(profile: str | None, customers: dict[str, str]) -> None:
    """Begin a run of the support workflow for each of these tickets, once."""
    from serve.client import Client
    from serve.run_cli import address_of

    head = load(profile).support.intents
    async with Client(address_of(profile), os.environ.get(KEY_VARIABLE, "")) as client:
        for id, customer in customers.items():
            given: dict[str, Any] = {"ticket": id, "head": head}
            await client.begin("support", given, key=f"ticket:{id}", agent=f"support/{customer}")
    console.print(f"{len(customers)} runs begun; mainspring runs list")


# --- one ticket


@tickets.command("list")
def listed(
    status: str = typer.Option("", help=f"One of {', '.join(STATUSES)}."),
    after: str = typer.Option("", help="Behind this one, as the last page ended."),
    limit: int = typer.Option(20, min=1, max=100),
    as_json: bool = JSON,
    profile: str | None = PROFILE,
) -> None:
    """List tickets, the newest first; those that wait for a person with --status escalated."""
    found = _asked(profile, lambda c: c.tickets(status, after, limit))
    if as_json:
        return console.print_json(json.dumps(found))
    table = Table("ticket", "status", "held by", "customer", "subject", box=None)
    for row in found["data"]:
        cells = (row["id"], row["status"], row["held_by"] or "", row["name"], row["subject"])
        table.add_row(*(Text(str(cell)) for cell in cells))
    console.print(table)


@tickets.command("show")
def show(ticket: str = TICKET, as_json: bool = JSON, profile: str | None = PROFILE) -> None:
    """Show a ticket: its thread, its customer, and why it was handed over."""
    _shown(_asked(profile, lambda c: c.ticket(ticket)), as_json)


@tickets.command("say")
def say(
    ticket: str = TICKET,
    text: str = typer.Option(..., help="What the customer writes next."),
    profile: str | None = PROFILE,
) -> None:
    """Add a customer's further message; an agent answers it unless a person has the ticket."""
    said = _asked(profile, lambda c: c.act(ticket, "messages", text=text))
    who = f"run {said['run']}" if said["run"] else f"it waits for a {said['waits_for']}"
    console.print(f"message {said['message']}; {who}", markup=False)


@tickets.command("take")
def take(ticket: str = TICKET, by: str = BY, profile: str | None = PROFILE) -> None:
    """Take a ticket: no agent answers it until it is given back."""
    _done(profile, ticket, "take", by=by)


@tickets.command("answer")
def answer(
    ticket: str = TICKET,
    by: str = BY,
    text: str = typer.Option("", help="What the customer is to read."),
    macro: str = typer.Option("", help="Or a macro's name: mainspring tickets macros."),
    profile: str | None = PROFILE,
) -> None:
    """Answer the customer as a person."""
    _done(profile, ticket, "answer", by=by, text=text, macro=macro)


@tickets.command("return")
def give_back(
    ticket: str = TICKET,
    by: str = BY,
    note: str = typer.Option("", help="For the agent that goes on; it counts as evidence."),
    profile: str | None = PROFILE,
) -> None:
    """Give a ticket back to the agents, who go on where the customer waits."""
    _done(profile, ticket, "return", by=by, note=note)


@tickets.command("close")
def close(ticket: str = TICKET, by: str = BY, profile: str | None = PROFILE) -> None:
    """Close a ticket; the customer's next message opens it again."""
    _done(profile, ticket, "close", by=by)


@tickets.command("rate")
def rate(
    ticket: str = TICKET,
    score: int = typer.Option(..., min=1, max=5, help="1 (bad) to 5 (good)."),
    comment: str = typer.Option("", help="What the customer said of it."),
    profile: str | None = PROFILE,
) -> None:
    """Note what the customer thought of the answer."""
    _done(profile, ticket, "rating", score=score, comment=comment)


@tickets.command("macros")
def macros(profile: str | None = PROFILE) -> None:
    """List the answers that the team has written once: macros.yaml beside the desk's data."""
    table = Table("macro", "about", "for", box=None)
    settings = load(profile)
    for macro in Macros(infra_path("", settings.support.desk)).fitting():
        table.add_row(Text(macro.name), Text(macro.about), ", ".join(macro.intents) or "all")
    console.print(table)


def _asked(profile: str | None, ask: Callable[["Client"], Awaitable[dict[str, Any]]]) -> Any:
    """The running stack's answer."""
    from serve.client import Client
    from serve.run_cli import address_of

    async def asked() -> dict[str, Any]:
        async with Client(address_of(profile), os.environ.get(KEY_VARIABLE, "")) as client:
            return await ask(client)

    return asyncio.run(asked())


def _done(profile: str | None, ticket: str, act: str, **body: Any) -> None:
    told = _asked(profile, lambda c: c.act(ticket, act, **body))
    again = f"; an agent works it: run {told['runs'][0]}" if told["runs"] else ""
    console.print(f"{ticket}: {told['status']}, by run {told['run']}{again}", markup=False)


def _shown(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return console.print_json(json.dumps(told))
    who = told["customer"]
    lines = [
        f"{told['id']}: {told['subject'] or 'no subject'} ({told['status']})",
        f"{who['name']} <{who['email']}>, customer {who['id']}",
        *(f"order {o['id']}: {o['item']}, {o['status']}" for o in told["orders"]),
        *(f"ticket {t['id']}: {t['subject']}, {t['status']}" for t in told["other_tickets"]),
        f"\n{told['received']} customer:\n{told['body']}",
    ]
    for said in told["messages"]:
        at = datetime.fromtimestamp(said["at"], UTC).strftime("%Y-%m-%d %H:%M")
        who = f"{said['by']}, {said['author']}" if said["by"] else said["author"]
        lines.append(f"\n{at} {who}:\n{said['text']}")
    if told["escalation"] is not None:
        lines.append(
            f"\nhanded over: {told['escalation']['reason']}\n{told['escalation']['summary']}"
        )
    if told["rating"] is not None:
        lines.append(f"\nrated {told['rating']['score']} of 5 {told['rating']['comment']}")
    console.print("\n".join(lines), markup=False)
