"""Which engine replicas are worth a request: a circuit breaker for each.

Some failures in a row open a circuit: nobody is sent there for a while. Then one request may try;
when an answer begins, all may again, and one more failure opens it for twice as long.
"""

from dataclasses import dataclass
from typing import Final

from cluster.ids import Clock

FAILURES: Final = 3
FIRST_S: Final = 1.0
MOST_S: Final = 30.0
_REMEMBERED: Final = 1_024


@dataclass
class _Circuit:
    failures: int = 0
    times: int = 0
    until: float = float("-inf")
    trying: bool = False


class Circuits:
    """One a gateway process; a replica that never failed is not in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def may(self, replica: str) -> bool:
        """Whether a request may be sent there now."""
        circuit = self._circuits.get(replica)
        if circuit is None or circuit.times == 0:
            return True
        return self._clock.monotonic() >= circuit.until and not circuit.trying

    def begin(self, replica: str) -> None:
        """A request is on its way there; one of the three below says how it went."""
        if (circuit := self._circuits.get(replica)) is not None and circuit.times:
            circuit.trying = True

    def answering(self, replica: str) -> None:
        """An answer has begun: others may be sent there too, but it has yet to come to an end."""
        if (circuit := self._circuits.get(replica)) is not None:
            circuit.trying, circuit.until = False, float("-inf")

    def succeeded(self, replica: str) -> None:
        """The replica did what it was asked, or refused with a reason."""
        self._circuits.pop(replica, None)

    def undecided(self, replica: str) -> None:
        """The request ended for a reason that says nothing of the replica."""
        if (circuit := self._circuits.get(replica)) is not None:
            circuit.trying = False

    def failed(self, replica: str) -> bool:
        """The replica did not answer, or broke off. Whether that opened its circuit."""
        if len(self._circuits) >= _REMEMBERED:
            self._circuits.clear()  # replicas come and go; an open circuit is soon open again
        circuit = self._circuits.setdefault(replica, _Circuit())
        circuit.failures += 1
        circuit.trying = False
        now = self._clock.monotonic()
        if circuit.failures < FAILURES or now < circuit.until:
            return False
        circuit.until = now + min(MOST_S, FIRST_S * 2**circuit.times)
        circuit.times += 1
        return True
