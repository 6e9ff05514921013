"""What people see of runs, and what they say of them: `mainspring runs`, `mainspring feedback`.

Both work on the journal's own database, whether the stack is running or not.
"""

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console
from rich.table import Table

from agents.journal import MAX_TEXT, Feedback, Journal, Verdict
from agents.resolution import resolve
from agents.state import RunState, fold
from agents.timeline import timeline
from cluster.errors import InvalidInput, NotFound
from cluster.settings import Settings, load
from serve.drawing import drawn

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
_TAKE_UP_S = 30.0
TENANT = typer.Option(None, "--tenant", help="Whose runs; default: the profile's tenant.")


runs = typer.Typer(no_args_is_help=True, help="What became of the agents' runs.")


@runs.command("list")
def runs_list(
    decision: str | None = typer.Option(None, help="Only runs that ended so, as replied."),
    limit: int = typer.Option(20, min=1, help="At most so many, the newest."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """List the newest runs: how they ended, and what people said of them."""
    settings = load(profile)
    table = Table("run", "workflow", "ticket", "decision", "verdict", box=None)
    with opened(settings) as journal:
        for row in islice(_rows(journal, tenant or settings.tenant, decision), limit):
            table.add_row(*row)
    console.print(table)


@runs.command("show")
def runs_show(
    run: str = typer.Argument(..., help="The id of a run."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Draw a run as a timeline: waits, phases, effects, retries, and what it cost."""
    settings = load(profile)
    with opened(settings) as journal:
        links = journal.verify(run)
        events = journal.read(run)
        _require_own(fold(run, events), tenant or settings.tenant)
    console.print(drawn(timeline(events), console.width))
    console.print(f"{links} events, hash chain whole")


@runs.command("resolve")
def runs_resolve(
    run: str = typer.Argument(..., help="The id of a parked run."),
    step: str = typer.Argument(..., help="The step whose effect nobody knows the end of."),
    done: bool = typer.Option(..., "--done/--not-done", help="What you found out."),
    by: str = typer.Option(..., help="Who says so."),
    note: str = typer.Option("", help="Why; kept in the journal."),
    receipt: str = typer.Option("{}", help="With --done: JSON of what the workflow reads of it."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Say whether a parked effect was done; the run goes on from there."""
    settings = load(profile)
    with opened(settings) as journal:
        _require_own(fold(run, journal.read(run)), tenant or settings.tenant)
        resolve(journal, run, step, done=done, by=by, note=note, receipt=_object(receipt))
    _take_up(settings, run)
    console.print(f"{run}: {step} was {'done' if done else 'not done'}, says {by}", markup=False)


def feedback(
    run: str,
    verdict: str = typer.Option(..., help="accepted, rejected or corrected."),
    by: str = typer.Option(..., help="Who says so."),
    note: str = typer.Option("", help="Why; kept with the verdict, not trained on."),
    text_file: Path | None = typer.Option(
        None, "--text-file", help="With corrected: the reply as it should have been."
    ),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Say of an ended run whether its outcome was right; the last verdict counts."""
    settings = load(profile)
    text = "" if text_file is None else _read(text_file)
    with opened(settings) as journal:
        state = fold(run, journal.read(run))
        _require_own(state, tenant or settings.tenant)
        said = Feedback(cast(Verdict, verdict), by, note, text)
        clean = [_redacted(settings, state, words) for words in (note, text)]
        journal.judge(run, Feedback(said.verdict, by, *clean))
    console.print(f"{run}: {verdict} by {by}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(runs, name="runs")
    app.command()(feedback)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Journal]:
    """The journal of these settings, opened beside the stack's own."""
    from agents.journal_sql import SqlJournal
    from cluster.ids import SystemClock, SystemIds

    journal = SqlJournal(
        settings.journal.url, settings.data_dir.resolve(), SystemClock(), SystemIds()
    )
    try:
        yield journal
    finally:
        journal.close()


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput("receipt", text, f"a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInput("receipt", text, "a JSON object")
    return value


def _take_up(settings: Settings, run: str) -> None:
    """Have the running stack go on with the run; without one it does at its next start."""
    from serve.lifecycle import joined
    from serve.running import find

    running = find(settings.data_dir)
    if running is None:
        return
    with joined(running, settings.data_dir) as actors:
        import ray

        from agents.orchestrator import NAME

        ray.get(actors(NAME).resume.remote(run), timeout=_TAKE_UP_S)


def _require_own(state: RunState, tenant: str) -> None:
    # Another tenant's run looks like none at all.
    if state.input.get("tenant") != tenant:
        raise NotFound("run", state.run_id)


def _rows(journal: Journal, tenant: str, decision: str | None) -> Iterator[list[str]]:
    for row in reversed(journal.runs(tenant)):
        state = fold(row.run_id, journal.read(row.run_id))
        ended = state.ended.decision if state.ended else "parked" if state.parked else "open"
        if decision in {None, ended}:
            judged: list[Any] = journal.judgements(row.run_id)
            verdict = judged[-1].feedback.verdict if judged else "-"
            yield [row.run_id, row.workflow, str(state.input.get("ticket", "-")), ended, verdict]


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > 4 * MAX_TEXT:
            raise InvalidInput("text-file", str(path), f"at most {MAX_TEXT} characters")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput("text-file", str(path), f"a readable UTF-8 text ({error})") from None


def _redacted(settings: Settings, state: RunState, text: str) -> str:
    """`text` without what is personal: the journal holds references only. The desk, which alone
    knows its customers, takes out its own; the detector takes out what anybody would see."""
    from agents.helpdesk import HelpDesk
    from agents.pii import Vault
    from cluster.ids import SystemClock

    ticket = state.input.get("ticket")
    if not text or ticket is None:
        return Vault().redact(text)
    path = settings.path("desk.db")
    if not path.is_file():
        raise NotFound("desk", str(path))
    desk = HelpDesk(path, SystemClock())
    try:
        return desk.redact(str(ticket), text)
    finally:
        desk.close()
