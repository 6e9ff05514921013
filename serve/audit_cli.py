"""`mainspring audit`: is the record whole, what is in it, and a copy of it for elsewhere.

Works on the journal's own database, whether the stack is running or not.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from agents.audit import Audit, verify_refusals
from agents.audit_export import MAX_BYTES, export, verify
from agents.audit_key import AuditKey
from agents.guarding import AUDIT, refusals
from agents.noted import note
from agents.pseudonyms import namer
from agents.receipts import receipts
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.objects import opened as place_at
from cluster.settings import Settings, load
from serve.operator_cli import BY, PROFILE, RUN, TENANT, opened, own_run
from serve.pseudonyms_cli import kept

console = Console(highlight=False, soft_wrap=True)

audit = typer.Typer(no_args_is_help=True, help="What was decided and done, and whether that holds.")


@audit.command("verify")
def audit_verify(
    file: Path | None = typer.Option(None, help="An export to verify instead of the journal."),
    profile: str | None = PROFILE,
) -> None:
    """Look for what was changed, removed, reordered or cut off. Exit status 1 when something
    was."""
    settings = load(profile)
    if file is not None:
        count = verify(_read(file), AuditKey(_folder(settings)))
        console.print(f"{count} receipts, as they were written", markup=False)
        return
    with opened(settings) as journal:
        found = Audit(journal, _folder(settings), SystemClock()).verify()
    counted = [verify_refusals(file) for file in refusals(settings.data_dir.resolve())]
    refused, wrong = sum(n for n, _ in counted), [s for _, said in counted for s in said]
    for sentence in (*found.wrong, *wrong):
        console.print(sentence, markup=False)
    told = f"{found.runs} runs, {found.events} events, {found.checkpoints} checkpoints"
    console.print(f"{told}, {refused} refused intents: {len(found.wrong) + len(wrong)} wrong")
    if found.wrong or wrong:
        raise typer.Exit(1)


@audit.command("show")
def audit_show(
    run: str = RUN,
    step: str | None = typer.Option(None, help="Only this step."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Show the receipts of a run: action, context, decision, outcome, identity."""
    settings = load(profile)
    with opened(settings) as journal:
        own_run(journal, run, tenant or settings.tenant)
        made: list[dict[str, Any]] = receipts(run, journal.verified(run))
    for receipt in made:
        if step in (None, receipt["step"]):
            console.print_json(json.dumps(receipt))


@audit.command("export")
def audit_export(
    to: str = typer.Argument(..., help="A folder, or s3://BUCKET/PREFIX."),
    name: str = typer.Option("receipts.jsonl", help="The file's name there."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Write the receipts as signed JSON lines, with pseudonyms where a name looks personal."""
    settings = load(profile)
    with opened(settings) as journal:
        clock, owner = SystemClock(), tenant or settings.tenant
        key, place = AuditKey(_folder(settings)), place_at(to)
        with kept(settings) as pseudonyms:
            named = namer(pseudonyms, owner)
            count = export(journal, key, clock, owner, place, name, named)
    console.print(f"{count} receipts of {owner} written to {to}/{name}", markup=False)


def erase(
    customer: str = typer.Argument(..., help="A customer's id at the help-desk."),
    by: str = BY,
    why: str = typer.Option("", help="Why; kept in the journal."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Take away what is personal of a customer at the help-desk, and what was hidden of it under
    pseudonyms. What was done stays, and its references bring nothing back; that it was asked for is
    journaled."""
    from agents.helpdesk import HelpDesk

    settings = load(profile)
    clock = SystemClock()
    desk = HelpDesk(settings.path("desk.db"), clock)
    with opened(settings) as journal, contextlib.closing(desk):
        desk.customer(customer)
        owner, given = tenant or settings.tenant, {"customer": customer}
        note(journal, clock, owner, "erase", customer, "erased", given, by, why)
        # The desk's account says which values they are, so it goes last.
        with kept(settings) as pseudonyms:
            gone = pseudonyms.erase(owner, customer, desk.own(customer))
        told = desk.erase(customer)
    said = f"{told['tickets']} tickets and {told['replies']} replies emptied"
    console.print(f"{customer}: erased, {said}, {gone.values} pseudonyms taken away", markup=False)
    if not gone.complete:
        console.print("the database's log may hold the sealed values a while longer", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(erase)
    app.add_typer(audit, name="audit")


def _folder(settings: Settings) -> Path:
    return settings.data_dir.resolve() / AUDIT


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InvalidInput("file", str(file), f"at most {MAX_BYTES} bytes")
        return file.read_bytes()
    except OSError as error:
        raise InvalidInput("file", str(file), f"a readable file ({error.strerror})") from None
