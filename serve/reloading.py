"""`mainspring reload`: what the settings say now, taken up by the stack that runs.

The stack's own process reads them again (SIGUSR1), as only it has its environment. Taken up are:
all of `gateway` but its addresses, and `outside` (the gateways are replaced one after the other,
and those that leave answer what they have begun); the pace and limits of `batches` (their worker
goes on where it was); `autoscale`; and the text of the policy and of packs' policies. What else has
changed is named and needs a restart. A wrong value changes nothing.

Rows of the databases need no reload: keys, budgets, levels of autonomy, quality heads, promoted
checkpoints count from when they are written.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from cluster.errors import DeadlineExceeded, MainspringError, Unavailable
from cluster.ids import SystemIds
from cluster.settings import Settings
from serve.running import Running

SIGNAL: Final = signal.SIGUSR1
FILE: Final = "reloaded.json"
LIMIT_S: Final = 600.0
_POLL_S: Final = 0.2
_ADDRESSES: Final = ("host", "port", "haproxy", "haproxy_stats_port", "haproxy_metrics_port")
_PLACES: Final = ("url", "objects")
_WHOLE: Final = ("outside", "autoscale", "grafana", "cluster")
"""`grafana` and `cluster` are read by commands alone."""


@dataclass(frozen=True)
class Reloaded:
    """What came of a reload: the settings by name that are in force now, and those that need a
    restart; or the `error` for which nothing was changed."""

    id: str
    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    error: str = ""


def in_force(old: Settings, wanted: Settings) -> Settings:
    """PURE: `old` with what of `wanted` a running stack can take up."""
    return old.model_copy(
        update={
            "gateway": _kept(old.gateway, wanted.gateway, _ADDRESSES),
            "batches": _kept(old.batches, wanted.batches, _PLACES),
            **{name: getattr(wanted, name) for name in _WHOLE},
        }
    )


def differences(one: Settings, other: Settings) -> tuple[str, ...]:
    """PURE: the names of the settings in which they differ, as `gateway.cache_bytes`; of lists the
    name of the whole."""
    return tuple(_different(one, other, ""))


def taken_up(
    read: Callable[[], Settings], now: Settings, apply: Callable[[Settings], None]
) -> Reloaded:
    """Read the settings again and `apply` what can be taken up."""
    id = SystemIds().new("reload")
    try:
        wanted = read()
        then = in_force(now, wanted)
        apply(then)
    except MainspringError as error:
        return Reloaded(id, error=str(error))
    return Reloaded(id, differences(now, then), differences(then, wanted))


def write(home: Path, done: Reloaded) -> None:
    """For who asked."""
    part = home / f"{FILE}.part"
    part.write_text(json.dumps(asdict(done)), encoding="utf-8")
    part.replace(home / FILE)


def read(home: Path) -> Reloaded | None:
    """What came of the last reload."""
    try:
        found: dict[str, Any] = json.loads((home / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Reloaded(found["id"], tuple(found["live"]), tuple(found["restart"]), found["error"])


def ask(running: Running, home: Path, limit_s: float = LIMIT_S) -> Reloaded:
    """Have the running stack reload, and what came of it. Unavailable while it starts,
    DeadlineExceeded when it does not answer."""
    if not running.url:
        raise Unavailable("Mainspring", "the stack is still starting; try again soon")
    before = read(home)
    os.kill(running.pid, SIGNAL)
    deadline = time.monotonic() + limit_s
    while (found := read(home)) is None or found == before:
        if time.monotonic() > deadline:
            raise DeadlineExceeded("the stack's reload", limit_s)
        time.sleep(_POLL_S)
    return found


def _kept(old: Any, wanted: Any, names: tuple[str, ...]) -> Any:
    return wanted.model_copy(update={name: getattr(old, name) for name in names})


def _different(one: BaseModel, other: BaseModel, above: str) -> Iterator[str]:
    for name in type(one).model_fields:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, BaseModel) and isinstance(b, type(a)):
            yield from _different(a, b, f"{above}{name}.")
        elif a != b:
            yield f"{above}{name}"
