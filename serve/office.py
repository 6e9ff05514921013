"""How the gateway asks the orchestrator."""

import asyncio
from typing import Any, Final

from ray.exceptions import RayActorError, RayError

from agents.orchestrator import NAME
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.session import actor, own
from cluster.telemetry import logger

TIMEOUT_S: Final = 15.0

log = logger("office")


class Orchestra:
    """The named orchestrator; what it raises on purpose comes through."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def ask(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """What `method` of the orchestrator answers. Unavailable while it restarts,
        DeadlineExceeded after `timeout_s` seconds."""
        try:
            if self._handle is None:
                self._handle = actor(NAME)
            return await asyncio.wait_for(getattr(self._handle, method).remote(*args), timeout_s)
        except RayActorError as error:
            raise Unavailable("the orchestrator", type(error).__name__, 2.0) from None
        except RayError as error:
            cause = own(error)
            if cause is not error:
                raise cause from None
            log.warning("the orchestrator does not answer: %s", error)
            raise Unavailable("the orchestrator", "it does not answer", 2.0) from None
        except TimeoutError:
            raise DeadlineExceeded("the orchestrator", timeout_s) from None
