"""PURE: how many requests of batches may be in work at once, beside those that somebody waits for.

Additive increase, multiplicative decrease, as TCP holds its window (Jacobson 1988): what the online
requests' time to the first token says takes the place of a lost packet.
"""

from dataclasses import dataclass, replace
from typing import Final

from serve.directory import Online

STEP_S: Final = 0.5
QUIET_S: Final = 2.0
SEEN_S: Final = 2.0
"""So long it takes until what gateways tell of late says nothing of the time before a change."""
_UP_BESIDE: Final = 1.0
_UP_ALONE: Final = 8.0
_DOWN: Final = 0.5


NOBODY: Final = Online()


@dataclass(frozen=True)
class Pace:
    """`limit` requests may be in work at once; `why` it is what it is. `at` is when that was last
    decided, `lowered` when it last became less, seconds."""

    limit: float
    at: float
    why: str = "start"
    lowered: float = float("-inf")

    @property
    def allowed(self) -> int:
        return int(self.limit)


def next_pace(
    pace: Pace, online: Online, refused: bool, target_s: float, ceiling: int, now: float
) -> Pace:
    """The pace from `now` on. `refused`: an engine's queue was full since. `target_s` is the time
    to the first token that online requests are promised; `ceiling` the most that may be in work.

    Decisions are STEP_S apart. Once it was lowered it is not lowered again before the effect of
    that can be seen, SEEN_S later."""
    if now - pace.at < STEP_S:
        return pace
    if online.draining:
        return Pace(0.0, now, "the stack is being drained", pace.lowered)
    slow = online.ttft_s > target_s
    quiet = online.in_work == 0 and online.ago_s > QUIET_S
    told = f"first tokens online take {online.ttft_s:.2f} s of {target_s:.2f}"
    if refused or (slow and not quiet):
        why = "an engine's queue is full" if refused else told
        if now - pace.lowered < SEEN_S:
            return replace(pace, at=now, why=why)
        return Pace(max(pace.limit * _DOWN, 1.0), now, why, now)
    more = _UP_ALONE if quiet else _UP_BESIDE
    why = "nobody waits online" if quiet else told
    return replace(pace, limit=min(pace.limit + more, float(ceiling)), at=now, why=why)
