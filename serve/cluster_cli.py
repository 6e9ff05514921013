"""`mainspring dashboards`: what a platform engineer brings into other systems."""

import typer
from rich.console import Console

from cluster.errors import ConfigError
from cluster.settings import load

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
_MOST_LINES = 8

dashboards = typer.Typer(no_args_is_help=True, help="The boards in Grafana.")


def register(app: typer.Typer) -> None:
    """Give the app these commands."""
    app.add_typer(dashboards, name="dashboards")


@dashboards.command("apply")
def dashboards_apply(
    check: bool = typer.Option(False, "--check", help="Write nothing; exit status 1 if different."),
    profile: str | None = PROFILE,
) -> None:
    """Bring boards, folder, data source and contact points into Grafana, all or none; what is
    there already stays. The address and the token are the profile's section `grafana`."""
    section = load(profile).grafana
    try:
        from cluster.dashboards import Boards
    except ImportError:
        raise ConfigError(
            "grafana", "not installed", "the extra grafana: pip install mainspring[grafana]"
        ) from None
    grafana = Boards(section)
    changes = grafana.changes()
    different = [change for change in changes if change.verb != "same"]
    if not check:
        grafana.apply(changes)
    for change in changes:
        console.print(f"{change.verb:<7}{change.shelf.kind:<14}{change.name}", markup=False)
        for line in change.lines[:_MOST_LINES]:
            console.print(f"         {line}", markup=False)
        if more := len(change.lines) - _MOST_LINES:
            console.print(f"         and {more} more") if more > 0 else None
    console.print(_summary(len(different), len(changes), check))
    if check and different:
        raise typer.Exit(1)


def _summary(different: int, number: int, check: bool) -> str:
    if not different:
        return f"all {number} are as they should be"
    return f"{different} of {number} {'differ; nothing was written' if check else 'were written'}"
