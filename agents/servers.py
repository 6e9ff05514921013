"""The connector to MCP servers: an actor that alone holds their credentials.

A server has no way to tell whether a call was done, so a write that was broken off is unknown, and
a person is asked; a read that was broken off is done again.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents.guarded import Guarded
from agents.intents import Guard
from agents.presidio import PATTERNS, detectors
from agents.server_calls import Server
from agents.toolbox import Pins, Toolbox, parted
from cluster.settings import PiiSection, ToolServerSection


class Servers(Guarded):
    """The tools called SERVER/TOOL, as they are pinned in the file `pins`."""

    def __init__(
        self, servers: Sequence[ToolServerSection], pins: Path, make_guard: Callable[[], Guard],
        pii: PiiSection = PATTERNS,
    ) -> None:  # fmt: skip
        super().__init__(make_guard())
        self._more = detectors(pii)
        self._toolbox = Toolbox(servers)
        self._pins = Pins(pins)

    def pid(self) -> int:
        return os.getpid()

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """See `agents.server_calls.Server.call`. Conflict for a tool that nobody accepted."""
        section = self._toolbox.section(parted(tool)[0])
        pin = self._pins.require(tool)
        # In one loop for all threads: uvloop, which Ray uses, starts no processes from several.
        call = Server(section, more=self._more).call(pin, args)
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
