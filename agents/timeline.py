"""PURE: a run as people look at it: what happened when, how long it took, and what it cost.

Every event of the journal is told by one entry; an effect's decision, start and end are one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agents import events as e
from agents.events import Event

Kind = Literal["run", "wait", "phase", "effect", "retry", "person"]

_ANSWERS = {
    "allow": "approved", "modify": "approved for less", "deny": "denied",
    "ask": "a person is asked", "wait": "waits for its rate",
}  # fmt: skip
_TOKENS = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Entry:
    """A line of a timeline. `at` counts in seconds from the run's first event, and `seconds` is how
    long it lasted; `state` says where it stands, and `note` why; `usd` is what models cost."""

    kind: Kind
    name: str
    at: float
    seconds: float = 0.0
    state: str = "done"
    note: str = ""
    usd: float = 0.0


def timeline(events: Sequence[Event]) -> list[Entry]:
    """The entries of a run in the order in which they began; none without events."""
    told = _Telling(events[0].at if events else 0.0)
    for event in events:
        told.tell(event)
    return sorted(told.entries, key=lambda entry: entry.at)


class _Telling:
    def __init__(self, began: float) -> None:
        self.entries: list[Entry] = []
        self._began = began
        self._last = 0.0
        self._effects: dict[str, int] = {}
        self._waits: dict[str, tuple[int, e.WaitBegun | e.WaitEnded]] = {}

    def tell(self, event: Event) -> None:
        # A clock that was set back makes no time negative.
        at = max(event.at - self._began, self._last)
        match event.payload:
            case e.RunStarted(workflow=workflow, agent=agent):
                self._add("run", "accepted", at, note=f"{workflow} for {agent}")
            case e.RunClaimed(epoch=epoch, reason=reason):
                again: Kind = "retry" if epoch > 1 else "wait"
                self._add(again, f"taken up, epoch {epoch}", self._last, at, note=reason)
            case e.PhaseDone(phase=phase, result=result, seconds=seconds):
                self._add("phase", phase, max(0.0, at - seconds), at, **_asked(result))
            case e.TurnFailed(code=code, reason=reason):
                self._add("retry", "turn broken off", at, state=code, note=reason)
            case e.RunEnded(decision=decision, reason=reason):
                self._add("run", "ended", at, state=decision, note=reason)
            case e.WaitBegun() | e.WaitEnded() as payload:
                self._wait(payload, at)
            case e.ApprovalAsked() | e.ApprovalReminded() | e.ApprovalAnswered() as payload:
                self._approval(payload, at)
            case e.SignalSent() | e.RunPaused() | e.RunResumed() | e.CancelAsked() as payload:
                self._person(payload, at)
            case payload:
                self._effect(payload, at)
        self._last = at

    def _wait(self, payload: e.WaitBegun | e.WaitEnded, at: float) -> None:
        place, begun = self._waits.get(payload.step, (len(self.entries), payload))
        if isinstance(payload, e.WaitBegun):
            if payload.step not in self._waits:  # else it goes on after a pause
                self._waits[payload.step] = (place, payload)
                on = {"signal": f"signal {payload.signal}", "runs": f"{len(payload.runs)} runs"}
                note = f"for {on.get(payload.awaited, 'its time')}"
                self._add("wait", payload.step, at, state="waits", note=note)
        elif isinstance(begun, e.WaitBegun):  # else another run had this wait
            came = payload.value is not None or begun.awaited == "timer"
            entry = self.entries[place]
            self.entries[place] = replace(
                entry, seconds=at - entry.at, state="done" if came else "too late"
            )

    def _person(self, payload: Any, at: float) -> None:
        match payload:
            case e.SignalSent(name=name, by=by):
                self._add("person", f"signal {name}", at, state="sent", note=f"by {by}")
            case e.RunPaused(by=by, reason=reason):
                self._add("person", "paused", at, state="paused", note=f"by {by}: {reason}")
            case e.RunResumed(by=by):
                self._add("person", "resumed", at, note=f"by {by}")
            case e.CancelAsked(by=by, reason=reason, decision=decision):
                self._add("person", f"to end as {decision}", at, note=f"by {by}: {reason}")

    def _approval(
        self, payload: e.ApprovalAsked | e.ApprovalReminded | e.ApprovalAnswered, at: float
    ) -> None:
        match payload:
            case e.ApprovalAsked(step=step, to=to, reason=reason):
                self._add(
                    "person", f"asked about {step}", at, state="asked", note=f"{to}: {reason}"
                )
            case e.ApprovalReminded(step=step, to=to, number=number):
                self._add("person", f"reminder {number} about {step}", at, note=to)
            case e.ApprovalAnswered(step=step, by=by, note=note):
                said = "approved" if payload.approved else "denied"
                most = payload.at_most
                limit = "" if most is None else f", at most {most / 100:.2f}"
                told = f"by {by}{limit}" + (f": {note}" if note else "")
                self._add("person", f"answer about {step}", at, state=said, note=told)

    def _effect(self, payload: Any, at: float) -> None:
        match payload:
            case e.StepDecided():
                self._decided(payload, at)
            case e.EffectStarted(step=step):
                self._to(step, at, "started")
            case e.EffectDone(step=step):
                self._to(step, at, "done")
            case e.EffectFailed(step=step, code=code, reason=reason):
                self._to(step, at, "failed", f"{code}: {reason}")
            case e.EffectParked(step=step, reason=reason):
                self._to(step, at, "parked", reason)
            case e.EffectResolved(step=step, done=done, by=by):
                state = "done" if done else "started"
                self._to(step, at, state, f"{by} says that it was {'' if done else 'not '}done")

    def _add(self, kind: Kind, name: str, at: float, until: float = 0.0, **more: Any) -> None:
        self.entries.append(Entry(kind, name, at, max(0.0, until - at), **more))

    def _decided(self, decided: e.StepDecided, at: float) -> None:
        state = _ANSWERS[decided.answer]
        note = f"{decided.rule}: {decided.reason}" if decided.reason else decided.rule
        self._effects[decided.step] = len(self.entries)
        name = f"{decided.step} {decided.tool}" if decided.step != decided.tool else decided.tool
        self._add("effect", name, at, state=state, note=note)

    def _to(self, step: str, at: float, state: str, note: str = "") -> None:
        place = self._effects[step]
        entry = self.entries[place]
        seconds = at - entry.at
        self.entries[place] = replace(entry, seconds=seconds, state=state, note=note or entry.note)


def _asked(result: dict[str, Any]) -> dict[str, Any]:
    """Which models a phase asked, and at what cost."""
    usage = [u for u in result.get("usage", ()) if isinstance(u, dict)]
    if not usage:
        return {}
    models = ", ".join(dict.fromkeys(str(u.get("model", "?")) for u in usage))
    read, written = (sum(int(u.get(k, 0)) for u in usage) for k in _TOKENS)
    usd = sum(float(u.get("cost_usd", 0.0)) for u in usage)
    return {"note": f"{models}, {read} tokens read, {written} written", "usd": usd}
