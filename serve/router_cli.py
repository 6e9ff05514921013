"""`mainspring router`: train, judge and put into use what predicts which model answers right."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from cluster.errors import InvalidInput
from cluster.settings import load

if TYPE_CHECKING:
    from serve.quality_feedback import Part
    from serve.quality_training import Examples

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
SOURCE = typer.Option(None, "--from", help="JSONL of `prompt` and NAME_correct of each model.")
FEEDBACK = typer.Option(
    False, "--from-feedback", help="Instead of a file: kept questions, and what was said of them."
)
MODEL = typer.Option([], "--model", help="NAME=MODEL: the model of the stack that NAME stands for.")
HEAD = typer.Argument(..., help="A folder that `mainspring router train` wrote.")

router = typer.Typer(no_args_is_help=True, help="What predicts which model answers right.")


@router.command("train")
def router_train(
    source: Path | None = SOURCE,
    from_feedback: bool = FEEDBACK,
    out: Path = typer.Option(..., "--out", help="The head's folder."),
    model: list[str] = MODEL,
    seed: int = typer.Option(0, help="How the examples are split; same seed, same head."),
    profile: str | None = PROFILE,
) -> None:
    """Train a quality head and show its metrics, from examples that it had not seen."""
    from serve.quality_training import train_to

    examples = _examples(source, from_feedback, model, profile, "taught")
    console.print_json(json.dumps(train_to(out, examples, seed)))


@router.command("evaluate")
def router_evaluate(
    head: Path = HEAD,
    source: Path | None = SOURCE,
    from_feedback: bool = FEEDBACK,
    model: list[str] = MODEL,
    profile: str | None = PROFILE,
) -> None:
    """Judge a head by examples that it was not trained on."""
    from memory.embed import MiniLM
    from serve.quality import QualityHead
    from serve.quality_metrics import described
    from serve.quality_versions import columns

    loaded = QualityHead.load(head)
    judged = _examples(source, from_feedback, model, profile, "held back")
    chances = loaded.chances(MiniLM().encode(judged.texts), judged.texts)
    chances = chances[:, columns(loaded, judged)]
    metrics = described(judged.models, chances, judged.right, judged.labelled)
    console.print_json(json.dumps(metrics))


@router.command("promote")
def router_promote(
    head: Path = HEAD,
    source: Path | None = SOURCE,
    from_feedback: bool = FEEDBACK,
    model: list[str] = MODEL,
    profile: str | None = PROFILE,
) -> None:
    """Take a head into use, only when it predicts the examples better than the one in use."""
    from memory.embed import MiniLM
    from serve.quality_versions import Versions

    judged = _examples(source, from_feedback, model, profile, "held back")
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


@router.command("forget")
def router_forget(
    request: str | None = typer.Option(None, help="Of this request only, by its x-request-id."),
    tenant: str | None = typer.Option(None, help="Whose; default: the profile's tenant."),
    profile: str | None = PROFILE,
) -> None:
    """Take the questions away that were kept for the router to learn from."""
    from serve.keys_cli import opened

    settings = load(profile)
    with opened(settings) as books:
        gone, compacted = books.questions.forget(tenant or settings.tenant, request)
    rest = "" if compacted else "; the database's own log may hold them for a while"
    console.print(f"{gone} questions are gone{rest}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(router, name="router")


def _examples(
    source: Path | None, from_feedback: bool, model: list[str], profile: str | None, part: "Part"
) -> "Examples":
    """Those of a file, or one part of those that feedback gives."""
    from serve.quality_feedback import examples_of
    from serve.quality_training import read_examples

    if (source is None) != from_feedback:
        raise InvalidInput("--from", source, "a file, or --from-feedback without one")
    if source is not None:
        return read_examples(source, _names(model))
    from serve.keys_cli import opened

    with opened(load(profile)) as books:
        judged = books.questions.judged()
    return examples_of(judged, part, _names(model))


def _names(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InvalidInput("--model", pair, "NAME=MODEL")
    return {name: model for name, _, model in (pair.partition("=") for pair in pairs)}
