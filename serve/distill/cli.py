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
    console.print_json(json.dumps(asdict(report)))
