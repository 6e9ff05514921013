"""PURE: how many requests of batches may be in work at once, beside those that somebody waits for.

Additive increase, multiplicative decrease, as TCP holds its window (Jacobson 1988): what the online
requests' time to the first token says takes the place of a lost packet.
"""

from dataclasses import dataclass, replace
from typing import Final

from serve.directory import Online

STEP_S: Final = 0.5
QUIET_S: Final = 2.0
_UP_BESIDE: Final = 1.0
_UP_ALONE: Final = 8.0
_DOWN: Final = 0.5


NOBODY: Final = Online()


@dataclass(frozen=True)
class Pace:
    """`limit` requests may be in work at once; `why` it is what it is. `at` is when it was last
    changed, seconds."""

    limit: float
    at: float
    why: str = "start"

    @property
    def allowed(self) -> int:
        return int(self.limit)


def next_pace(
    pace: Pace, online: Online, refused: bool, target_s: float, ceiling: int, now: float
) -> Pace:
    """The pace from `now` on. `refused`: an engine's queue was full since. `target_s` is the time
    to the first token that online requests are promised; `ceiling` the most that may be in work.

    Changes are STEP_S apart: the effect of one has to be seen before the next."""
    if now - pace.at < STEP_S:
        return pace
    if refused:
        return _moved(pace, now, pace.limit * _DOWN, ceiling, "an engine's queue is full")
    if online.in_work == 0 and online.ago_s > QUIET_S:
        return _moved(pace, now, pace.limit + _UP_ALONE, ceiling, "nobody waits online")
    if online.ttft_s > target_s:
        why = f"online requests wait {online.ttft_s:.2f} s, more than {target_s:.2f}"
        return _moved(pace, now, pace.limit * _DOWN, ceiling, why)
    why = f"online requests wait {online.ttft_s:.2f} s, no more than {target_s:.2f}"
    return _moved(pace, now, pace.limit + _UP_BESIDE, ceiling, why)


def _moved(pace: Pace, now: float, limit: float, ceiling: int, why: str) -> Pace:
    return replace(pace, limit=min(max(limit, 1.0), float(ceiling)), at=now, why=why)
