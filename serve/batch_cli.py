"""`mainspring batch`: thousands of requests or runs in a file, from the command line.

The commands work on the database of batches itself: what they ask for is worked on while the stack
runs, and a follower loses nothing when it is broken off.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.errors import Conflict, InvalidInput, Unavailable
from cluster.ids import SystemClock
from cluster.settings import Settings, load
from serve.budgets import usd_of
from serve.bulk import tables
from serve.bulk.archive import Archive
from serve.bulk.kinds import EVALUATION
from serve.bulk.table import Batch
from serve.keys_cli import opened
from serve.run_cli import fields

console = Console(highlight=False, soft_wrap=True)
batch = typer.Typer(no_args_is_help=True, help="Thousands of requests or runs in a file.")
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
TENANT = typer.Option(None, "--tenant", help="Whose; default: the profile's tenant.")
ID = typer.Argument(..., help="A batch's id, as `mainspring batch list` shows it.")
ACCOUNT: Final = "operator"
_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_POLL_S: Final = 0.5
_PATIENCE: Final = 120
SOME_FAILED: Final = 1
NOT_DONE: Final = 3


@batch.command("submit")
def submit(
    file: Path = typer.Argument(..., help="OpenAI's JSONL; or a JSONL, CSV or Parquet table."),
    prompt: str = typer.Option("", help="For a table: the text of a row, with {column} in it."),
    model: str = typer.Option("auto", help="With --prompt: who is asked."),
    max_tokens: int = typer.Option(0, min=0, help="With --prompt: of an answer; 0: no limit."),
    endpoint: str = typer.Option("/v1/chat/completions", help="Where the requests go."),
    workflow: str = typer.Option("", help="For a table: one run of it a row; columns are fields."),
    set: list[str] = typer.Option([], help="With --workflow: a field of every run, as name=value."),
    key: str = typer.Option("", help="With --workflow: the same key and row are the same run."),
    expect: str = typer.Option("", help="For a table: the column with what is to be answered."),
    window: str = typer.Option("24h", help="How long it may take."),
    wait: bool = typer.Option(False, "--follow", help="Follow it to its end."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Have a file's requests, or a run for each row of a table, worked through beside what somebody
    waits for."""
    if prompt and workflow:
        raise InvalidInput("workflow", workflow, "either --prompt or --workflow")
    form: tables.Form | None = None
    if prompt:
        form = tables.PromptForm(endpoint, model, prompt, max_tokens)
    elif workflow:
        form = tables.RunForm(workflow, fields(set), key or tables.key_of(file))
        endpoint = form.endpoint
    elif expect:
        raise InvalidInput("expect", expect, "a table, with --prompt or --workflow")
    made = tables.lines(file, form, expect)
    submitted(profile, tenant, endpoint, file.name, made, window, wait)


