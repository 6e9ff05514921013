"""What people do to runs: signal, pause, resume, cancel, retry, fork; and say of parked effects.

Each works on the journal alone, so the command line can do it while no stack runs. What somebody
else writes under an older epoch is refused afterwards: a turn under way ends at its next write.
"""

from collections.abc import Sequence
from typing import Any, Final

from agents.events import (
    CancelAsked,
    EffectDone,
    EffectFailed,
    EffectResolved,
    PhaseDone,
    RunPaused,
    RunResumed,
    SignalSent,
    StepDecided,
    WaitEnded,
)
from agents.journal import Journal, require_line, require_name
from agents.state import RunState, fold
from agents.waits import came
from cluster.errors import Conflict, InvalidInput

GIVE_UP: Final = "give-up"
"""The step by which a run that failed too often is handed over."""
_RETRIED: Final = ("failed", "cancelled", "escalated")


def signal(journal: Journal, run_id: str, name: str, value: dict[str, Any], by: str) -> None:
    """Tell a run something. Conflict when it has ended."""
    require_name("by", by)
    require_name("name", name)
    state = _open(journal, run_id)
    sent = SignalSent(name=name, value=value, by=by)
    payloads: list[Any] = [sent]
    if state.status == "waiting" and state.waiting is not None:
        waiting = RunState(run_id, waiting=state.waiting, signals=(*state.signals, sent))
        # A wait for a signal ends by signals only here: what its time brings, its timer does.
        if (got := came(waiting, float("-inf"))) is not None:
            payloads.append(WaitEnded(step=state.waiting.step, value=got.value))
    journal.append(run_id, state.epoch, payloads, after=state.seq)


def pause(journal: Journal, run_id: str, by: str, reason: str = "") -> None:
    """Let nobody work on a run. Conflict when it has ended, waits for a person, or is paused."""
    require_name("by", by)
    require_line("reason", reason)
    state = _open(journal, run_id)
    if state.status in {"paused", "parked"}:
        raise Conflict(f"run {run_id}", f"it is {state.status}")
    epoch = journal.claim(run_id, f"paused by {by}")
    journal.append(run_id, epoch, [RunPaused(by=by, reason=reason)])


def resume(journal: Journal, run_id: str, by: str) -> None:
    """Let a paused run go on. Conflict when it is not paused."""
    require_name("by", by)
    state = _open(journal, run_id)
    if state.status != "paused":
        raise Conflict(f"run {run_id}", f"it is {state.status}, not paused")
    waiting = [state.waiting] if state.waiting is not None else []
    journal.append(run_id, state.epoch, [RunResumed(by=by), *waiting], after=state.seq)


def cancel(
    journal: Journal, run_id: str, by: str, reason: str = "", undo: bool = False,
    decision: str = "cancelled",
) -> None:  # fmt: skip
    """End a run; its orchestrator closes it. Conflict when it has ended, is being cancelled, or
    has an effect of which nobody knows whether it was done."""
    require_name("by", by)
    require_line("reason", reason)
    state = _open(journal, run_id)
    if state.parked:
        steps = ", ".join(state.parked)
        raise Conflict(f"run {run_id}", f"say first whether {steps} was done (runs resolve)")
    if state.cancelled is not None:
        raise Conflict(f"run {run_id}", f"{state.cancelled.by} has cancelled it")
    epoch = journal.claim(run_id, f"{decision} by {by}")
    asked = CancelAsked(by=by, reason=reason, undo=undo, decision=decision)
    journal.append(run_id, epoch, [asked])


