"""`mainspring mcp`: the stack's memory and agents for a program that starts us and speaks MCP over
stdin and stdout."""

import asyncio
import os
from typing import Final

import typer

from cluster.settings import load

KEY_VARIABLE: Final = "MAINSPRING_API_KEY"


def mcp(
    url: str = typer.Option("", help="The stack's address; default: the profile's gateway."),
    profile: str | None = typer.Option(
        None, "--profile", help="A profile's name or file; default: local."
    ),
) -> None:
    """Offer a running stack's memory and agents as MCP tools over stdin and stdout. The key is
    read from MAINSPRING_API_KEY."""
    from serve.client import Client
    from serve.mcp_server import Tools, server_of

    key = os.environ.get(KEY_VARIABLE, "")
    address = url or load(profile).gateway.url
    server = server_of(Tools(lambda headers: Client(address, key)).all())
    asyncio.run(server.run_stdio_async())


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(mcp)
