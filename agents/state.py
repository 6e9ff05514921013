"""PURE: what events add up to. The same fold builds a live state and a recovered one."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, Final, Literal, TypeVar

from agents import taint
from agents.events import (
    ApprovalAnswered,
    ApprovalAsked,
    ApprovalReminded,
    CancelAsked,
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectStarted,
    Event,
    PhaseDone,
    RunClaimed,
    RunEnded,
    RunOptions,
    RunPaused,
    RunResumed,
    RunStarted,
    SignalSent,
    StepDecided,
    TurnFailed,
    WaitBegun,
    WaitEnded,
)
from agents.taint import PUBLIC, UNKNOWN, Label

T = TypeVar("T")
Status = Literal["open", "waiting", "parked", "paused", "ended"]


@dataclass(frozen=True)
class Approval:
    """A question to a person, and what became of it. It is `used` once a step rests on it."""

    asked: ApprovalAsked
    asked_at: float
    to: str
    reminders: int = 0
    answered: ApprovalAnswered | None = None
    answered_at: float | None = None
    used: bool = False

    @property
    def granted(self) -> bool:
        """Whether a step may still rest on it, until it expires."""
        return self.answered is not None and self.answered.approved and not self.used


@dataclass(frozen=True)
class RunState:
    """One run: what it was asked, which phases, effects and waits are done, how it ended.

    `waiting` is the wait under way, `waited` the outcomes of earlier ones by step; `signals` were
    sent and not yet taken; `approvals` are each step's last question to a person. `failures` counts
    its broken turns, `stuck` those since it last got on. `labels` are those of the receipts by
    step, `phase_labels` those of the phases, `label` is that of all that the run has read.
    `broken_at` is when a turn broke since which it has not got on, `recoveries` are the seconds
    that this took before."""

    run_id: str
    seq: int = 0
    epoch: int = 0
    workflow: str = ""
    agent: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    decisions: dict[str, StepDecided] = field(default_factory=dict)
    open_effects: dict[str, EffectStarted] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, EffectFailed] = field(default_factory=dict)
    parked: dict[str, EffectParked] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    options: RunOptions = field(default_factory=RunOptions)
    waiting: WaitBegun | None = None
    waited: dict[str, Any] = field(default_factory=dict)
    signals: tuple[SignalSent, ...] = ()
    paused: bool = False
    cancelled: CancelAsked | None = None
    failures: int = 0
    stuck: int = 0
    broken_at: float | None = None
    recoveries: tuple[float, ...] = ()
    started_at: float = 0.0
    claimed_at: float | None = None
    ended_at: float | None = None
    ended: RunEnded | None = None
    labels: dict[str, Label] = field(default_factory=dict)
    phase_labels: dict[str, Label] = field(default_factory=dict)
    label: Label = PUBLIC

    @property
    def tenant(self) -> str:
        """Whose run it is."""
        return str(self.input.get("tenant", ""))

    @property
    def subject(self) -> str:
        """What it is about, as connectors and policy name it: a ticket, a unit, a brief."""
        return str(self.input.get("ticket") or self.input.get("subject") or "")

    @property
    def status(self) -> Status:
        """Where it stands: `open` runs are queued or being worked on."""
        if self.ended is not None:
            return "ended"
        if self.paused:
            return "paused"
        if self.parked:
            return "parked"
        # A cancelled run waits for nothing any more.
        return "waiting" if self.waiting is not None and self.cancelled is None else "open"

    @property
    def wakes_at(self) -> float | None:
        """When time alone changes it: the end of its wait, or its deadline."""
        times = [self.options.deadline_at, self.waiting.until if self.waiting else None]
        return min((t for t in times if t is not None), default=None)


Changes = dict[str, Any]
"""Fields of a RunState and their new values."""


def apply(state: RunState, event: Event) -> RunState:
    """`state` after `event`. Unknown kinds can't occur: `events.parse` refuses them."""
    changes = _changes(state, event)
    if state.broken_at is not None and (changes.get("stuck") == 0 or "ended" in changes):
        took = max(0.0, event.at - state.broken_at)
        changes |= {"broken_at": None, "recoveries": (*state.recoveries, took)}
    return replace(state, seq=event.seq, **changes)


