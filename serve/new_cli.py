"""`mainspring new`: what a user begins with and makes their own."""

import re
from pathlib import Path
from typing import Final

import typer
from rich.console import Console

from cluster.errors import Conflict, InvalidInput
from cluster.settings import INFRA

console = Console(highlight=False, soft_wrap=True)
new = typer.Typer(no_args_is_help=True, help="Begin something of your own.")
_TEMPLATE: Final = INFRA / "templates" / "workflow"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PLACE: Final = re.compile(r"\bNAME\b")


@new.callback()
def _new() -> None:
    """Keeps `new workflow` a command of its own while it is the only one."""


@new.command("workflow")
def workflow(
    name: str = typer.Argument(..., help="1 to 40 small letters, digits and _."),
    into: Path = typer.Option(Path(), help="The folder in which NAME/ is made."),
) -> None:
    """Make a workflow that runs, with its policy and tests, to be changed into your own."""
    folder = make(name, into)
    console.print(f"made {folder}/: workflow.py, policy.cedar, cases.yaml, test_workflow.py")
    console.print("try it:", markup=False)
    for line in (
        f"mainspring policy test {folder}/cases.yaml",
        f"python -m pytest {folder}",
        f"MAINSPRING_AGENTS__PACKS='[\"./{folder}\"]' mainspring up",
        f"mainspring run {name} --set subject=ann --set about='the invoice is due'",
    ):
        console.print(f"  {line}", markup=False)


def make(name: str, into: Path) -> Path:
    """The folder of the new workflow. InvalidInput for a name that can be none, Conflict when there
    is such a folder."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("name", name, "1 to 40 small letters, digits and _, a letter first")
    folder = into / name
    if folder.exists():
        raise Conflict(f"folder {folder}", "there is one of this name")
    files = {path.name: path.read_text("utf-8") for path in _TEMPLATE.iterdir() if path.is_file()}
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(_PLACE.sub(name, text), encoding="utf-8")
    return folder
