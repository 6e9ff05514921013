"""`POST /mcp`: the tools of `serve/mcp_server.py` over streamable HTTP, one request at a time.

A tool's request goes through this very gateway, in this process, with the headers that tell who
calls: the door decides about each as about any other.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.client import Client

if TYPE_CHECKING:
    from mcp.server.mcpserver.tools import Tool

    from serve.mcp_server import Opened

PATH: Final = "/mcp"
_PASSED_ON: Final = ("authorization", "x-mainspring-tenant", "x-request-id")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class McpEndpoint:
    """An ASGI app over the gateway `app`. On loopback, where nobody may need a key, what calls the
    machine by another name, or comes from another site's page, is refused."""

    def __init__(self, app: ASGIApp, on_loopback: bool) -> None:
        self._app, self._on_loopback = app, on_loopback
        self._tools: list[Tool] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tools = self._tools
        if tools is None:
            tools = self._tools = await asyncio.to_thread(_tools, self._opened)
        from mcp.server.transport_security import TransportSecuritySettings

        from serve.mcp_server import server_of

        # one server a request: there are no sessions, and none has to live beside the gateway
        server = server_of(tools)
        answering = server.streamable_http_app(
            json_response=True,
            stateless_http=True,
            transport_security=TransportSecuritySettings(
                enable_dns_rebinding_protection=self._on_loopback,
                allowed_hosts=[f"{name}:*" for name in _LOOPBACK],
                allowed_origins=[f"http://{name}:*" for name in _LOOPBACK],
            ),
        )
        async with server.session_manager.run():
            await answering(scope, receive, send)

    def _opened(self, headers: Mapping[str, str]) -> Client:
        passed = {name: headers[name] for name in _PASSED_ON if name in headers}
        transport = httpx.ASGITransport(app=self._app)
        return Client("http://gateway", headers=passed, transport=transport)


def _tools(opened: "Opened") -> "list[Tool]":
    """The SDK takes its time to import: only who asks for it waits."""
    from serve.mcp_server import Tools

    return Tools(opened).all()
