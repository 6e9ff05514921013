"""`mainspring models`: weights between folders, S3 and the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cluster.objects import opened
from serve import weights
from serve.weights import Moved, Tell

console = Console(highlight=False, soft_wrap=True)
models = typer.Typer(no_args_is_help=True, help="Weights between folders, S3 and the hub.")
PLACE = typer.Argument(..., help="s3://BUCKET/PREFIX, or a folder.")


@models.command("push")
def push(
    source: str = typer.Argument(..., help="A model's folder, or hub:ORG/NAME."),
    place: str = PLACE,
) -> None:
    """Bring a model's weights to a place, with a checksum for each file; what is there already is
    not sent again."""
    folder = weights.source_of(source)
    total = sum(path.stat().st_size for path in weights.listed(folder))
    with _progress(total) as tell:
        moved = weights.push(folder, opened(place), tell)
    _told(moved, place)


@models.command("pull")
def pull(
    place: str = PLACE,
    folder: Path = typer.Argument(..., help="Where the weights are to lie."),
) -> None:
    """Bring a model's weights from a place to a folder, each file checked; the folder is there
    whole or not at all."""
    kept = opened(place)
    total = sum(file.bytes for file in weights.required(kept))
    with _progress(total) as tell:
        moved = weights.pull(kept, folder, tell)
    _told(moved, str(folder))


@contextmanager
def _progress(total: int) -> Iterator[Tell]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda name, count: shown.update(task, advance=count, description=name)


def _told(moved: Moved, where: str) -> None:
    count = f"{len(moved.files)} files, {moved.bytes / 1e6:.1f} MB"
    console.print(f"{where}: {count}; {moved.sent} sent, {moved.known} there already", markup=False)
