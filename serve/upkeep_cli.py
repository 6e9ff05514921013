"""`mainspring status`, `logs`, `drain`, `upgrade`, `backup` and `restore`."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from cluster.errors import Conflict, MainspringError, Unavailable
from cluster.ids import SystemClock
from cluster.objects import opened
from cluster.settings import load
from serve import backup as kept
from serve import logs
from serve.keys_cli import opened as opened_books
from serve.running import Claim, home_of, require

console = Console(highlight=False, soft_wrap=True)
_LOOK_S = 0.5
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")


def register(app: typer.Typer) -> None:
    """Give the app these commands."""
    app.command("status")(status)
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("logs")(show_logs)
    app.command("drain")(drain)
    app.command("upgrade")(upgrade)
    app.command("reload")(reload)


def status(
    as_json: bool = typer.Option(False, "--json", help="For scripts."),
    tenant: str | None = typer.Option(None, "--tenant", help="Default: the profile's tenant."),
    profile: str | None = PROFILE,
) -> None:
    """Show how the running stack does: engines, runs, approvals, batches, nodes, budgets. Exit
    status 1 when a part does not answer."""
    from serve import lifecycle

    settings = load(profile)
    running, home = require(settings.data_dir), home_of(settings.data_dir)
    with opened_books(settings) as books, lifecycle.joined(running, home) as actor:
        from agents.owners import orchestrator_names  # brings Ray
        from serve import status as statuses

        found = statuses.look(
            running.url, tenant or settings.tenant, asking(actor),
            orchestrator_names(settings.agents.orchestrators), books, nodes(),
            any(m.replicas.elastic for m in settings.models),
        )  # fmt: skip
    console.print_json(data=found.body()) if as_json else console.print(statuses.shown(found))
    if found.silent:
        raise typer.Exit(1)


def show_logs(
    follow: bool = typer.Option(False, "--follow", help="Go on until Ctrl-C."),
    run: str = typer.Option("", help="Of this run only."),
    request: str = typer.Option("", help="Of this request only."),
    trace: str = typer.Option("", help="Of this trace only."),
    level: str = typer.Option("INFO", help="At least: DEBUG, INFO, WARNING, ERROR."),
    since: str = typer.Option("", help="Not older than, as 10m or 2h."),
    as_json: bool = typer.Option(False, "--json", help="An entry a line, for scripts."),
    profile: str | None = PROFILE,
) -> None:
    """Show what the running stack's processes on this machine have logged, by time."""
    settings = load(profile)
    running = require(settings.data_dir)
    if not running.logs:
        raise Unavailable("Mainspring", "the stack is still starting; try again soon")
    wanted = logs.Wanted(run, request, trace, level.upper(), logs.since(since, SystemClock().now()))
    found = logs.Logs(Path(running.logs))
    try:
        while True:
            for entry in found.fresh(wanted):
                told = json.dumps(asdict(entry)) if as_json else logs.shown(entry)
                console.print(told, markup=False)
            if not follow:
                return
            time.sleep(_LOOK_S)
            require(settings.data_dir)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def drain(
    deadline: float = typer.Option(120.0, min=0.0, help="Wait at most so many seconds."),
    resume: bool = typer.Option(False, "--resume", help="Begin work again."),
    profile: str | None = PROFILE,
) -> None:
    """Let the running stack end what is begun and begin nothing new. Exit status 3 when something
    is left at the deadline."""
    from serve import draining, lifecycle

    settings = load(profile)
    running, home = require(settings.data_dir), home_of(settings.data_dir)
    with lifecycle.joined(running, home) as actor:
        from agents.owners import orchestrator_names  # brings Ray
        from serve.app import DIRECTORY

        ask, names = asking(actor), orchestrator_names(settings.agents.orchestrators)
        if resume:
            draining.resume(ask, DIRECTORY, names)
            console.print("work is begun again")
            return
        left = draining.drain(ask, DIRECTORY, names, deadline, lambda n: console.print(str(n)))
    if not left.nothing:
        raise typer.Exit(3)
    console.print("drained: stop the stack, or take it back with mainspring drain --resume")


def reload(profile: str | None = PROFILE) -> None:
    """Have the running stack take up its changed settings and policy. Exit status 3 when some of
    them need a restart, which are named."""
    from serve import reloading

    settings = load(profile)
    running, home = require(settings.data_dir), home_of(settings.data_dir)
    done = reloading.ask(running, home)
    if done.error:
        raise Conflict("the reload, nothing is changed", done.error)
    console.print(f"in force: {', '.join([*done.live, 'the policy'])}")
    if done.restart:
        console.print(f"need a restart: {', '.join(done.restart)}")
        raise typer.Exit(3)


def upgrade(
    out: Path | None = typer.Option(None, help="The backup; default: mainspring-TIME.tar.gz here."),
    check: bool = typer.Option(False, "--check", help="Only try it, and say what would be done."),
    profile: str | None = PROFILE,
) -> None:
    """Bring the databases of a stopped stack to this version's schemas: everything is tried first,
    then backed up, then done. When it fails, the backup restores what was."""
    from serve import upgrading

    settings = load(profile)
    claim = Claim(home_of(settings.data_dir))  # nobody starts it meanwhile
    try:
        changes = upgrading.pending(settings)
        if not check:
            now = SystemClock().now()
            file = out or Path(kept.name_of(now))
            made = kept.backup(settings, file.resolve(), now)
            console.print(f"{file}: {made.bytes / 1e6:.1f} MB of state", markup=False)
        for change in changes if check else upgrading.upgrade(settings):
            console.print(str(change), markup=False)
    finally:
        claim.release()


def asking(actor: Callable[[str], Any]) -> Callable[..., Any]:
    """What a named actor answers within ASK_S; see `serve.status.Ask`."""
    import ray
    from ray.exceptions import RayError

    from cluster.session import own
    from serve.status import ASK_S

    def ask(name: str, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(actor(name), method).remote(*args), timeout=ASK_S)
        except RayError as error:
            cause = own(error)
            if isinstance(cause, MainspringError):
                raise cause from None
            raise Unavailable(name, type(error).__name__) from None

    return ask


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process has joined."""
    import ray

    return [
        {"address": n["NodeManagerAddress"], "alive": n["Alive"], "resources": n["Resources"]}
        for n in ray.nodes()
    ]


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
