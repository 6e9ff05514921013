"""PURE: what events add up to. The same fold builds a live state and a recovered one."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, TypeVar

from agents.events import (
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectResolved,
    EffectStarted,
    Event,
    PhaseDone,
    RunClaimed,
    RunEnded,
    RunStarted,
    StepDecided,
    TurnFailed,
)

T = TypeVar("T")


@dataclass(frozen=True)
class RunState:
    """One run: what it was asked, which phases and effects are done, how it ended."""

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
    failures: int = 0
    started_at: float = 0.0
    claimed_at: float | None = None
    ended_at: float | None = None
    ended: RunEnded | None = None


def apply(state: RunState, event: Event) -> RunState:
    """`state` after `event`. Unknown kinds can't occur: `events.parse` refuses them."""
    state = replace(state, seq=event.seq)
    match event.payload:
        case RunStarted(workflow=workflow, agent=agent, input=given):
            return replace(state, workflow=workflow, agent=agent, input=given, started_at=event.at)
        case RunClaimed(epoch=epoch):
            return replace(state, epoch=epoch, claimed_at=state.claimed_at or event.at)
        case PhaseDone(phase=phase, result=result, seconds=seconds):
            return replace(
                state,
                phases={**state.phases, phase: result},
                seconds={**state.seconds, phase: seconds},
            )
        case TurnFailed():
            return replace(state, failures=state.failures + 1)
        case RunEnded() as ended:
            return replace(state, ended=ended, ended_at=event.at)
        case payload:
            return _with_effect(state, payload)


def _with_effect(state: RunState, payload: Any) -> RunState:
    match payload:
        case StepDecided(step=step) as decided:
            return replace(state, decisions={**state.decisions, step: decided})
        case EffectStarted(step=step) as started:
            return replace(state, open_effects={**state.open_effects, step: started})
        case EffectDone(step=step, receipt=receipt):
            return replace(
                state,
                open_effects=_without(state.open_effects, step),
                receipts={**state.receipts, step: receipt},
            )
        case EffectFailed(step=step) as failed:
            return replace(
                state,
                open_effects=_without(state.open_effects, step),
                refusals={**state.refusals, step: failed},
            )
        case EffectParked(step=step) as parked:
            return replace(state, parked={**state.parked, step: parked})
        case EffectResolved(step=step, done=done, receipt=receipt):
            receipts = {**state.receipts, step: receipt} if done else state.receipts
            return replace(
                state,
                parked=_without(state.parked, step),
                open_effects=_without(state.open_effects, step),
                receipts=receipts,
            )
    return state


def fold(run_id: str, events: Iterable[Event]) -> RunState:
    """The state of a run from its events, in order."""
    return reduce(apply, events, RunState(run_id))


@dataclass(frozen=True)
class Turn:
    """What an agent keeps of one finished run."""

    run_id: str
    ended_at: float
    intent: str
    decision: str
    reason: str
    refunded_cents: int


@dataclass(frozen=True)
class AgentState:
    """What an agent keeps over its turns, oldest first."""

    agent: str
    turns: tuple[Turn, ...] = ()

    @property
    def refunded_cents(self) -> int:
        return sum(t.refunded_cents for t in self.turns)

    def after(self, run: RunState) -> "AgentState":
        """This state with `run` added; unchanged while the run is open or already counted."""
        if run.ended is None or any(t.run_id == run.run_id for t in self.turns):
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
        )
        turns = sorted((*self.turns, turn), key=lambda t: (t.ended_at, t.run_id))
        return replace(self, turns=tuple(turns))


def _without(mapping: dict[str, T], key: str) -> dict[str, T]:
    return {k: v for k, v in mapping.items() if k != key}
