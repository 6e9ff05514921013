"""What is under way from this gateway, how long it takes of late, and what that leaves room for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.settings import ModelSection
from serve.calls import Answer, Call
from serve.directory import Replica
from serve.routing import Load

WEIGHT: Final = 0.1
"""Of the newest answer in what answers take of late."""


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

    def __init__(self, gateways: int) -> None:
        self._gateways = gateways
        self._by_model: Counter[str] = Counter()
        self._batch: Counter[str] = Counter()
        self._by_replica: Counter[str] = Counter()
        self._pace: dict[str, Pace] = {}

    def in_work(self, model: str) -> int:
        return self._by_model[model]

    def at(self, replica: Replica) -> int:
        """Requests at a replica: those from here now, or those that it told of, if more."""
        return max(self._by_replica[replica.id], replica.load)

    def enter(self, replica: Replica, call: Call) -> None:
        """A request is on its way."""
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
