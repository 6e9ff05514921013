"""How the gateway asks named actors: the orchestrators, or memory."""

import itertools
from collections.abc import Sequence
from typing import Any

from agents.owners import TIMEOUT_S, Owners


class Named:
    """Actors of these names, asked in turn: each orchestrator passes on what is another's.
    `called` is what people call them."""

    def __init__(self, names: Sequence[str], called: str) -> None:
        self._owners = Owners(names, called)
        self._next = itertools.cycle(names)

    async def ask(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """See `agents.owners.Owners.ask`."""
        return await self._owners.ask(next(self._next), method, *args, timeout_s=timeout_s)
