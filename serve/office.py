"""How the gateway asks a named actor: the orchestrator, or memory."""

import asyncio
from typing import Any, Final

from ray.exceptions import RayActorError, RayError

from cluster.errors import DeadlineExceeded, Unavailable
from cluster.session import actor, own
from cluster.telemetry import logger

TIMEOUT_S: Final = 15.0

log = logger("office")


class Named:
    """An actor by its name; `called` is what people call it. What it raises on purpose comes
    through."""

    def __init__(self, name: str, called: str) -> None:
        self._name, self._called = name, called
        self._handle: Any = None

    async def ask(self, method: str, *args: Any, timeout_s: float = TIMEOUT_S) -> Any:
        """What `method` of the actor answers. Unavailable while it restarts, DeadlineExceeded
        after `timeout_s` seconds."""
        try:
            if self._handle is None:
                self._handle = actor(self._name)
            return await asyncio.wait_for(getattr(self._handle, method).remote(*args), timeout_s)
        except RayActorError as error:
            raise Unavailable(self._called, type(error).__name__, 2.0) from None
        except RayError as error:
            cause = own(error)
            if cause is not error:
                raise cause from None
            log.warning("%s does not answer: %s", self._called, error)
            raise Unavailable(self._called, "it does not answer", 2.0) from None
        except TimeoutError:
            raise DeadlineExceeded(self._called, timeout_s) from None
