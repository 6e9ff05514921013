"""`mainspring tickets`: tickets of another system onto the help-desk, and worked."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import track

from agents.helpdesk import HelpDesk
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import SystemClock
from cluster.settings import infra_path, load
from serve import ticket_files
from serve.mcp_cli import KEY_VARIABLE
from serve.ticket_files import FORMS, Form, Ticket, Wrong

console = Console(highlight=False, soft_wrap=True)
tickets = typer.Typer(no_args_is_help=True, help="The help-desk's tickets.")
_SHOWN: Final = 20
SOME_WRONG: Final = 1


@tickets.callback()
def _tickets() -> None:
    """Keeps `tickets import` a command of its own while it is the only one."""


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
    added: list[str] = []
    try:
        desk.seed(infra_path("", settings.support.desk))
        before = desk.counts()["customers"]
        for found in track(ticket_files.tickets(file, read_as), "tickets", console=console):
            wrong = found if isinstance(found, Wrong) else _opened(desk, found, counts)
            if wrong is not None:
                counts["wrong"] += 1
                if counts["wrong"] <= _SHOWN:
                    console.print(f"{wrong.where}: {wrong.why}", markup=False)
            elif isinstance(found, Ticket) and work:
                added.append(found.id)
        customers = desk.counts()["customers"] - before
    finally:
        desk.close()
    told = f"{counts['added']} added, {counts['known']} there already, {counts['wrong']} wrong"
    console.print(f"{told}; {customers} new customers")
    if work:
        asyncio.run(_worked(profile, added))
    if counts["wrong"]:
        raise typer.Exit(SOME_WRONG)


def _opened(desk: HelpDesk, ticket: Ticket, counts: Counter[str]) -> Wrong | None:
    try:
        customer = ticket.customer or desk.customer_for(ticket.email, ticket.name, ticket.received)
        opened = desk.open_ticket(ticket.id, customer, ticket.subject, ticket.body, ticket.received)
    except (NotFound, Conflict, InvalidInput) as error:
        return Wrong(f"ticket {ticket.id}", str(error))
    counts["known" if opened["repeated"] else "added"] += 1
    return None


async def _worked(profile: str | None, ids: list[str]) -> None:
    """Begin a run of the support workflow for each, once."""
    from serve.client import Client
    from serve.run_cli import address_of

    head = load(profile).support.intents
    async with Client(address_of(profile), os.environ.get(KEY_VARIABLE, "")) as client:
        for id in ids:
            given: dict[str, Any] = {"ticket": id, "head": head}
            await client.begin("support", given, key=f"ticket:{id}")
    console.print(f"{len(ids)} runs begun; mainspring runs list")
