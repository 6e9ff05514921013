"""PURE: has come what a run waits for?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.events import WaitBegun
from agents.state import RunState


@dataclass(frozen=True)
class Came:
    """The outcome of a wait; None when its time was up first, and for a timer."""

    value: Any = None


def came(run: RunState, now: float, others: Sequence[RunState] = ()) -> Came | None:
    """What `run`'s wait comes to at `now` (seconds since the epoch), or None while it goes on.
    `others` are the runs that it waits for, as far as they have ended."""
    wait = run.waiting
    if wait is None:
        return None
    if wait.awaited == "signal":
        sent = next((s for s in run.signals if s.name == wait.signal), None)
        if sent is not None:
            return Came({"value": sent.value, "by": sent.by})
    if wait.awaited == "approval":
        return _answered(run, wait, now)
    ended = {o.run_id: o for o in others if o.ended is not None}
    if wait.awaited == "runs" and len(ended) == len(wait.runs):
        return Came([_told(ended[run_id]) for run_id in wait.runs])
    if wait.until is not None and now >= wait.until:
        return Came()
    return None


def _answered(run: RunState, wait: WaitBegun, now: float) -> Came | None:
    for approval in run.approvals.values():
        if approval.asked.approval == wait.signal:
            if approval.answered is not None:
                return Came({"approved": approval.answered.approved, "by": approval.answered.by})
            return Came() if now >= approval.asked.expires_at else None
    return Came()


def _told(run: RunState) -> dict[str, Any]:
    assert run.ended is not None
    return {
        "run": run.run_id, "decision": run.ended.decision, "reason": run.ended.reason,
        "result": run.ended.result,
    }  # fmt: skip
