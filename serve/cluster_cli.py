"""`mainspring dashboards` and `mainspring cluster`: what is brought into other systems."""

from enum import StrEnum
from pathlib import Path

import typer
from rich.console import Console

from cluster.errors import ConfigError
from cluster.settings import load

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
_MOST_LINES = 8


class Target(StrEnum):
    """Where the stack is to run."""

    KUBERAY = "kuberay"
    AWS = "aws"


TARGET = typer.Option(
    ..., "--target", help="Kubernetes with KubeRay, or Ray's own launcher on AWS."
)
CLUSTER = typer.Option("cluster", "--profile", help="A profile's name or file.")

cluster = typer.Typer(no_args_is_help=True, help="Manifests for a cluster, from the profile.")
dashboards = typer.Typer(no_args_is_help=True, help="The boards in Grafana.")


def register(app: typer.Typer) -> None:
    """Give the app these commands."""
    app.add_typer(dashboards, name="dashboards")
    app.add_typer(cluster, name="cluster")


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


@cluster.command("render")
def cluster_render(
    target: Target = TARGET,
    out: Path = typer.Option(..., "--out", help="The folder to write; files of the same name go."),
    profile: str = CLUSTER,
) -> None:
    """Write the profile as manifests for KubeRay, or as a cluster file and rights for AWS."""
    from cluster.render import files

    made = files.rendered(profile, target.value)
    files.write(made, out)
    console.print(f"wrote {', '.join(made)} to {out}")


@cluster.command("validate")
def cluster_validate(
    target: Target = TARGET,
    folder: Path | None = typer.Option(None, "--dir", help="Files to check instead of rendering."),
    profile: str = CLUSTER,
) -> None:
    """Check manifests against the schemas of Kubernetes, KubeRay and Ray; exit status 1 when one
    says no."""
    from cluster.render import files

    made = files.rendered(profile, target.value) if folder is None else files.read(folder)
    found = list(files.problems(made))
    for line in found:
        console.print(line, markup=False)
    if found:
        raise typer.Exit(1)
    console.print(f"{len(made)} files, nothing wrong")


@cluster.command("diff")
def cluster_diff(
    target: Target = TARGET,
    folder: Path = typer.Option(..., "--dir", help="The files that are in use."),
    profile: str = CLUSTER,
) -> None:
    """Show what rendering would change in a folder; exit status 1 when something."""
    from cluster.render import files

    lines = list(files.differences(files.rendered(profile, target.value), folder))
    for line in lines:
        console.print(line, markup=False)
    if lines:
        raise typer.Exit(1)
    console.print("no difference")
