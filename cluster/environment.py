"""What must stand in the environment before `import ray`: Ray reads it once, at import.

The stack's mark (MAINSPRING_STACK) rides along to every process that Ray starts, so that an
orderly stop, or the next start after a kill, ends exactly those and nothing else.
"""

import os
import secrets
from pathlib import Path
from typing import Final

STACK_VARIABLE: Final = "MAINSPRING_STACK"


def prepare(data_dir: Path, stack: str | None, further: dict[str, str]) -> None:
    """Set token authentication (the token lies in `data_dir`, readable by its owner only),
    usage statistics off, the mark of `stack` when one is started, and `further`."""
    os.environ.update(further)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token(data_dir))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray runs its workers at niceness 15: on a machine with other work the engines would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if stack is not None:
        os.environ[STACK_VARIABLE] = stack


def _token(data_dir: Path) -> Path:
    path = data_dir.resolve() / "ray-token"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path
