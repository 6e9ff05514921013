"""`mainspring distill`: from what people accepted to a small model that does it."""

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console

from cluster.settings import load

distill = typer.Typer(no_args_is_help=True, help="Small models from what people accepted.")
console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")


@distill.command("export")
def distill_export(
    out: Path = typer.Option(..., help="The JSONL file to write."),
    tenant: str | None = typer.Option(None, help="Whose runs; default: the profile's tenant."),
    profile: str | None = PROFILE,
) -> None:
    """Write the chats of the runs that people accepted as JSONL, without personal data."""
    from serve.distill.export import export, workflows_to_replay
    from serve.operator_cli import opened

    settings = load(profile)
    workflows = workflows_to_replay(settings.support)
    with opened(settings) as journal:
        report = export(journal, tenant or settings.tenant, out, workflows)
    console.print_json(json.dumps(vars(report)))


@distill.command("train")
def distill_train(
    out: Path = typer.Option(..., help="The checkpoint folder to write."),
    model: str = typer.Option("routine", help="planner, routine or tiny: its size and corpus."),
    minutes: float = typer.Option(30.0, min=0.1, help="How long."),
    steps: int = typer.Option(0, min=0, help="Train this many steps instead: repeatable."),
    seed: int = typer.Option(7, help="Which corpus is made, and which weights it starts from."),
    rate: float = typer.Option(3e-3, min=1e-6, help="The highest learning rate."),
    traces: Path | None = typer.Option(
        None, "--from", help="Chats of `distill export`, mixed with the corpus."
    ),
    base: str | None = typer.Option(
        None, help="Go on from this checkpoint: a folder or checkpoint:NAME."
    ),
    threads: int = typer.Option(0, min=0, help="CPU threads; 0: one for each core."),
    resume: bool = typer.Option(False, "--resume", help="Go on where OUT was broken off."),
) -> None:
    """Train a checkpoint, from scratch or from another one; shows loss and tokens/s as it goes."""
    from serve.catalog import resolve_source
    from serve.distill.chats import read_chats
    from serve.distill.train import Options, Training, set_up

    set_up(threads)
    folder = resolve_source(base) if base else ""
    options = Options(model, minutes, steps, seed, rate=rate, base=folder)
    chats = read_chats(traces) if traces else None
    Training(options, out, console.print, chats, resume=resume).run()


@distill.command("evaluate")
def distill_evaluate(
    candidate: Path = typer.Argument(..., help="The checkpoint folder that was trained."),
    incumbent: str = typer.Option(..., help="What it is to replace: a folder or checkpoint:NAME."),
    on: Path | None = typer.Option(
        None, help="Chats of `distill export`; the held-out ones count."
    ),
    model: str = typer.Option("routine", help="Without --on: whose chats of the corpus."),
    count: int = typer.Option(400, min=1, help="Without --on: how many."),
    core: str = typer.Option("0", help="The core that the engines may use, one after the other."),
) -> None:
    """Compare a candidate with the incumbent on held-out chats: CANDIDATE/evaluation.json."""
    from serve.catalog import resolve_source
    from serve.distill.chats import read_chats
    from serve.distill.evaluate import compare, corpus_chats, evaluate

    folder = Path(resolve_source(incumbent))
    if on is None:
        found = compare(candidate, folder, corpus_chats(model, count), core=core)
    else:
        found = evaluate(candidate, folder, read_chats(on), core=core)
    console.print_json(json.dumps(asdict(found)))


@distill.command("promote")
def distill_promote(
    candidate: Path = typer.Argument(..., help="The checkpoint folder, evaluated."),
    model: str = typer.Option(..., help="The id of the model that it is to be."),
    profile: str | None = PROFILE,
) -> None:
    """Put a candidate behind a model id, with no failed request; refuses one that is worse."""
    from cluster.ids import SystemClock
    from serve.distill.promotion import place_of, promote

    settings = load(profile)
    with place_of(settings, console.print) as place:
        done = promote(place, settings.data_dir, model, candidate, SystemClock(), console.print)
    console.print(f"{model} is {done.version} now")


@distill.command("rollback")
def distill_rollback(
    model: str = typer.Option(..., help="The id of the model."),
    profile: str | None = PROFILE,
) -> None:
    """Take the last promotion of a model back, with no failed request."""
    from cluster.ids import SystemClock
    from serve.distill.promotion import place_of, roll_back

    settings = load(profile)
    with place_of(settings, console.print) as place:
        done = roll_back(place, settings.data_dir, model, SystemClock(), console.print)
    console.print(f"{model} is no longer {done.version}")