def retry(journal: Journal, run_id: str, by: str) -> str:
    """The id of a new run that goes on where this one failed. Asking again gives the same run.
    Conflict unless it ended as failed, cancelled or escalated."""
    require_name("by", by)
    events = journal.read(run_id)
    state = fold(run_id, events)
    if state.ended is None or state.ended.decision not in _RETRIED:
        told = state.ended.decision if state.ended else state.status
        raise Conflict(f"run {run_id}", f"it is {told}; only {', '.join(_RETRIED)} can be retried")
    payloads = [e.payload for e in events]
    done = {p.step for p in payloads if isinstance(p, EffectDone)}
    # A step that was not done is decided anew: what stood against it may have changed.
    again = {s for s in state.decisions if s not in done} | {GIVE_UP}
    again |= {s for s, d in state.decisions.items() if d.tool == "escalate"}
    kept = [p for p in _known(payloads) if getattr(p, "step", None) not in again]
    return _forked(journal, state, state.seq, f"retry:{run_id}", kept)


def fork(journal: Journal, run_id: str, after: int, key: str, agent: str | None = None) -> str:
    """The id of a new run that knows what this one knew after event number `after`, and goes on by
    itself; `agent` works it (default: the same). Effects done by then are not done again.

    InvalidInput when the run has no such event.
    """
    events = journal.read(run_id)
    if not 1 <= after <= len(events):
        raise InvalidInput("after", after, f"1 to {len(events)}, the run's last event")
    payloads = [e.payload for e in events[:after]]
    state = fold(run_id, events[:after])
    return _forked(journal, state, after, key, _known(payloads), agent)


def copy(journal: Journal, run_id: str, key: str, agent: str) -> None:
    """Let another agent remember an ended run as its own."""
    events = journal.read(run_id)
    state = fold(run_id, events)
    history = [*_known([e.payload for e in events]), state.ended]
    _forked(journal, state, state.seq, key, history, agent)


def resolve(
    journal: Journal, run_id: str, step: str, *, done: bool, by: str, note: str = "",
    receipt: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Record that the parked effect `step` was done, with what the workflow needs to know of it as
    `receipt`, or that it was not: then it is started anew when the run is taken up.

    NotFound for an unknown run; Conflict when the step is not parked, or was resolved meanwhile;
    InvalidInput for nobody's word, a receipt of what was not done, and what is too long.
    """
    require_name("by", by)
    require_line("note", note)
    if receipt and not done:
        raise InvalidInput("receipt", receipt, "none for what was not done")
    state = fold(run_id, journal.read(run_id))
    parked = state.parked.get(step)
    if parked is None:
        waiting = ", ".join(state.parked) or "none"
        raise Conflict(f"run {run_id}", f"step {step} is not parked (parked: {waiting})")
    told = {"kind": state.open_effects[step].tool, "by": by, **(receipt or {})} if done else {}
    resolved = EffectResolved(
        step=step, key=parked.key, done=done, by=by, note=note, receipt=told
    )  # fmt: skip
    journal.append(run_id, state.epoch, [resolved], after=state.seq)


def _open(journal: Journal, run_id: str) -> RunState:
    state = fold(run_id, journal.read(run_id))
    if state.ended is not None:
        raise Conflict(f"run {run_id}", f"it has ended: {state.ended.decision}")
    return state


def _known(payloads: Sequence[Any]) -> list[Any]:
    """What a fork takes over: phases, waits that are over, signals, and steps whose effect came to
    an end. A step still open is the other run's; the fork decides and does it anew."""
    over = {p.step for p in payloads if _is_over(p)}
    return [
        p
        for p in payloads
        if isinstance(p, PhaseDone | SignalSent) or getattr(p, "step", None) in over
    ]


def _is_over(payload: Any) -> bool:
    match payload:
        case EffectDone() | EffectFailed() | WaitEnded():
            return True
        case EffectResolved(done=done):
            return done
        case StepDecided(answer=answer):
            return answer == "deny"
    return False


def _forked(
    journal: Journal, state: RunState, after: int, key: str, history: Sequence[Any],
    agent: str | None = None,
) -> str:  # fmt: skip
    options = state.options.model_copy(
        update={
            "forked_from": state.run_id, "forked_at": after, "parent": "", "deadline_at": None,
        }
    )  # fmt: skip
    run_id, _ = journal.create(
        state.tenant, key, state.workflow, agent or state.agent, state.input, options, history
    )
    return run_id
