"""One stack a data folder: who holds it, where it answers, and what a dead one left behind."""

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Final

from cluster.errors import ConfigError, Conflict, Unavailable
from cluster.settings import Settings

DEMO: Final = "demo"


@dataclass(frozen=True)
class Running:
    """The stack of a data folder, as its owner wrote it down. `url` is empty while it starts;
    `phases` are the seconds that each phase of the start took, `logs` is the folder of its
    processes' logs."""

    pid: int
    stack: str
    url: str = ""
    gcs_address: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    logs: str = ""


class Claim:
    """A data folder held by this process until `release`, or until it dies."""

    def __init__(self, data_dir: Path) -> None:
        """Raises Conflict, naming the holder, when another process runs a stack there."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "running.json"
        self._lock: IO[str] = (data_dir / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Conflict(f"data folder {data_dir}", _held_by(self._path)) from None
        self.left_behind = read(data_dir)

    def write(self, running: Running) -> None:
        """Say where the stack answers."""
        self._path.write_text(json.dumps(asdict(running)), encoding="utf-8")

    def release(self) -> None:
        """Let go of the folder."""
        self._path.unlink(missing_ok=True)
        self._lock.close()


def read(data_dir: Path) -> Running | None:
    """What the folder's owner wrote down, or None. It may be dead: `Claim` tells."""
    try:
        return Running(**json.loads((data_dir / "running.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def require_free_ports(settings: Settings) -> None:
    """Raises ConfigError, naming the setting, for a port that another program holds."""
    gateway = settings.gateway
    wanted = {"gateway.port": gateway.port}
    if gateway.haproxy:
        wanted["gateway.haproxy_stats_port"] = gateway.haproxy_stats_port
        wanted["gateway.haproxy_metrics_port"] = gateway.haproxy_metrics_port
    for name, port in wanted.items():
        if not is_free(port):
            raise ConfigError(name, port, "a port that no other program holds")


def is_free(port: int) -> bool:
    """Whether nothing listens on `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def home_of(data_dir: Path) -> Path:
    """The folder that a stack holds whose data lie in `data_dir`: the demo's lie below its own."""
    above = data_dir.parent
    below = data_dir.name == DEMO and read(data_dir) is None and read(above) is not None
    return above if below else data_dir


def find(data_dir: Path) -> Running | None:
    """The stack that runs or starts on the folder, if any."""
    running = read(home_of(data_dir))
    return running if running is not None and _is_alive(running.pid) else None


def require(data_dir: Path) -> Running:
    """The running stack of the folder; Unavailable when there is none."""
    running = find(data_dir)
    if running is None:
        raise Unavailable("Mainspring", f"no stack runs on {data_dir}; start one: mainspring up")
    return running


def _held_by(path: Path) -> str:
    running = read(path.parent)
    if running is None:
        return "another Mainspring is starting on it; wait, or stop it first"
    return f"Mainspring runs already (process {running.pid}, {running.url}); stop it first"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
