"""`mainspring backup` and `mainspring restore`."""

from pathlib import Path

import typer
from rich.console import Console

from cluster.ids import SystemClock
from cluster.objects import opened
from cluster.settings import load
from serve import backup as kept
from serve.running import Claim

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")


def register(app: typer.Typer) -> None:
    """Give the app these commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    out: Path | None = typer.Option(None, help="The file; default: mainspring-TIME.tar.gz here."),
    to: str = typer.Option("", help="Keep it there too: a folder or s3://BUCKET/PREFIX."),
    profile: str | None = PROFILE,
) -> None:
    """Write all that lasts into one file, while the stack runs or not."""
    now = SystemClock().now()
    file = out or Path(kept.name_of(now))
    made = kept.backup(load(profile), file.resolve(), now)
    if to:
        with file.open("rb") as content:
            opened(to).write(file.name, content, new=True)
    console.print(f"{file}: {len(made.parts)} files, {made.bytes / 1e6:.1f} MB of state")


def restore(
    file: Path = typer.Argument(..., help="A file that `mainspring backup` wrote."),
    profile: str | None = PROFILE,
) -> None:
    """Put a backup into an empty data folder; `mainspring up` goes on from there."""
    settings = load(profile)
    claim = Claim(settings.data_dir)
    try:
        made = kept.restore(settings, file.resolve())
    finally:
        claim.release()
    console.print(f"{settings.data_dir}: {len(made.parts)} files, {made.bytes / 1e6:.1f} MB")
