"""`mainspring tools`: what MCP servers offer, and which of it an operator has accepted.

An acceptance is a run of the workflow `accept_tools` that has ended, so it stands in the same
chained journal as what the tools do, and `mainspring audit` covers it.
"""

import asyncio
import os
from collections.abc import Mapping

import typer
from rich.console import Console
from rich.table import Table

from agents import toolbox
from agents.acceptance import accept
from agents.toolbox import PINS, Pin, Pins, Toolbox
from cluster.errors import MainspringError
from cluster.ids import SystemClock
from cluster.settings import Settings, load
from serve.operator_cli import BY, PROFILE, opened

console = Console(highlight=False, soft_wrap=True)
tools = typer.Typer(no_args_is_help=True, help="Tools of MCP servers, and who accepted them.")


@tools.command("list")
def tools_list(profile: str | None = PROFILE) -> None:
    """List the tools that the settings name, and how each stands. Asks the servers."""
    settings = load(profile)
    accepted = _pins(settings).all()
    table = Table("tool", "effect", "state", "accepted by", box=None)
    for section in settings.agents.servers:
        offered, why = _asked(settings, section.name)
        for tool, effect in section.tools.items():
            name = f"{section.name}{toolbox.BETWEEN}{tool}"
            pin = accepted.get(name)
            state = why or _state(pin, offered.get(name))
            table.add_row(name, effect, state, pin.by if pin else "")
    console.print(table)


@tools.command("search")
def tools_search(
    wanted: str = typer.Argument(..., help="What it should do."),
    limit: int = typer.Option(5, min=1, max=100),
    profile: str | None = PROFILE,
) -> None:
    """Find accepted tools by what they are said to do."""
    found = toolbox.search(_pins(load(profile)).all().values(), wanted, limit)
    for pin, weight in found:
        line = pin.description.strip().partition("\n")[0]
        console.print(f"{weight:5.2f}  {pin.name}  {line[:100]}", markup=False)
    if not found:
        console.print("no accepted tool says any of these words")


@tools.command("accept")
def tools_accept(
    server: str = typer.Argument(..., help="A server's name in the settings."),
    by: str = BY,
    why: str = typer.Option("", help="Why; kept in the journal."),
    look: bool = typer.Option(False, "--look", help="Only show what would be accepted."),
    profile: str | None = PROFILE,
) -> None:
    """Accept a server's listed tools as it describes them now; a changed one is refused until
    then."""
    settings = load(profile)
    offered = _server(settings, server)
    pins = _pins(settings)
    before = pins.all()
    for pin in offered.values():
        _show(pin, before.get(pin.name))
    if look:
        return
    with opened(settings) as journal:
        fresh = accept(journal, SystemClock(), settings.tenant, pins, offered.values(), by, why)
    console.print(f"{len(fresh)} of {len(offered)} tools accepted anew", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(tools, name="tools")


def _pins(settings: Settings) -> Pins:
    return Pins(settings.path(PINS))


def _server(settings: Settings, name: str) -> Mapping[str, Pin]:
    from agents.server_calls import Server

    section = Toolbox(settings.agents.servers).section(name)
    return asyncio.run(Server(section, os.environ).offered())


def _asked(settings: Settings, name: str) -> tuple[Mapping[str, Pin], str]:
    try:
        return _server(settings, name), ""
    except MainspringError as error:
        return {}, str(error)


def _state(pin: Pin | None, offered: Pin | None) -> str:
    if offered is None:
        return "not offered"
    if pin is None:
        return "not accepted"
    return "accepted" if pin.hash == offered.hash else "changed since it was accepted"


def _show(pin: Pin, before: Pin | None) -> None:
    console.print(f"{pin.name}  {pin.hash[:12]}", markup=False)
    if before is not None and before.hash == pin.hash:
        console.print("  as accepted")
        return
    if before is not None:
        console.print(f"  changed: {', '.join(pin.changed_from(before))}; it was:", markup=False)
        console.print(f"  {before.description!r}", markup=False)
    # Shown as a literal: a description can't draw on the operator's screen.
    console.print(f"  {pin.description!r}", markup=False)
    console.print(f"  {pin.schema!r}", markup=False)
