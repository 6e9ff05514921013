"""What the commands of `mainspring memory` share."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import Progress

from serve.memory_asking import Watched

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
TENANT = typer.Option(None, "--tenant", help="Whose memory; default: the profile's tenant.")
BY = typer.Option("", "--by", help="Who says so; default: this account's name.")
SUBJECT = typer.Option("", "--subject", help="Whom or what it is about.")
SESSION = typer.Option("", "--session", help="A conversation's name.")
JSON = typer.Option(False, "--json", help="Print JSON.")


@contextmanager
def bar(what: str) -> Iterator[Watched]:
    """Shows how far a work is while the block runs."""
    with Progress(console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)

        def watched(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total or None)

        yield watched
