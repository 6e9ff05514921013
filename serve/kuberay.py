"""What KubeRay waits for: an application that runs once the stack does.

A RayService is ready when the applications of its `serveConfigV2` are. The stack brings its own
(`serve/app.py`), so that file names this one alone.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from ray import serve as ray_serve

from cluster.errors import DeadlineExceeded

STACK: Final = "mainspring"
WAITS_S: Final = 3_000.0
_POLL_S: Final = 2.0


def _status(name: str) -> str:
    found = ray_serve.status().applications.get(name)
    return "absent" if found is None else str(found.status)


class Ready:
    """Made when the stack's gateway runs; its making waits for that. DeadlineExceeded after
    `waits_s`; Serve tries again."""

    def __init__(
        self,
        waits_s: float = WAITS_S,
        poll_s: float = _POLL_S,
        status: Callable[[str], str] = _status,
    ) -> None:
        deadline = time.monotonic() + waits_s
        while status(STACK) != "RUNNING":
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the application {STACK}", waits_s)
            time.sleep(poll_s)

    def __call__(self) -> str:
        return "ready"


ready: Any = ray_serve.deployment(
    Ready, name="ready", ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=1.0
).bind()
