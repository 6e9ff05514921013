"""What is under way from this gateway, how long it takes of late, and what that leaves room for."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.ids import Clock
from cluster.settings import ModelSection
from serve.calls import Answer, Call
from serve.directory import Online, Replica
from serve.routing import Load

WEIGHT: Final = 0.1
"""Of the newest answer in what answers take of late."""

_OF_LATE_S: Final = 5.0
_MOST_FIRST: Final = 512


@dataclass
class Pace:
    """What a model's answers take of late, seconds: to the first byte and to the last one, from
    sending. Zero before the first answer."""

    first_s: float = 0.0
    service_s: float = 0.0

    def note(self, first_s: float, service_s: float) -> None:
        self.first_s = _mixed(self.first_s, first_s)
        self.service_s = _mixed(self.service_s, service_s)


class Traffic:
    """One a gateway process, of `gateways` that share the engines' room."""

    def __init__(self, gateways: int, clock: Clock) -> None:
        self._gateways, self._clock = gateways, clock
        self._first: deque[tuple[float, float]] = deque(maxlen=_MOST_FIRST)
        self._came = float("-inf")
        self._by_model: Counter[str] = Counter()
        self._batch: Counter[str] = Counter()
        self._by_replica: Counter[str] = Counter()
        self._pace: dict[str, Pace] = {}

    def in_work(self, model: str) -> int:
        return self._by_model[model]

    def at(self, replica: Replica) -> int:
        """Requests at a replica: those from here now, or those that it told of, if more."""
        return max(self._by_replica[replica.id], replica.load)

    def online(self) -> Online:
        """What is under way that somebody waits for, and how long first tokens took of late."""
        now = self._clock.monotonic()
        of_late = sorted(first for at, first in self._first if now - at < _OF_LATE_S)
        ttft = of_late[int(0.95 * (len(of_late) - 1))] if of_late else 0.0
        waiting = self._by_model.total() - self._batch.total()
        return Online(ttft, waiting, now - self._came)

    def first_byte(self, answer: Answer) -> None:
        """The first token of a stream, or the whole of another answer, has come."""
        if answer.call.stream and not answer.call.batch:
            self._first.append((answer.first_byte, answer.first_byte - answer.call.arrived))

    def enter(self, replica: Replica, call: Call) -> None:
        """A request is on its way."""
        if not call.batch:
            self._came = self._clock.monotonic()
        self._by_model[replica.model] += 1
        self._batch[replica.model] += call.batch
        self._by_replica[replica.id] += 1

    def leave(self, replica: Replica, call: Call) -> None:
        """It is over, or never arrived."""
        self._by_model[replica.model] -= 1
        self._batch[replica.model] -= call.batch
        self._by_replica[replica.id] -= 1
        if not self._by_replica[replica.id]:
            del self._by_replica[replica.id]

    def answered(self, answer: Answer) -> None:
        """Learn from a whole answer how long they take."""
        pace = self._pace.setdefault(answer.model.id, Pace())
        pace.note(answer.first_byte - answer.sent, answer.engine_s)

    def load(self, model: ModelSection, replicas: Sequence[Replica]) -> Load:
        """The model, given its replicas that may be chosen."""
        room = len(replicas) * (model.max_ongoing_requests + model.max_queued_requests)
        pace = self._pace.get(model.id, Pace())
        return Load(
            replicas=len(replicas),
            in_work=self._by_model[model.id],
            capacity=-(-room // self._gateways),
            running=sum(r.running for r in replicas),
            waiting=sum(r.waiting for r in replicas),
            kv_usage=max((r.kv_usage for r in replicas), default=0.0),
            ttft_s=pace.first_s,
            service_s=pace.service_s,
        )


def _mixed(before: float, now: float) -> float:
    return now if before == 0.0 else before + WEIGHT * (now - before)
