"""How the gateway asks the orchestrators."""

import itertools
from collections.abc import Sequence
from typing import Any

from agents.owners import TIMEOUT_S, Owners


class Orchestra:
    """The named orchestrators, asked in turn: each passes on what is another's."""

    def __init__(self, names: Sequence[str]) -> None:
        self._owners = Owners(names)
        self._next = itertools.cycle(names)

    async def ask(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """See `agents.owners.Owners.ask`."""
        return await self._owners.ask(next(self._next), method, *args, timeout_s=timeout_s)
