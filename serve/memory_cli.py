"""What is remembered, from the command line: `mainspring memory`.

The commands ask the running stack's memory; where none runs, they open the data folder's memory
themselves, and the process that has it open is named if there is one.
"""

import getpass
from pathlib import Path
from typing import Any

import typer

from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import load
from serve.memory_asking import asked
from serve.memory_care_cli import care, space
from serve.memory_options import BY, PROFILE, SESSION, SUBJECT, TENANT, bar, console

memory = typer.Typer(no_args_is_help=True, help="What is remembered.")
memory.add_typer(care)
memory.add_typer(space, name="space")


@memory.command("remember")
def remember(
    text: str,
    kind: str = typer.Option("note", help="What it is, as note or preference."),
    source: str = typer.Option("operator", help="Where it comes from."),
    subject: str = SUBJECT,
    session: str = SESSION,
    days: float | None = typer.Option(None, min=0.0, help="Forget it after so many days."),
    why: str = typer.Option("the operator says so", help="Why it is kept for good."),
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Remember a text: in long-term memory, or with --session in a conversation's."""
    from memory.log import Note
    from memory.records import Origin, Record

    settings = load(profile)
    now = SystemClock().now()
    record = Record(
        tenant=tenant or settings.tenant,
        kind=kind,
        source=source,
        text=text,
        event_at=now,
        tier="session" if session else "long_term",
        subject=subject,
        session=session,
        expires_at=None if days is None else now + 86_400 * days,
        trust="tenant",
        origin=Origin("user"),
    )
    note = None if session else Note(by or getpass.getuser(), why)
    added = asked(settings, "remember", [record], note)
    console.print(f"{record.id}  {'remembered' if added else 'was known'}")


@memory.command("ingest")
def ingest(
    path: str = typer.Argument(..., help="A file, a folder or s3://BUCKET/PREFIX."),
    kind: str = typer.Option("document", help="What the records are, as policy or ticket."),
    prune: bool = typer.Option(False, help="Forget what came from there and is gone there."),
    batch: bool = typer.Option(False, "--batch", help="As a batch, a line a file: see `batch`."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Remember a file's, a folder's or a bucket's texts, and what of them has changed."""
    settings = load(profile)
    place = path if "://" in path else str(Path(path).resolve())
    if batch:
        _ingest_as_batch(place, kind, prune, tenant, profile)
        return
    arguments = (tenant or settings.tenant, place, kind, prune)
    with bar("files") as shown:
        report = asked(settings, "ingest", *arguments, work=f"ingest {place}", watched=shown)
    _show_report(report)


def _ingest_as_batch(
    place: str, kind: str, prune: bool, tenant: str | None, profile: str | None
) -> None:
    from cluster.objects import opened
    from memory.ingest import listed as files_at
    from serve.batch_cli import submitted
    from serve.bulk.kinds import INGESTION
    from serve.bulk.remembering import ingestion_lines

    if prune:
        raise InvalidInput("prune", prune, "false with --batch: what is gone needs the whole place")
    objects = opened(place)
    lines = ingestion_lines(objects.place, kind, files_at(objects))
    submitted(profile, tenant, INGESTION, "ingestion.jsonl", lines, "7d", wait=False)


@memory.command("search")
def search(
    text: str,
    k: int = typer.Option(5, help="At most so many hits."),
    kind: str = typer.Option("", help="Only records of this kind."),
    subject: str = SUBJECT,
    session: str = SESSION,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Recall what bears on a text, with scores, sources and reasons."""
    from memory.records import Query

    settings = load(profile)
    query = Query(
        tenant=tenant or settings.tenant, text=text, k=k, kinds=(kind,) if kind else (),
        subject=subject, session=session,
    )  # fmt: skip
    for hit in asked(settings, "recall", query):
        console.print(f"{hit.score:.3f}  {hit.record.source}  {hit.record.text}", markup=False)
        console.print(f"       {hit.reason}", markup=False, style="dim")


@memory.command("list")
def listed(
    subject: str = SUBJECT,
    session: str = SESSION,
    kind: str = typer.Option("", help="Only records of this kind."),
    after: str = typer.Option("", help="Only ids behind this one."),
    limit: int = typer.Option(20, min=1, max=1_000, help="At most so many."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """List records by id: their tier, trust, kind, source and text."""
    settings = load(profile)
    whose = tenant or settings.tenant
    for record in asked(settings, "listed", whose, after, limit, subject, session, kind):
        console.print(
            f"{record.id}  {record.tier:<9}  {record.trust:<9}  {record.kind}  {record.source}  "
            f"{record.text[:100]}",
            markup=False,
        )


@memory.command("forget")
def forget(
    ids: list[str] = typer.Argument(None, help="Records' ids."),
    subject: str = typer.Option("", "--subject", help="Everything about this one instead."),
    why: str = typer.Option("asked for", help="Why; it is kept."),
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Erase records, or all about a subject, with what is derived from them. Exit status 1 when
    something is left to do."""
    from serve.pseudonyms_cli import kept

    settings = load(profile)
    receipt = asked(
        settings, "forget", tenant or settings.tenant, tuple(ids or ()), subject,
        by or getpass.getuser(), why,
    )  # fmt: skip
    if subject and not receipt.holds:
        with kept(settings) as pseudonyms:
            gone = pseudonyms.erase(tenant or settings.tenant, subject)
        console.print(f"pseudonyms  {gone.values} taken away")
    console.print(f"receipt     {receipt.id}")
    console.print(f"erased      {len(receipt.erased)} records, {receipt.derived} of them derived")
    for hold in receipt.holds:
        held = f"held        {hold.subject}, by {hold.by}: {hold.why}"
        console.print(held, markup=False)
    for name, entries in (("left alone", receipt.held), ("export", receipt.exports)):
        for entry in entries:
            console.print(f"{name:<11} {entry}", markup=False)
    for sentence in receipt.pending:
        console.print(f"pending     {sentence}", markup=False)
    for sentence in receipt.impossible:
        console.print(f"not covered {sentence}", markup=False)
    if not receipt.complete:
        raise typer.Exit(1)


@memory.command("export")
def export(
    name: str = typer.Argument(..., help="The file's name, without a suffix."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Write all living records as JSON lines into the data folder, where `forget` finds them."""
    settings = load(profile)
    console.print(asked(settings, "export", tenant or settings.tenant, name), markup=False)


@memory.command("import")
def import_(
    file: Path,
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Remember the records of an export, as untrusted ones."""
    settings = load(profile)
    arguments = (tenant or settings.tenant, str(file.resolve()), by or getpass.getuser())
    _show_report(asked(settings, "import_", *arguments))


def _show_report(report: Any) -> None:
    console.print(
        f"{report.files} files ({report.unchanged} unchanged, {report.skipped} skipped): "
        f"{report.added} records added, {report.known} known, {report.removed} removed"
    )
    for problem in report.problems:
        console.print(f"  {problem}", markup=False)
