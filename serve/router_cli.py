"""`mainspring router`: train, judge and put into use what predicts which model answers right."""

import json
from pathlib import Path

import typer
from rich.console import Console

from cluster.errors import InvalidInput
from cluster.settings import load

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
SOURCE = typer.Option(..., "--from", help="JSONL of `prompt` and NAME_correct of each model.")
MODEL = typer.Option([], "--model", help="NAME=MODEL: the model of the stack that NAME stands for.")
HEAD = typer.Argument(..., help="A folder that `mainspring router train` wrote.")

router = typer.Typer(no_args_is_help=True, help="What predicts which model answers right.")


@router.command("train")
def router_train(
    source: Path = SOURCE,
    out: Path = typer.Option(..., "--out", help="The head's folder."),
    model: list[str] = MODEL,
    seed: int = typer.Option(0, help="How the examples are split; same seed, same head."),
) -> None:
    """Train a quality head and show its metrics, from examples that it had not seen."""
    from serve.quality_training import train_from_file

    console.print_json(json.dumps(train_from_file(source, out, _names(model), seed)))


@router.command("evaluate")
def router_evaluate(head: Path = HEAD, source: Path = SOURCE, model: list[str] = MODEL) -> None:
    """Judge a head by examples that it was not trained on."""
    from memory.embed import MiniLM
    from serve.quality import QualityHead
    from serve.quality_metrics import described
    from serve.quality_training import read_examples
    from serve.quality_versions import columns

    loaded, judged = QualityHead.load(head), read_examples(source, _names(model))
    chances = loaded.chances(MiniLM().encode(judged.texts), judged.texts)
    order = columns(loaded, judged)
    console.print_json(json.dumps(described(judged.models, chances[:, order], judged.right)))


@router.command("promote")
def router_promote(
    head: Path = HEAD,
    source: Path = SOURCE,
    model: list[str] = MODEL,
    profile: str | None = PROFILE,
) -> None:
    """Take a head into use, only when it predicts the examples better than the one in use."""
    from memory.embed import MiniLM
    from serve.quality_training import read_examples
    from serve.quality_versions import Versions

    judged = read_examples(source, _names(model))
    versions = Versions(load(profile).path("router"))
    verdict = versions.promote(head, judged, MiniLM().encode(judged.texts))
    shown = f"squared error lower by {verdict.gain:.4f} ({verdict.low:.4f} to {verdict.high:.4f})"
    if not verdict.promoted:
        console.print(f"kept version {verdict.version}: {shown}")
        raise typer.Exit(1)
    console.print(f"version {verdict.version} is in use: {shown}")


@router.command("rollback")
def router_rollback(profile: str | None = PROFILE) -> None:
    """Back to the version before."""
    from serve.quality_versions import Versions

    console.print(f"version {Versions(load(profile).path('router')).rollback()} is in use")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(router, name="router")


def _names(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InvalidInput("--model", pair, "NAME=MODEL")
    return {name: model for name, _, model in (pair.partition("=") for pair in pairs)}
