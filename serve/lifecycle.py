"""From a command to a running stack and back: claim, environment, start, orderly stop."""

import asyncio
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from cluster.environment import STACK_VARIABLE, prepare
from cluster.errors import Unavailable
from cluster.ids import SystemIds
from cluster.settings import Settings
from serve import reloading
from serve.haproxy import environment
from serve.running import Claim, Running, require_free_ports

if TYPE_CHECKING:
    from serve.app import Stack

_LOOK_S: Final = 0.5


@contextmanager
def running_stack(
    settings: Settings,
    home: Path,
    heads: Callable[[], dict[str, Path]],
    progress: Callable[[str], None],
) -> Iterator["Stack"]:
    """A ready stack for the length of the block; afterwards nothing of it is left running.

    `home` is the folder that one stack at a time may hold, with the promoted checkpoints; `heads`
    prepares the intent heads once it is held. Raises Conflict when a stack holds it already,
    ConfigError when a port is taken. SIGTERM ends the block like Ctrl-C does.
    """
    began = time.monotonic()
    claim = Claim(home)
    stack_id = SystemIds().new("stack")
    prepare(home, stack_id, environment(settings.gateway, home.resolve() / "haproxy"))
    # Only now: these import Ray, which reads the environment once.
    from cluster import session
    from serve import app

    previous = signal.signal(signal.SIGTERM, _as_interrupt)
    # A shell that starts us in the background has SIGINT ignored; here it must always stop us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if claim.left_behind is not None:
            progress("ending what a killed stack left behind")
            session.sweep(claim.left_behind.stack, grace_s=0.0)
        require_free_ports(settings)
        claim.write(Running(os.getpid(), stack_id))
        stack = app.up(settings, home, heads(), progress)
        ready = time.monotonic()
        asyncio.run(app.until_ready(stack, progress))
        stack.phases["first token"] = round(time.monotonic() - ready, 2)
        stack.phases["total"] = round(time.monotonic() - began, 2)
        assert stack.session is not None
        where, logs = stack.session.gcs_address, str(stack.session.logs)
        claim.write(Running(os.getpid(), stack_id, stack.url, where, dict(stack.phases), logs))
        yield stack
    finally:
        _ignore_interrupts()
        progress("stopping")
        app.down()
        session.sweep(stack_id)
        os.environ.pop(STACK_VARIABLE, None)
        claim.release()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def joined(running: Running, home: Path) -> Iterator[Callable[[str], Any]]:
    """The actors, by name, of the stack that runs on `home`. Unavailable when it is starting or
    can't be reached. Ray must not be imported yet: it reads its token's place once."""
    if not running.gcs_address:
        raise Unavailable("Mainspring", f"the stack on {home} is still starting; try again soon")
    prepare(home, None, {})
    import ray

    from cluster import session

    session.join(running.gcs_address)
    try:
        yield session.actor
    finally:
        ray.shutdown()


def serve_on(
    stack: "Stack", home: Path, read: Callable[[], Settings], progress: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C or SIGTERM; take up what `read` gives whenever `mainspring reload` asks
    for it."""
    from serve import app

    def reload() -> None:
        done = reloading.taken_up(read, stack.settings, functools.partial(app.apply, stack))
        reloading.write(home, done)
        progress(f"reload: {done.error or ', '.join(done.live) or 'the policy'}")

    wait_for_interrupt(reload)


def wait_for_interrupt(reload: Callable[[], None]) -> None:
    """Sleep until Ctrl-C or SIGTERM, and `reload` on reloading.SIGNAL."""
    asked: list[int] = []
    previous = signal.signal(reloading.SIGNAL, lambda number, _: asked.append(number))
    try:
        while True:
            time.sleep(_LOOK_S)
            if asked:
                asked.clear()
                reload()
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(reloading.SIGNAL, previous)


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_interrupts() -> None:
    # A second Ctrl-C must not leave half of the stack running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