def _changes(state: RunState, event: Event) -> Changes:
    match event.payload:
        case RunStarted(workflow=workflow, agent=agent, input=given, options=options):
            return {
                "workflow": workflow, "agent": agent, "input": given, "options": options,
                "started_at": event.at, "label": taint.of_input(options.untrusted),
            }  # fmt: skip
        case RunClaimed(epoch=epoch):
            return {"epoch": epoch, "claimed_at": state.claimed_at or event.at}
        case PhaseDone(phase=phase, result=result, seconds=seconds, label=label):
            # Whatever it says of itself, it was made by a run that had read this.
            made = state.label.joined(taint.parse(label))
            return {
                "phase_labels": {**state.phase_labels, phase: made},
                "label": made,
                "phases": {**state.phases, phase: result},
                "seconds": {**state.seconds, phase: seconds},
                "stuck": 0,
            }
        case TurnFailed():
            return {
                "failures": state.failures + 1, "stuck": state.stuck + 1,
                "broken_at": event.at if state.broken_at is None else state.broken_at,
            }  # fmt: skip
        case RunEnded() as ended:
            return {"ended": ended, "ended_at": event.at}
        case WaitBegun() | WaitEnded() | SignalSent() as payload:
            return _of_wait(state, payload)
        case RunPaused() | RunResumed() | CancelAsked() as payload:
            return _of_person(payload)
        case ApprovalAsked() | ApprovalReminded() | ApprovalAnswered() as payload:
            return _of_approval(state, payload, event.at)
        case payload:
            return _of_effect(state, payload)


def _of_person(payload: RunPaused | RunResumed | CancelAsked) -> Changes:
    match payload:
        case CancelAsked() as cancelled:
            return {"cancelled": cancelled, "paused": False}
    return {"paused": isinstance(payload, RunPaused)}


def _of_approval(
    state: RunState, payload: ApprovalAsked | ApprovalReminded | ApprovalAnswered, at: float
) -> Changes:
    step = payload.step
    match payload:
        case ApprovalAsked() as asked:
            now = Approval(asked, at, asked.to)
        case ApprovalReminded(number=number, to=to):
            now = replace(state.approvals[step], reminders=number, to=to)
        case ApprovalAnswered() as answered:
            now = replace(state.approvals[step], answered=answered, answered_at=at)
    return {"approvals": {**state.approvals, step: now}, "stuck": 0}


def _of_wait(state: RunState, payload: WaitBegun | WaitEnded | SignalSent) -> Changes:
    match payload:
        case WaitBegun() as begun:
            return {"waiting": begun}
        case SignalSent() as sent:
            return {"signals": (*state.signals, sent)}
    taken = state.waiting.signal if state.waiting is not None and payload.value is not None else ""
    first = next((s for s in state.signals if taken and s.name == taken), None)
    return {
        "stuck": 0,
        "waiting": None,
        "label": state.label if payload.value is None else UNKNOWN,
        "waited": {**state.waited, payload.step: payload.value},
        "signals": tuple(s for s in state.signals if s is not first),
    }


def _of_effect(state: RunState, payload: Any) -> Changes:
    match payload:
        case StepDecided(step=step) as decided:
            taken: Changes = {"decisions": {**state.decisions, step: decided}}
            if decided.approval:
                used = replace(state.approvals[step], used=True)
                taken |= {"approvals": {**state.approvals, step: used}}
            return taken
        case EffectStarted(step=step) as started:
            return {"open_effects": {**state.open_effects, step: started}}
        case EffectParked(step=step) as parked:
            return {"parked": {**state.parked, step: parked}}
    still_open = {"open_effects": _without(state.open_effects, payload.step)}
    match payload:
        case EffectDone(step=step, receipt=receipt, label=label):
            read = taint.parse(label)
            return still_open | {
                "receipts": {**state.receipts, step: receipt}, "stuck": 0,
                "labels": {**state.labels, step: read}, "label": state.label.joined(read),
            }  # fmt: skip
        case EffectFailed(step=step) as failed:
            return still_open | {"refusals": {**state.refusals, step: failed}}
    receipts = {payload.step: payload.receipt} if payload.done else {}
    return still_open | {
        "parked": _without(state.parked, payload.step),
        "receipts": {**state.receipts, **receipts},
        "label": UNKNOWN if payload.done else state.label,
    }


