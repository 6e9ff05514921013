"""A run's hash chain: what is added to its end, and whether it is whole. PURE."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.events import (
    CancelAsked,
    EffectParked,
    EffectResolved,
    Event,
    RunEnded,
    RunPaused,
    RunResumed,
    WaitBegun,
    WaitEnded,
    parse,
)
from agents.journal import MAX_PAYLOAD
from cluster.errors import DataError, InvalidInput

_GENESIS: Final = "0" * 64
# What a run's status is after an event; the others leave it as it is.
_STATUS: Final = {
    WaitBegun: "waiting", WaitEnded: "open", EffectParked: "parked",
    EffectResolved: "open", RunPaused: "paused", RunResumed: "open", CancelAsked: "open",
    RunEnded: "ended",
}  # fmt: skip

Line = tuple[Event, str]
"""An event with the text of its payload, which is what the hash is over."""


@dataclass(frozen=True)
class Head:
    """The end of a run's chain."""

    status: str
    epoch: int
    seq: int
    hash: str
    wait_until: float | None


START: Final = Head("open", 0, 0, _GENESIS, None)


def lines(run_id: str, head: Head, epoch: int, at: float, payloads: Sequence[Any]) -> list[Line]:
    """The events that these payloads become behind `head`. InvalidInput for one that is too large
    to be one."""
    made: list[Line] = []
    last = head.hash
    for seq, payload in enumerate(payloads, start=head.seq + 1):
        data = _text(payload)
        last = _hash(last, run_id, seq, epoch, at, data)
        # Read back what is written, so that a live state is what a recovered one will be.
        event = Event(run_id=run_id, seq=seq, epoch=epoch, at=at, hash=last, payload=parse(data))
        made.append((event, data))
    return made


def moved(head: Head, epoch: int, events: Sequence[Event]) -> Head:
    """The head once these events stand behind it."""
    status, until = head.status, head.wait_until
    for event in events:
        payload = event.payload
        status = _STATUS.get(type(payload), status)
        until = payload.until if isinstance(payload, WaitBegun) else until
        until = until if status == "waiting" else None
    seq, digest = (events[-1].seq, events[-1].hash) if events else (head.seq, head.hash)
    return Head(status, epoch, seq, digest, until)


def whole(run_id: str, head: Head, rows: Sequence[Any]) -> list[Event]:
    """The events of all rows (seq, epoch, at, payload, hash); DataError at the first broken
    link."""
    previous = _GENESIS
    for expected, (seq, epoch, at, payload, digest) in enumerate(rows, start=1):
        if seq != expected or _hash(previous, run_id, seq, epoch, at, payload) != digest:
            raise DataError(f"run {run_id}", f"event {expected} was changed or removed")
        previous = digest
    if len(rows) != head.seq or previous != head.hash:
        raise DataError(f"run {run_id}", f"events after {len(rows)} were removed")
    return [event(run_id, row) for row in rows]


def event(run_id: str, row: Any) -> Event:
    """The event of a row (seq, epoch, at, payload, hash)."""
    seq, epoch, at, payload, digest = row
    return Event(run_id=run_id, seq=seq, epoch=epoch, at=at, hash=digest, payload=parse(payload))


def _text(payload: Any) -> str:
    data: str = payload.model_dump_json()
    if len(data) > MAX_PAYLOAD:
        what = getattr(payload, "step", "") or getattr(payload, "phase", payload.kind)
        raise InvalidInput(
            f"result of {what}", f"{len(data)} bytes of JSON",
            f"at most {MAX_PAYLOAD}; keep it in a file and journal where it is",
        )  # fmt: skip
    return data


def _hash(previous: str, run_id: str, seq: int, epoch: int, at: float, payload: str) -> str:
    material = json.dumps([previous, run_id, seq, epoch, repr(at), payload])
    return hashlib.sha256(material.encode()).hexdigest()
