"""The orchestrators that share the runs, and which of them owns which.

All runs of an agent have one owner, so that what the agent remembers, its one turn at a time and
its limits are kept in one place. Any orchestrator may be asked about any run: it passes on what is
another's. The journal is theirs in common, and its epochs fence whoever errs.
"""

import asyncio
import zlib
from collections.abc import Sequence
from typing import Any, Final

from ray.exceptions import RayActorError, RayError

from cluster.errors import DeadlineExceeded, Unavailable
from cluster.session import actor, own
from cluster.telemetry import logger

NAME: Final = "orchestrator"
TIMEOUT_S: Final = 15.0

log = logger("owners")


def orchestrator_names(count: int) -> tuple[str, ...]:
    """The names of so many orchestrators; there is always a NAME."""
    return (NAME, *(f"{NAME}-{number}" for number in range(1, count)))


class Owners:
    """The orchestrators of these names, or other actors that are `called` something else; what
    they raise on purpose comes through."""

    def __init__(self, names: Sequence[str], called: str = "the orchestrator") -> None:
        self.names, self._called = tuple(names), called
        self._handles: dict[str, Any] = {}

    def of(self, tenant: str, agent: str) -> str:
        """The name of the one that owns all runs of this agent."""
        return self.names[zlib.crc32(f"{tenant}/{agent}".encode()) % len(self.names)]

    async def ask(self, name: str, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """What `method` of that orchestrator answers. Unavailable while it restarts,
        DeadlineExceeded after `timeout_s` seconds."""
        try:
            if name not in self._handles:
                self._handles[name] = actor(name)
            call = getattr(self._handles[name], method).remote(*args)
            return await asyncio.wait_for(call, timeout_s)
        except RayActorError as error:
            raise Unavailable(self._called, type(error).__name__, 2.0) from None
        except RayError as error:
            cause = own(error)
            if cause is not error:
                raise cause from None
            log.warning("%s does not answer: %s", name, error)
            raise Unavailable(self._called, "it does not answer", 2.0) from None
        except TimeoutError:
            raise DeadlineExceeded(self._called, timeout_s) from None
