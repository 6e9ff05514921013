"""Which engine replicas are alive, and how busy: leases that an engine renews and a gateway reads.

The plain class holds the rule; `start_directory` puts it behind a named Ray actor. The actor keeps
nothing on disk: after its restart an engine's next renewal is refused, and the engine registers
again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cluster.ids import Clock, SystemClock

NAMESPACE: Final = "mainspring"
LEASE_S: Final = 8.0
RENEW_S: Final = 2.0
LOOK_S: Final = 0.25  # what an engine tells is so fresh
NOTICED_S: Final = 1.0  # by then a gateway that is well has seen who left


@dataclass(frozen=True)
class Replica:
    """One engine process of a Serve application that answers HTTP at `url`. `running` and
    `waiting` are requests, `kv_usage` is the share of its KV cache in use."""

    id: str
    model: str
    url: str
    running: int = 0
    waiting: int = 0
    application: str = ""
    kv_usage: float = 0.0

    @property
    def load(self) -> int:
        return self.running + self.waiting


@dataclass(frozen=True)
class Online:
    """Requests that somebody waits for: the time to the first token of nearly all of them of late
    (the 95th percentile), seconds, how many are in work, and how long ago the last came, seconds.
    While the stack is `draining` nothing new is begun."""

    ttft_s: float = 0.0
    in_work: int = 0
    ago_s: float = float("inf")
    draining: bool = False

    def __add__(self, other: "Online") -> "Online":
        """Those of two gateways: what is worse for who waits."""
        return Online(
            max(self.ttft_s, other.ttft_s),
            self.in_work + other.in_work,
            min(self.ago_s, other.ago_s),
            self.draining or other.draining,
        )


@dataclass(frozen=True)
class Seen:
    """What a gateway is told: the live replicas, and whether the stack is draining."""

    replicas: list[Replica]
    draining: bool = False


@dataclass(frozen=True)
class Demand:
    """What is asked of one model: requests that wait for its engine to start, how long ago the last
    one came, and what first tokens take of late (0: unknown), seconds."""

    waiting: int = 0
    ago_s: float = float("inf")
    ttft_s: float = 0.0

    def __add__(self, other: "Demand") -> "Demand":
        """That of two gateways."""
        return Demand(
            self.waiting + other.waiting,
            min(self.ago_s, other.ago_s),
            max(self.ttft_s, other.ttft_s),
        )


class Directory:
    """Leases of `lease_s` seconds; who does not renew in time is no longer listed."""

    def __init__(self, clock: Clock, lease_s: float = LEASE_S) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._entries: dict[str, tuple[float, Replica]] = {}
        self._online: dict[str, tuple[float, Online]] = {}
        self._demands: dict[str, tuple[float, Mapping[str, Demand]]] = {}
        self._draining = False

    def drain(self, on: bool) -> None:
        """Let nothing new be begun, or take that back. A restart of the directory takes it back,
        too."""
        self._draining = on

    def register(self, replica: Replica) -> None:
        """Enter a replica, or replace its entry; starts a lease."""
        self._entries[replica.id] = (self._clock.monotonic() + self._lease_s, replica)

    def renew(self, replica: Replica) -> bool:
        """Extend a lease, with what the replica tells now. False when there is none: then register
        again."""
        self._drop_expired()
        if replica.id not in self._entries:
            return False
        self.register(replica)
        return True

    def withdraw(self, id: str) -> None:
        """Take a replica out at once; unknown ids are fine."""
        self._entries.pop(id, None)

    def snapshot(self) -> list[Replica]:
        """The replicas whose lease runs, ordered by id."""
        self._drop_expired()
        return [replica for _, (_, replica) in sorted(self._entries.items())]

    def report(
        self, gateway: str, online: Online, demands: Mapping[str, Demand] | None = None
    ) -> Seen:
        """What a gateway sees of its clients, and of each model's; what it is to see."""
        until = self._clock.monotonic() + self._lease_s
        self._online[gateway] = (until, online)
        self._demands[gateway] = (until, demands or {})
        return Seen(self.snapshot(), self._draining)

    def demands(self) -> dict[str, Demand]:
        """What all gateways see asked of each model."""
        now = self._clock.monotonic()
        self._demands = {g: told for g, told in self._demands.items() if told[0] > now}
        total: dict[str, Demand] = {}
        for _, demands in self._demands.values():
            for model, demand in demands.items():
                total[model] = total.get(model, Demand()) + demand
        return total

    def online(self) -> Online:
        """What all gateways see of their clients."""
        now = self._clock.monotonic()
        self._online = {g: told for g, told in self._online.items() if told[0] > now}
        return sum((o for _, o in self._online.values()), Online(draining=self._draining))

    def _drop_expired(self) -> None:
        now = self._clock.monotonic()
        self._entries = {i: e for i, e in self._entries.items() if e[0] > now}


def start_directory(name: str, *, lease_s: float = LEASE_S) -> Any:
    """The directory as a named actor that restarts by itself; an existing one is reused."""
    import ray

    options = {"num_cpus": 0, "max_restarts": -1, "lifetime": "detached", "get_if_exists": True}
    actor = ray.remote(Directory).options(name=name, namespace=NAMESPACE, **options)
    return actor.remote(SystemClock(), lease_s)


def find_directory(name: str) -> Any:
    """The handle of the named actor. Raises ValueError when it has not been started."""
    import ray

    return ray.get_actor(name, namespace=NAMESPACE)
