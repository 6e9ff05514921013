"""What people see of runs, and what they say of them: `mainspring runs`, `mainspring feedback`.

Both work on the journal's own database, whether the stack is running or not.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.console import Console

from agents.control import cancel, fork, pause, resolve, resume, retry, signal
from agents.journal import MAX_TEXT, Feedback, Journal, Verdict
from agents.lessons import Learning, learning
from agents.state import RunState, fold
from agents.timeline import timeline
from cluster.errors import InvalidInput, NotFound
from cluster.settings import Settings, load
from memory.log import Note
from serve.drawing import drawn

if TYPE_CHECKING:
    from agents.journal_sql import SqlJournal

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
RUN = typer.Argument(..., help="The id of a run.")
BY = typer.Option(..., help="Who says so.")
_TAKE_UP_S = 30.0
_FOLLOW_S = 0.3
TENANT = typer.Option(None, "--tenant", help="Whose runs; default: the profile's tenant.")


runs = typer.Typer(no_args_is_help=True, help="What became of the agents' runs.")


@runs.command("show")
def runs_show(run: str = RUN, tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """Draw a run as a timeline: waits, phases, effects, retries, and what it cost."""
    settings = load(profile)
    with opened(settings) as journal:
        events = journal.verified(run)
        _require_own(fold(run, events), tenant or settings.tenant)
    console.print(drawn(timeline(events), console.width))
    console.print(f"{len(events)} events, hash chain whole")


@runs.command("follow")
def runs_follow(
    run: str = RUN,
    after: int = typer.Option(0, min=0, help="Begin behind this event's number."),
    timeout: float = typer.Option(3600.0, min=0.0, help="Stop looking after so many seconds."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Print a run's events as they come, until it ends. Exit status 1 when it has not ended."""
    settings = load(profile)
    limit = time.monotonic() + timeout
    with opened(settings) as journal:
        own_run(journal, run, tenant or settings.tenant)
        while True:
            for event in journal.read(run, after):
                after = event.seq
                told = event.payload.model_dump(exclude={"kind"}, exclude_defaults=True)
                line = f"{event.seq:>5}  {event.payload.kind:<15} {json.dumps(told, default=str)}"
                console.print(line[: max(80, console.width)], markup=False)
            if journal.row(run).status == "ended" and not journal.read(run, after):
                return
            if time.monotonic() > limit:
                raise typer.Exit(1)
            time.sleep(_FOLLOW_S)