def effect_states(run: RunState) -> dict[str, str]:
    """Where each step's effect stands: INTENDED (it waits, or asks), DENIED, APPROVED (not begun),
    STARTED, DONE, FAILED (refused, nothing was done) or UNKNOWN (a person has to look)."""
    return {step: _effect_state(run, step) for step in run.decisions}


def _effect_state(run: RunState, step: str) -> str:
    known: dict[str, Collection[str]] = {
        "DONE": run.receipts, "FAILED": run.refusals, "UNKNOWN": run.parked,
        "STARTED": run.open_effects,
    }  # fmt: skip
    for state, steps in known.items():
        if step in steps:
            return state
    answer = run.decisions[step].answer
    return {"allow": "APPROVED", "modify": "APPROVED", "deny": "DENIED"}.get(answer, "INTENDED")


def fold(run_id: str, events: Iterable[Event]) -> RunState:
    """The state of a run from its events, in order."""
    return reduce(apply, events, RunState(run_id))


KEPT_TEXTS: Final = 50


@dataclass(frozen=True)
class Turn:
    """What an agent keeps of one finished run; the words of the last KEPT_TEXTS only. The journal
    has them all."""

    run_id: str
    ended_at: float
    intent: str
    decision: str
    reason: str
    refunded_cents: int
    message: str = ""
    reply: str = ""


@dataclass(frozen=True)
class AgentState:
    """What an agent keeps over its turns, oldest first."""

    agent: str
    turns: tuple[Turn, ...] = ()

    @cached_property
    def _run_ids(self) -> frozenset[str]:
        return frozenset(t.run_id for t in self.turns)

    def knows(self, run_id: str) -> bool:
        """Whether this run is part of it."""
        return run_id in self._run_ids

    def as_json(self) -> str:
        """For a snapshot."""
        return json.dumps({"agent": self.agent, "turns": [asdict(t) for t in self.turns]})

    @staticmethod
    def from_json(text: str) -> "AgentState":
        """What `as_json` gave."""
        found = json.loads(text)
        return AgentState(found["agent"], tuple(Turn(**t) for t in found["turns"]))

    @property
    def refunded_cents(self) -> int:
        return sum(t.refunded_cents for t in self.turns)

    def after(self, run: RunState) -> "AgentState":
        """This state with `run` added; unchanged while the run is open or already counted."""
        if run.ended is None or self.knows(run.run_id):
            return self
        refunds = [
            r.get("amount_cents", 0) for r in run.receipts.values() if r.get("kind") == "refund"
        ]
        turn = Turn(
            run_id=run.run_id,
            ended_at=run.ended_at or 0.0,
            intent=str(run.phases.get("intent", {}).get("intent", "")),
            decision=run.ended.decision,
            reason=run.ended.reason,
            refunded_cents=sum(int(r) for r in refunds),
            message=str(run.input.get("message", "")),
            reply=str(run.ended.result.get("text", "")),
        )
        turns = sorted((*self.turns, turn), key=lambda t: (t.ended_at, t.run_id))
        bare = (replace(t, message="", reply="") if t.message else t for t in turns[:-KEPT_TEXTS])
        turns = [*bare, *turns[-KEPT_TEXTS:]]
        return AgentState(self.agent, tuple(turns))


def _without(mapping: dict[str, T], key: str) -> dict[str, T]:
    return {k: v for k, v in mapping.items() if k != key}
