"""Looking after a memory, from the command line: health, rebuilding, holds, and the change of the
embedder (`mainspring memory space`)."""

import getpass
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer

from cluster.errors import Conflict
from cluster.settings import load
from serve.memory_asking import Asking, asked, opened
from serve.memory_options import BY, JSON, PROFILE, TENANT, bar, console

care = typer.Typer(no_args_is_help=True)
space = typer.Typer(no_args_is_help=True, help="The embedding spaces: change the embedder.")
_POLL_S: Final = 0.5
_FIGURES: Final = (
    "hit_rate", "recall", "dense_recall", "precision", "empty_rate", "stray_empty_rate", "p50_ms",
    "p95_ms",
)  # fmt: skip


@care.command("health")
def health(
    measure: bool = typer.Option(False, "--measure", help="Ask the frozen probes now."),
    probes: Path | None = typer.Option(
        None, "--probes", help="Freeze this file's probes (JSON lines), then measure."
    ),
    as_json: bool = JSON,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Show how memory is kept. Exit status 1 when something is wrong that must never be."""
    settings = load(profile)
    whose = tenant or settings.tenant
    with opened(settings) as memory:
        if probes is not None:
            memory.ask("freeze", whose, str(probes.resolve()))
        if measure or probes is not None:
            _measured(memory, whose, both=False)
        found = memory.ask("health", whose)
    if as_json:
        console.print(json.dumps(asdict(found) | {"good": found.good}), markup=False)
    else:
        _show_health(found)
    if not found.good:
        raise typer.Exit(1)


@care.command("rebuild")
def rebuild(profile: str | None = PROFILE) -> None:
    """Drop the index and make it anew from the log."""
    with bar("rows") as shown:
        rows = asked(load(profile), "rebuild", work="rebuild", watched=shown)
    console.print(f"{rows} rows")


@care.command("hold")
def hold(
    subject: str = typer.Argument(None, help="Whom or what; without one, the holds are shown."),
    why: str = typer.Option("", "--why", help="Why; it is kept."),
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Put a subject under a legal hold: nothing about it is erased or expires until its release."""
    settings = load(profile)
    whose = tenant or settings.tenant
    with opened(settings) as memory:
        if subject:
            memory.ask("hold", whose, subject, by or getpass.getuser(), why)
        for one in memory.ask("holds", whose):
            console.print(
                f"{one.subject}  since {_day(one.at)} by {one.by}: {one.why}", markup=False
            )


@care.command("release")
def release(
    subject: str,
    why: str = typer.Option(..., "--why", help="Why; it is kept."),
    by: str = BY,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Lift a legal hold."""
    settings = load(profile)
    who = by or getpass.getuser()
    asked(settings, "release", tenant or settings.tenant, subject, who, why)
    console.print(f"{subject} is held no more", markup=False)


@space.command("list")
def space_list(as_json: bool = JSON, profile: str | None = PROFILE) -> None:
    """Show the spaces, the one that serves first, and how far they are."""
    states = asked(load(profile), "spaces")
    if as_json:
        console.print(json.dumps([asdict(state) for state in states]), markup=False)
        return
    for state in states:
        _show_space(state)


@space.command("prepare")
def space_prepare(
    embedder: str = typer.Argument(..., help="minilm, or a name of memory.embedders."),
    wait: bool = typer.Option(True, help="Stay until it is complete; a stack goes on without."),
    batch: bool = typer.Option(False, "--batch", help="As a batch: see `batch`."),
    profile: str | None = PROFILE,
) -> None:
    """Make a shadow of the memory with another embedder while memory goes on; again, go on."""
    if batch:
        from serve.batch_cli import submitted
        from serve.bulk.kinds import SPACE
        from serve.bulk.remembering import space_lines

        submitted(profile, None, SPACE, "space.jsonl", space_lines(embedder), "7d", wait=False)
        return
    with opened(load(profile)) as memory, bar("records") as shown:
        state = memory.ask("prepare_space", embedder)
        while wait and not state.complete:
            if state.trouble or state.refused:
                reason = state.trouble or f"{state.refused} texts were refused by its embedder"
                raise Conflict(f"space {state.name}", reason)
            shown(state.vectors, state.records)
            memory.wait(_POLL_S)
            state = next(s for s in memory.ask("spaces") if s.name == state.name)
    _show_space(state)


@space.command("measure")
def space_measure(
    probes: Path | None = typer.Option(None, "--probes", help="Freeze this file's probes first."),
    as_json: bool = JSON,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Compare the serving space and the one beside it on the frozen probes."""
    settings = load(profile)
    whose = tenant or settings.tenant
    with opened(settings) as memory:
        if probes is not None:
            memory.ask("freeze", whose, str(probes.resolve()))
        found = _measured(memory, whose, both=True)
    if as_json:
        console.print(json.dumps(asdict(found) | {"worse": found.worse}), markup=False)
        return
    console.print(f"probes      {found.probes} ({found.serving.questions} questions, "
                  f"{found.serving.strays} strays, {found.erased} erased)")  # fmt: skip
    for name in _FIGURES:
        one, other = getattr(found.serving, name), getattr(found.other, name)
        console.print(f"{name:<18} {_number(one):>8} {_number(other):>8}")
    verdict = "worse" if found.worse else "not shown to be worse"
    console.print(
        f"hit rate {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], "
        f"overlap {found.overlap:.2f}: {found.other.space} is {verdict}", markup=False,
    )  # fmt: skip


@space.command("switch")
def space_switch(
    name: str,
    force: bool = typer.Option(False, help="Also where it was not measured, or answers worse."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Let a complete, measured space serve; the former one is kept in step."""
    settings = load(profile)
    _show_space(asked(settings, "switch_space", name, tenant or settings.tenant, force))


@space.command("rollback")
def space_rollback(profile: str | None = PROFILE) -> None:
    """Let the space serve again that did before the last switch."""
    _show_space(asked(load(profile), "rollback_space"))


@space.command("drop")
def space_drop(name: str, profile: str | None = PROFILE) -> None:
    """Take a space away that does not serve, with its vectors and its index."""
    asked(load(profile), "drop_space", name)
    console.print(f"{name} is gone")


def _measured(memory: Asking, tenant: str, both: bool) -> Any:
    with bar("questions") as shown:
        return memory.ask("measure", tenant, both, work=f"measure {tenant}", watched=shown)


def _show_health(found: Any) -> None:
    for name, value in asdict(found).items():
        if name == "measured":
            value = _measure_line(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{kind} {count}" for kind, count in value.items())
        console.print(f"{name:<14} {value}", markup=False)


def _measure_line(found: dict[str, Any]) -> str:
    if not found:
        return "never; see --measure"
    return (
        f"hit rate {found['hit_rate']:.3f} [{found['hit_low']:.3f}, {found['hit_high']:.3f}] at "
        f"{found['k']}, recall {found['recall']:.3f}, precision {found['precision']:.3f}, empty "
        f"{found['empty_rate']:.3f}; strays unanswered {_number(found['stray_empty_rate'])}; "
        f"probes {found['probes']}, release {found['release']}, {_day(found['at'])}"
    )


def _show_space(state: Any) -> None:
    waiting = f", {state.waiting} on their way to the index" if state.waiting else ""
    refused = f", {state.refused} refused" if state.refused else ""
    trouble = f"; {state.trouble}" if state.trouble else ""
    console.print(
        f"{state.name}  {state.state} since {_day(state.since)}, by {state.embedder}, "
        f"{state.vectors} of {state.records} records{waiting}{refused}{trouble}", markup=False,
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
