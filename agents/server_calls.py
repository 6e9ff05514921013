"""One conversation with an MCP server: what it offers, and one call of one of its tools.

Each conversation has a connection of its own, over stdio a process of its own: what a server
learns in one run it can't tell in another. Before a call is sent, the server is asked what it
offers, so that a tool that was changed since it was accepted is never called.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from mcp.client import Client
from mcp_types import CallToolResult, TextContent
from mcp_types import Tool as ServerTool
from pydantic import ValidationError

from agents.pii import Detector, masked
from agents.server_wires import Wire, http, stdio
from agents.toolbox import TOOL_RESULT, Pin, require_fit
from cluster.errors import Conflict, EffectUnknown, InvalidInput, MainspringError
from cluster.settings import ToolServerSection
from cluster.telemetry import logger

MAX_TOOLS: Final = 1_000
_MAX_PAGES: Final = 50
_SECRETS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}"
    r"|\bgithub_pat_\w{40}|\bsk-[A-Za-z0-9_-]{24}|\bxox[abprs]-[A-Za-z0-9-]{20}"
    r"|\bAIza[\w-]{35}|\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,8000}\.[\w-]{10}"
)
UNTRUSTED: Final = "untrusted"

log = logger("servers")


class Server:
    """A server as the settings describe it; it holds its credentials."""

    def __init__(
        self, section: ToolServerSection, env: Mapping[str, str] | None = None,
        more: Sequence[Detector] = (),
    ) -> None:  # fmt: skip
        """`env` is where credentials are read: this process's environment. Conflict when one is
        not there."""
        env = os.environ if env is None else env
        if missing := sorted(v for v in section.credentials.values() if v not in env):
            raise Conflict(f"server {section.name}", f"the environment has no {missing[0]}")
        self._section, self._more = section, more
        self._credentials = {name: env[v] for name, v in section.credentials.items()}

    async def offered(self) -> dict[str, Pin]:
        """What it says of the tools that the settings list, by name. Conflict, with why, when it
        does not answer as it should."""
        wire = Wire()
        try:
            async with self._open(wire) as client:
                return await self._offered(client)
        except MainspringError:
            raise
        except Exception as error:
            # Whatever a stranger's server can bring about in the SDK.
            raise Conflict(f"server {self._section.name}", self._why(wire, error)) from None

    async def call(self, pin: Pin, args: dict[str, Any]) -> dict[str, Any]:
        """The result of one call, as a receipt. InvalidInput when the arguments don't fit what was
        accepted; Conflict when nothing was done: the server is away, or has changed the tool, or
        says that it failed, or it was only to be read. EffectUnknown when a write was broken
        off."""
        require_fit("arguments", args, pin.schema)
        wire, sent = Wire(), False
        writes = self._section.tools.get(pin.tool) != "read"
        try:
            async with self._open(wire) as client:
                self._require_same(pin, await self._offered(client))
                sent = True
                result = await client.call_tool(pin.tool, args)
                sent = False
                return self._receipt(pin, result)
        except MainspringError:
            raise
        except Exception as error:
            why = self._why(wire, error)
            log.warning("%s: %s", pin.name, why)
            if sent and writes:
                raise EffectUnknown(pin.name, f"{why}; whether it was done is not known") from None
            raise Conflict(pin.name, why) from None

    @asynccontextmanager
    async def _open(self, wire: Wire) -> AsyncIterator[Client]:
        section = self._section
        transport: Any = (
            stdio(section.command, self._credentials, section.max_bytes, wire)
            if section.command
            else http(section.url, self._credentials, section.max_bytes, section.timeout_s, wire)
        )
        async with asyncio.timeout(section.timeout_s):
            async with Client(transport, cache=None) as client:
                yield client

    async def _offered(self, client: Client) -> dict[str, Pin]:
        found: dict[str, Pin] = {}
        cursor: str | None = None
        count = 0
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            count += len(page.tools)
            for tool in page.tools:
                if tool.name in self._section.tools:
                    pin = self._pin(tool)
                    if pin.name in found:
                        raise Conflict(pin.name, "the server offers it twice")
                    found[pin.name] = pin
            cursor = page.next_cursor
            if not cursor:
                return found
            if count > MAX_TOOLS:
                break
        raise Conflict(f"server {self._section.name}", f"it offers over {MAX_TOOLS} tools")

    def _pin(self, tool: ServerTool) -> Pin:
        return Pin(
            self._section.name, tool.name, tool.description or "", tool.input_schema,
            tool.output_schema,
        )  # fmt: skip

    def _require_same(self, pin: Pin, offered: Mapping[str, Pin]) -> None:
        now = offered.get(pin.name)
        if now is None:
            raise Conflict(pin.name, "the server does not offer it any more")
        if now.hash != pin.hash:
            parts = " and ".join(now.changed_from(pin))
            hint = f"mainspring tools accept {pin.server}"
            raise Conflict(pin.name, f"its {parts} changed since it was accepted; see {hint}")

    def _receipt(self, pin: Pin, result: CallToolResult) -> dict[str, Any]:
        text = "\n".join(c.text for c in result.content if isinstance(c, TextContent))
        left_out = sum(not isinstance(c, TextContent) for c in result.content)
        kept = self._fit(text)
        if result.is_error:
            raise Conflict(pin.name, f"the server says that it failed: {kept['text'][:500]}")
        receipt = {
            "kind": TOOL_RESULT, "tool": pin.name, "hash": pin.hash, "labels": [UNTRUSTED],
            "left_out": left_out, **kept,
        }  # fmt: skip
        structured = result.structured_content
        if pin.output is not None and structured is not None:
            try:
                require_fit("result", structured, pin.output)
            except InvalidInput as error:
                receipt |= {"text": "", "withheld": f"it does not fit its own schema: {error}"}
        return receipt

    def _fit(self, text: str) -> dict[str, Any]:
        """What of a result may be kept: no secret, no personal data, not too much."""
        if why := self._secret(text):
            return {"text": "", "cut": 0, "withheld": why}
        most = self._section.max_chars
        cut = max(0, len(text) - most)
        kept = text[:most]
        shown = kept if self._section.personal == "keep" else masked(kept, self._more)
        return {"text": shown, "cut": cut, "withheld": ""}

    def _secret(self, text: str) -> str:
        if any(value and value in text for value in self._credentials.values()):
            return "it holds a credential of this connector"
        return "it holds what looks like a secret" if _SECRETS.search(text) else ""

    def _why(self, wire: Wire, error: BaseException) -> str:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TimeoutError):
            return f"it took longer than {self._section.timeout_s:g} s"
        if isinstance(error, OSError) and not wire.broke:
            return f"it can't be started: {error.strerror or type(error).__name__}"
        if isinstance(error, ValidationError):
            return "it answered in a form that is not MCP's"
        said = wire.broke or f"{type(error).__name__}: {error}"[:300]
        if self._secret(said):
            return "it failed, and its words hold a secret"
        return masked(said, self._more)