@runs.command("signal")
def runs_signal(
    run: str = RUN,
    name: str = typer.Argument(..., help="Which signal, as the workflow waits for it."),
    value: str = typer.Option("{}", help="A JSON object that goes with it."),
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Tell a run something that it waits for, or will."""
    given = _object("value", value)
    _do(run, tenant, profile, lambda journal: signal(journal, run, name, given, by))
    console.print(f"{run}: told {name}", markup=False)


@runs.command("pause")
def runs_pause(
    run: str = RUN,
    by: str = BY,
    reason: str = typer.Option("", help="Why; kept in the journal."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Let nobody work on a run until it is resumed."""
    _do(run, tenant, profile, lambda journal: pause(journal, run, by, reason))
    console.print(f"{run}: paused", markup=False)


@runs.command("resume")
def runs_resume(
    run: str = RUN, by: str = BY, tenant: str | None = TENANT, profile: str | None = PROFILE
) -> None:
    """Let a paused run go on."""
    _do(run, tenant, profile, lambda journal: resume(journal, run, by))
    console.print(f"{run}: resumed", markup=False)


@runs.command("cancel")
def runs_cancel(
    run: str = RUN,
    by: str = BY,
    reason: str = typer.Option("", help="Why; kept in the journal."),
    undo: bool = typer.Option(False, "--undo", help="Take back what it did, where a tool can."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """End a run without going on with it."""
    _do(run, tenant, profile, lambda journal: cancel(journal, run, by, reason, undo))
    console.print(f"{run}: to be cancelled", markup=False)


@runs.command("retry")
def runs_retry(
    run: str = RUN, by: str = BY, tenant: str | None = TENANT, profile: str | None = PROFILE
) -> None:
    """Go on, as a new run, where a failed, cancelled or escalated one failed."""
    made = _do(run, tenant, profile, lambda journal: retry(journal, run, by))
    console.print(f"{made} goes on with {run}", markup=False)


@runs.command("fork")
def runs_fork(
    run: str = RUN,
    after: int = typer.Option(..., min=1, help="The number of the last event to keep."),
    key: str = typer.Option("", help="The same key gives the same fork; default: the number."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Go on, as a new run, from an earlier point of a run; what was done by then stays done."""
    named = f"fork:{run}:{key or after}"
    made = _do(run, tenant, profile, lambda journal: fork(journal, run, after, named))
    console.print(f"{made} goes on from event {after} of {run}", markup=False)


@runs.command("resolve")
def runs_resolve(
    run: str = RUN,
    step: str = typer.Argument(..., help="The step whose effect nobody knows the end of."),
    done: bool = typer.Option(..., "--done/--not-done", help="What you found out."),
    by: str = BY,
    note: str = typer.Option("", help="Why; kept in the journal."),
    receipt: str = typer.Option("{}", help="With --done: JSON of what the workflow reads of it."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Say whether a parked effect was done; the run goes on from there."""
    told = _object("receipt", receipt)
    _do(
        run, tenant, profile,
        lambda journal: resolve(journal, run, step, done=done, by=by, note=note, receipt=told),
    )  # fmt: skip
    console.print(f"{run}: {step} was {'done' if done else 'not done'}, says {by}", markup=False)


def feedback(
    run: str = RUN,
    verdict: str = typer.Option(..., help="accepted, rejected or corrected."),
    by: str = BY,
    note: str = typer.Option("", help="Why; kept with the verdict, not trained on."),
    text_file: Path | None = typer.Option(
        None, "--text-file", help="With corrected: the reply as it should have been."
    ),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Say of an ended run whether its outcome was right; the last verdict counts. What support's
    reply was accepted as, or should have been, is evidence for the tickets that come."""
    settings = load(profile)
    text = "" if text_file is None else _read(text_file)
    with opened(settings) as journal:
        state = own_run(journal, run, tenant or settings.tenant)
        said = Feedback(cast(Verdict, verdict), by, note, text)
        clean = [_redacted(settings, state, words) for words in (note, text)]
        before = journal.judgements(run)
        judged = journal.judge(run, Feedback(said.verdict, by, *clean))
    _teach(settings, state.tenant, learning(state, judged, before[-1] if before else None))
    console.print(f"{run}: {verdict} by {by}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(runs, name="runs")
    app.command()(feedback)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator["SqlJournal"]:
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


def _do(
    run: str, tenant: str | None, profile: str | None, what: Callable[[Journal], str | None]
) -> str:
    """Do something to a run of this tenant, and let the stack go on with what came of it: the run
    itself, or the new one that `what` names."""
    settings = load(profile)
    with opened(settings) as journal:
        own_run(journal, run, tenant or settings.tenant)
        touched = what(journal) or run
    take_up(settings, touched)
    return touched


def _teach(settings: Settings, tenant: str, learned: Learning) -> None:
    """Bring long-term memory in step with a verdict. Saying it again completes what broke off."""
    from serve.memory_asking import opened

    if not learned.forget and not learned.remember:
        return
    note = learned.note or Note()
    with opened(settings) as memory:
        if learned.forget:
            memory.ask("forget", tenant, learned.forget, "", note.by, note.why)
        if learned.remember:
            memory.ask("remember", list(learned.remember), note)


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(name, text, f"a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise InvalidInput(name, text, "a JSON object")
    return value


def take_up(settings: Settings, run: str) -> None:
    """Have the running stack go on with the run; without one it does at its next start."""
    from serve.lifecycle import joined
    from serve.running import find, home_of

    running = find(settings.data_dir)
    if running is None:
        return
    with joined(running, home_of(settings.data_dir)) as actors:
        import ray

        from agents.owners import NAME

        ray.get(actors(NAME).look_again.remote(run), timeout=_TAKE_UP_S)


def own_run(journal: Journal, run: str, tenant: str) -> RunState:
    """The state of a run of this tenant; NotFound when it has none of this id."""
    state = fold(run, journal.read(run))
    _require_own(state, tenant)
    return state


def _require_own(state: RunState, tenant: str) -> None:
    # Another tenant's run looks like none at all.
    if state.tenant != tenant:
        raise NotFound("run", state.run_id)


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
    from agents.presidio import detectors
    from cluster.ids import SystemClock

    ticket = state.input.get("ticket")
    if not text or ticket is None:
        return Vault(more=detectors(settings.agents.pii)).redact(text)
    path = settings.path("desk.db")
    if not path.is_file():
        raise NotFound("desk", str(path))
    desk = HelpDesk(path, SystemClock(), detectors(settings.agents.pii))
    try:
        return desk.redact(str(ticket), text)
    finally:
        desk.close()
