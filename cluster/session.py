"""Ray: join or start it, find named actors, stop exactly what was started.

`cluster.environment.prepare` comes first, before this module is imported.
"""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import ray
from ray.exceptions import RayTaskError

from cluster.environment import STACK_VARIABLE
from cluster.errors import DeadlineExceeded, MainspringError, Unavailable
from cluster.settings import RaySection

NAMESPACE: Final = "mainspring"


@dataclass(frozen=True)
class Session:
    """Where Ray's GCS listens, and the folder in which this machine's processes write logs."""

    gcs_address: str
    logs: Path


def start(section: RaySection) -> Session:
    """Start Ray on this machine, or join the one that `section.address` names.

    Raises Unavailable when Ray can't be started or reached.
    """
    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    if section.address:
        options["address"] = section.address
    else:
        options |= {
            # Without it Ray would join a cluster that somebody else runs on this machine.
            "address": "local",
            "num_cpus": section.num_cpus,
            "include_dashboard": section.dashboard,
            "object_store_memory": section.object_store_mb * 1024 * 1024,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        context = ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise Unavailable("Ray", str(error)) from error
    logs = Path(context.address_info["session_dir"]) / "logs"
    return Session(str(ray.get_runtime_context().gcs_address), logs)


def join(address: str) -> None:
    """Join the running stack whose GCS listens at `address`."""
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise Unavailable("Ray", f"{address}: {error}") from error


def actor(name: str) -> Any:
    """The handle of a named actor; Unavailable when there is none (yet)."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise Unavailable(f"actor {name}", "it is not running", retry_after=1.0) from None


def end_actor(name: str, limit_s: float = 30.0) -> None:
    """End a named actor for good, and return when its name is free; quietly when there is none.
    DeadlineExceeded when that takes longer."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the end of actor {name}", limit_s)
        time.sleep(0.1)


def own(error: Exception) -> Exception:
    """Our error as it was raised in another actor, or `error` itself: Ray wraps it in one whose
    text is a stack trace."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, MainspringError):
        return error.cause
    return error


def marked(stack: str) -> list[psutil.Process]:
    """The processes of `stack`, without this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(STACK_VARIABLE) == stack:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def sweep(stack: str, grace_s: float = 5.0) -> int:
    """End every process of `stack` but this one; how many did not end by themselves.

    HAProxy outlives its Serve, and Ray's own processes a killed driver for a while: what is left
    after `grace_s` seconds gets TERM, what is left after that gets KILL.
    """
    deadline = time.monotonic() + grace_s
    left = marked(stack)
    while left and time.monotonic() < deadline:
        _, left = psutil.wait_procs(left, timeout=0.5)
    ended = len(left)
    for signal in ("terminate", "kill"):
        for process in left:
            try:
                getattr(process, signal)()
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=3.0)
    return ended
