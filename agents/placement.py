"""Where an agent is worked: any number of agents over a bounded set of host actors.

An agent's place follows from its name alone (rendezvous hashing: the host with the highest hash of
host and agent), so every owner finds it without a table, and when a host is lost only its own
agents move, each to its next best. An isolated agent has an actor of its own.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import ray

from cluster.errors import Unavailable
from cluster.ids import Clock
from cluster.session import actor

# A lost host is passed over for so long; Ray starts it anew meanwhile.
LOST_FOR_S: Final = 10.0

Spawn = Callable[[str], Any]
"""Starts a host actor of this name, or finds it."""


class Placement:
    """Finds hosts. `spawn` makes the actors of isolated agents."""

    def __init__(self, hosts: Sequence[str], spawn: Spawn, clock: Clock) -> None:
        self._hosts = tuple(hosts)
        self._spawn = spawn
        self._clock = clock
        self._lost: dict[str, float] = {}
        self._handles: dict[str, Any] = {}
        self._used: dict[str, float] = {}

    def place(self, tenant: str, agent: str, isolated: bool = False) -> str:
        """The name of the host that works this agent now."""
        if isolated:
            return own_host(tenant, agent)
        now = self._clock.monotonic()
        ranked = sorted(self._hosts, key=lambda host: _weight(host, tenant, agent), reverse=True)
        here = [h for h in ranked if now - self._lost.get(h, float("-inf")) >= LOST_FOR_S]
        return (here or ranked)[0]

    def handle(self, host: str) -> Any:
        """A host's handle. Unavailable when it is not running."""
        self._used[host] = self._clock.monotonic()
        # A restarted actor keeps its handle; asking Ray for it each time would block the loop.
        if host not in self._handles:
            self._handles[host] = actor(host) if host in self._hosts else self._spawn(host)
        return self._handles[host]

    def lost(self, host: str) -> None:
        """Its process died: place its agents elsewhere for a while."""
        self._lost[host] = self._clock.monotonic()
        if host not in self._hosts:
            self._handles.pop(host, None)

    def retire(self, idle_s: float) -> list[str]:
        """End the actors of isolated agents that had no turn for `idle_s` seconds; their names."""
        since = self._clock.monotonic() - idle_s
        idle = [h for h in self._handles if h not in self._hosts and self._used[h] < since]
        for host in idle:
            ray.kill(self._handles.pop(host))
        return idle


def own_host(tenant: str, agent: str) -> str:
    """The name of an isolated agent's actor."""
    return f"agent-{hashlib.sha256(f'{tenant}/{agent}'.encode()).hexdigest()[:16]}"


def no_spawn(host: str) -> Any:
    """For owners without isolated agents."""
    raise Unavailable(f"actor {host}", "isolated agents can't be started here")


def _weight(host: str, tenant: str, agent: str) -> bytes:
    return hashlib.blake2b(f"{host}/{tenant}/{agent}".encode(), digest_size=8).digest()
