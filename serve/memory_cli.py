"""What is remembered, from the command line: `mainspring memory`.

The commands ask the running stack's memory; where none runs, they open the data folder's memory
themselves, and the process that has it open is named if there is one.
"""

import asyncio
import getpass
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from cluster.errors import DeadlineExceeded
from cluster.ids import SystemClock
from cluster.settings import Settings, load

console = Console(highlight=False, soft_wrap=True)
memory = typer.Typer(no_args_is_help=True, help="What is remembered.")
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
TENANT = typer.Option(None, "--tenant", help="Whose memory; default: the profile's tenant.")
BY = typer.Option("", "--by", help="Who says so; default: this account's name.")
SUBJECT = typer.Option("", "--subject", help="Whom or what it is about.")
SESSION = typer.Option("", "--session", help="A conversation's name.")
_TIMEOUT_S: Final = 3_600.0

Watched = Callable[[int, int], None]


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
    added = _asked(settings, "remember", [record], note)
    console.print(f"{record.id}  {'remembered' if added else 'was known'}")


@memory.command("ingest")
def ingest(
    path: str = typer.Argument(..., help="A file, a folder or s3://BUCKET/PREFIX."),
    kind: str = typer.Option("document", help="What the records are, as policy or ticket."),
    prune: bool = typer.Option(False, help="Forget what came from there and is gone there."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Remember a file's, a folder's or a bucket's texts, and what of them has changed."""
    settings = load(profile)
    place = path if "://" in path else str(Path(path).resolve())
    report = _asked(settings, "ingest", tenant or settings.tenant, place, kind, prune)
    _show_report(report)


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
    for hit in _asked(settings, "recall", query):
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
    for record in _asked(settings, "listed", whose, after, limit, subject, session, kind):
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
    settings = load(profile)
    receipt = _asked(
        settings, "forget", tenant or settings.tenant, tuple(ids or ()), subject,
        by or getpass.getuser(), why,
    )  # fmt: skip
    console.print(f"receipt     {receipt.id}")
    console.print(f"erased      {len(receipt.erased)} records, {receipt.derived} of them derived")
    for name, entries in (("held", receipt.held), ("export", receipt.exports)):
        for entry in entries:
            console.print(f"{name:<11} {entry}", markup=False)
    for sentence in receipt.pending:
        console.print(f"pending     {sentence}", markup=False)
    for sentence in receipt.impossible:
        console.print(f"not covered {sentence}", markup=False)
    if not receipt.complete:
        raise typer.Exit(1)


@memory.command("health")
def health(tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """Show how memory is kept. Exit status 1 when something is wrong that must never be."""
    settings = load(profile)
    found = _asked(settings, "health", tenant or settings.tenant)
    for name, value in asdict(found).items():
        if isinstance(value, dict):
            value = ", ".join(f"{kind} {count}" for kind, count in value.items())
        console.print(f"{name:<11} {value}", markup=False)
    if not found.good:
        raise typer.Exit(1)


@memory.command("rebuild")
def rebuild(profile: str | None = PROFILE) -> None:
    """Drop the index and make it anew from the log."""
    settings = load(profile)
    with Progress(console=console, transient=True) as shown:
        bar = shown.add_task("rows", total=None)

        def watched(done: int, total: int) -> None:
            shown.update(bar, completed=done, total=total)

        rows = _asked(settings, "rebuild", watched=watched)
    console.print(f"{rows} rows")


@memory.command("export")
def export(
    name: str = typer.Argument(..., help="The file's name, without a suffix."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Write all living records as JSON lines into the data folder, where `forget` finds them."""
    settings = load(profile)
    console.print(_asked(settings, "export", tenant or settings.tenant, name), markup=False)


@memory.command("import")
def import_(
    file: Path,
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Remember the records of an export, as untrusted ones."""
    settings = load(profile)
    whose = tenant or settings.tenant
    _show_report(_asked(settings, "import_", whose, str(file.resolve()), by or getpass.getuser()))


def _show_report(report: Any) -> None:
    console.print(
        f"{report.files} files ({report.unchanged} unchanged, {report.skipped} skipped): "
        f"{report.added} records added, {report.known} known, {report.removed} removed"
    )
    for problem in report.problems:
        console.print(f"  {problem}", markup=False)


def _asked(settings: Settings, method: str, *args: Any, watched: Watched | None = None) -> Any:
    """What the memory answers: the running stack's, else the one that is opened here."""
    from serve.running import find

    running = find(settings.data_dir)
    if running is None:
        more = (watched,) if watched else ()
        return asyncio.run(_answered_here(settings, method, *args, *more))
    from serve.lifecycle import joined

    with joined(running, settings.data_dir) as actors:
        return _answered(actors("memory"), method, args, watched)


async def _answered_here(settings: Settings, method: str, *args: Any) -> Any:
    from memory.embed import MiniLM
    from memory.service import Memory

    opened = Memory(settings.memory, settings.data_dir.resolve(), MiniLM(), SystemClock())
    try:
        return await getattr(opened, method)(*args)
    finally:
        await opened.close()


def _answered(actor: Any, method: str, args: tuple[Any, ...], watched: Watched | None) -> Any:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    from cluster.session import own

    answer = getattr(actor, method).remote(*args)
    try:
        if watched is not None:
            _watch(actor, answer, watched)
        return ray.get(answer, timeout=_TIMEOUT_S)
    except GetTimeoutError:
        raise DeadlineExceeded("memory", _TIMEOUT_S) from None
    except RayError as error:
        raise own(error) from None


def _watch(actor: Any, answer: Any, watched: Watched) -> None:
    """Tell how many rows wait until the answer is there, or the time is over."""
    import ray

    deadline = time.monotonic() + _TIMEOUT_S
    most = 0
    while time.monotonic() < deadline:
        done, _ = ray.wait([answer], timeout=0.5)
        if done:
            return
        waiting = ray.get(actor.behind.remote(), timeout=60)
        most = max(most, waiting)
        watched(most - waiting, most)