@batch.command("evaluate")
def evaluate(
    workflow: str = typer.Argument(..., help="A pack of agents.packs that has an evaluation."),
    window: str = typer.Option("24h", help="How long it may take."),
    wait: bool = typer.Option(False, "--follow", help="Follow it to its end."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Have a workflow's evaluation tried with the stack's models, each case in a folder of its own:
    a right one is what the pack expects."""
    from agents.packs import load as packs
    from serve.bulk.trials import evaluation_lines

    there = packs(load(profile).agents.packs)
    if workflow not in there:
        raise InvalidInput("workflow", workflow, f"one of {list(there)}")
    made = evaluation_lines(there[workflow])
    submitted(profile, tenant, EVALUATION, f"{workflow}.jsonl", made, window, wait)


def submitted(
    profile: str | None, tenant: str | None, endpoint: str, name: str, lines: Iterable[bytes],
    window: str, wait: bool,
) -> None:  # fmt: skip
    """Make a batch of these lines, say its id, and `wait` for its end if that is asked for."""
    settings = load(profile)
    owner = tenant or settings.tenant
    with archive(settings) as kept, tempfile.TemporaryFile() as content:
        for line in lines:
            content.write(line)
        content.seek(0)
        input_file = kept.files.add(owner, name, "batch", content)
        made = kept.submit(owner, ACCOUNT, endpoint, input_file.id, window)
        console.print(made.id)
        if wait:
            _follow(settings, kept, made)


@batch.command("list")
def listed(
    limit: int = typer.Option(20, min=1, max=1000),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """The newest batches: how far they are."""
    settings = load(profile)
    shown = Table("id", "kind", "status", "of", "lines", "right", "wrong", "age", box=None)
    with archive(settings) as kept:
        for one in kept.batches.batches(tenant or settings.tenant, "", limit):
            age = f"{(SystemClock().now() - one.created_at) / 60:.0f} min"
            counts = (str(n) for n in (one.lines, one.right_lines, one.wrong_lines))
            shown.add_row(one.id, one.kind, one.status, one.model or "-", *counts, age)
    console.print(shown)


@batch.command("follow")
def follow(id: str = ID, tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """Watch a batch to its end. Status 0: all lines right; 1: some wrong; 3: it failed, expired or
    was cancelled."""
    settings = load(profile)
    with archive(settings) as kept:
        _follow(settings, kept, kept.batches.batch(tenant or settings.tenant, id))


@batch.command("cancel")
def cancel(id: str = ID, tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """Ask for no more of a batch's lines; what was answered is kept."""
    settings = load(profile)
    with archive(settings) as kept:
        console.print(kept.cancel(tenant or settings.tenant, id).status)


@batch.command("fetch")
def fetch(
    id: str = ID,
    out: Path | None = typer.Option(None, help="Where to write it; default: standard output."),
    errors: bool = typer.Option(False, "--errors", help="The lines that went wrong instead."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Write the file of answers of an ended batch."""
    settings = load(profile)
    with archive(settings) as kept:
        one = kept.batches.batch(tenant or settings.tenant, id)
        if one.status not in _ENDED:
            raise Conflict(f"batch {id}", f"it is {one.status}; its files come at its end")
        name = one.error_file if errors else one.output_file
        chunks = kept.files.chunks(one.tenant, name) if name else iter(())
        with out.open("wb") if out else contextlib.nullcontext(_stdout()) as to:
            for chunk in chunks:
                to.write(chunk)


@contextlib.contextmanager
def archive(settings: Settings) -> Iterator[Archive]:
    """The files and batches of a data folder, opened for one command."""
    kept = Archive(settings.batches, settings.data_dir.resolve())
    try:
        yield kept
    finally:
        kept.close()


def _follow(settings: Settings, kept: Archive, one: Batch) -> None:
    """Show how it goes; ends the command with the status that says how it went."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} rows/s  ${task.fields[cost]:.4f}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    began, before = time.monotonic(), one.lines - one.left
    with Progress(*columns, console=console) as progress, opened(settings) as books:
        task = progress.add_task(one.status, total=None, rate=0.0, cost=0.0)
        while one.status not in _ENDED:
            time.sleep(_POLL_S)
            one = _looked_at(kept, one)
            done = one.lines - one.left
            rate = (done - before) / max(time.monotonic() - began, _POLL_S)
            cost = one.usd + sum(
                usd_of(s.price_nano) for s in books.ledger.sums((), {"run": one.id})
            )
            progress.update(
                task, description=one.status, completed=done, total=one.lines or None, rate=rate,
                cost=cost,
            )  # fmt: skip
    for error in one.errors:
        console.print(f"line {error['line']}: {error['message']}")
    counts = f"{one.right_lines} right, {one.wrong_lines} wrong of {one.lines}"
    console.print(f"{one.id} {one.status}: {counts}")
    if one.status != "completed":
        raise typer.Exit(NOT_DONE)
    if one.wrong_lines:
        raise typer.Exit(SOME_FAILED)


def _looked_at(kept: Archive, one: Batch) -> Batch:
    """The batch as it is now; the database may be away for a while."""
    for _ in range(_PATIENCE):
        try:
            return kept.batches.batch(one.tenant, one.id)
        except Unavailable as error:
            console.print(f"waiting: {error}")
            time.sleep(_POLL_S)
    raise Unavailable(f"batch {one.id}", "the database of batches does not answer")


def _stdout() -> IO[bytes]:
    return typer.get_binary_stream("stdout")
