"""What is under way from this gateway, how long it takes of late, and what that leaves room for.

Requests wait in the engine, which knows best who is next; here is the door to its queue. Work that
nobody waits for may fill a part of that queue, so that others find a place.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.errors import Overloaded
from cluster.ids import Clock
from cluster.settings import ModelSection
from serve.calls import Answer, Call
from serve.directory import Online, Replica
from serve.routing import Load

WEIGHT: Final = 0.1
"""Of the newest answer in what answers take of late."""
FRESH_S: Final = 10.0
"""What answers took longer ago says nothing of the next one."""
BATCH_SHARE: Final = 0.75
MOST_RETRY_S: Final = 30.0
PAUSED_FROM: Final = 6
PAUSE_S: Final = 0.00125
LONGEST_PAUSE_S: Final = 0.04
_OF_LATE_S: Final = 1.5
_MOST_FIRST: Final = 512


@dataclass
class Pace:
    """What a model's answers take of late, seconds from sending: streams to the first byte, all to
    the last one, and the quickest of them. Zero while nothing is known. `at` is when one last
    ended."""

    first_s: float = 0.0
    service_s: float = 0.0
    least_s: float = 0.0
    at: float = float("-inf")

    def note(self, first_s: float | None, service_s: float, now: float) -> None:
        if now - self.at >= FRESH_S:
            self.first_s = self.service_s = self.least_s = 0.0
        if first_s is not None:
            self.first_s = _mixed(self.first_s, first_s)
        self.service_s = _mixed(self.service_s, service_s)
        slower = (1 + WEIGHT) * self.least_s
        self.least_s = min(service_s, slower) if slower else service_s
        self.at = now


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

    def pause_s(self) -> float:
        """How long tokens of a stream wait for more of them, seconds. Among many streams, each
        passed on by itself costs more than the engine's work on it."""
        streams = self._by_model.total()
        return min(LONGEST_PAUSE_S, streams * PAUSE_S) if streams >= PAUSED_FROM else 0.0

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
        """Learn from a whole answer how long they take; one without tokens says nothing of that."""
        if not answer.usage.completion_tokens:
            return
        pace = self._pace.setdefault(answer.model.id, Pace())
        first = answer.first_byte - answer.sent if answer.call.stream else None
        pace.note(first, answer.engine_s, self._clock.monotonic())

    def load(self, model: ModelSection, replicas: Sequence[Replica]) -> Load:
        """The model, given its replicas that may be chosen."""
        room = len(replicas) * (model.max_ongoing_requests + model.max_queued_requests)
        pace = self._fresh_pace(model.id)
        return Load(
            replicas=len(replicas),
            in_work=self._by_model[model.id],
            capacity=-(-room // self._gateways),
            running=sum(r.running for r in replicas),
            waiting=sum(r.waiting for r in replicas),
            kv_usage=max((r.kv_usage for r in replicas), default=0.0),
            ttft_s=pace.first_s,
            service_s=pace.service_s,
            wakes=model.replicas.min == 0,
        )

    def require_room(self, model: ModelSection, replicas: Sequence[Replica], call: Call) -> None:
        """Raises Overloaded, with when to come again, for a request that finds no place at the
        model, or whose answer would come, or begin, too late."""
        what, load = f"model {model.id}", self.load(model, replicas)
        slots = max(1, len(replicas) * model.max_num_seqs // self._gateways)
        turn = load.service_s / slots
        again = min(MOST_RETRY_S, max(1.0, load.in_work * turn))
        if load.full:
            raise Overloaded(what, "its queue is full", again)
        if call.batch and self._batch[model.id] >= max(1, int(load.capacity * BATCH_SHARE)):
            raise Overloaded(what, "its share for batch work is full", again)
        # The engine takes batch work last, so nobody else waits for it.
        before = load.in_work - (0 if call.batch else self._batch[model.id])
        begins = load.ttft_s if call.stream else self._fresh_pace(model.id).least_s
        first = begins + max(0, before - slots + 1) * turn
        left = call.deadline - self._clock.monotonic()
        if 0.0 < left < first:
            late = f"no answer before {first:.1f} s, and the deadline leaves {left:.1f} s"
            raise Overloaded(what, late, again)

    def _fresh_pace(self, model: str) -> Pace:
        pace = self._pace.get(model, Pace())
        return pace if self._clock.monotonic() - pace.at < FRESH_S else Pace()


def _mixed(before: float, now: float) -> float:
    return before + WEIGHT * (now - before) if before else now
