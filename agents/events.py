"""The journal's vocabulary. Events are facts; state is their fold (`agents/state.py`).

One frozen type per kind, all JSON. A change of a type's meaning is a new kind or an optional
field: what one version wrote, the next one reads.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Answer = Literal["allow", "deny", "modify", "ask", "wait"]
Priority = Literal["interactive", "background"]
Awaited = Literal["timer", "signal", "runs", "approval"]
Asks = Literal["wait", "hand_over"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOptions(_Event):
    """How a run is to be worked on. `priority` is its class in the queue of turns; it ends as
    failed at `deadline_at` (seconds since the epoch) and after `attempts` broken turns without
    getting on. `parent` is the run that waits for it. A fork knows what `forked_from` did up to
    event `forked_at`. What policy wants asked waits for a person, or is not done and the run goes
    on without it (`hand_over`); by default as the settings say. The fields `untrusted` of its input
    hold text from outside."""

    priority: Priority = "interactive"
    deadline_at: float | None = None
    attempts: int = 3
    asks: Asks | None = None
    parent: str = ""
    forked_from: str = ""
    forked_at: int = 0
    untrusted: tuple[str, ...] = ()


class RunStarted(_Event):
    """A run was accepted. `input` holds ids and settings, and what was said to an agent that
    converses; never the words of a shop's customer, which stay at the desk."""

    kind: Literal["run_started"] = "run_started"
    workflow: str
    agent: str
    input: dict[str, Any]
    options: RunOptions = RunOptions()


class RunClaimed(_Event):
    """An owner took the run. Writes that carry an older epoch are refused from here on."""

    kind: Literal["run_claimed"] = "run_claimed"
    epoch: int
    reason: str


class PhaseDone(_Event):
    """A phase of the turn finished; a resumed turn takes `result` instead of doing it again.
    `label` (`agents/taint.py`) is that of what was read for it."""

    kind: Literal["phase_done"] = "phase_done"
    phase: str
    result: dict[str, Any]
    seconds: float
    label: str = ""


class StepDecided(_Event):
    """Policy answered whether a step may be done, on `facts`. `changed` are arguments that it, or
    the person of the `approval` that the answer rests on, cut down; `until` is when a step that
    waits is decided again; `rules` are those that want a person."""

    kind: Literal["step_decided"] = "step_decided"
    step: str
    tool: str
    args: dict[str, Any]
    answer: Answer
    rule: str
    reason: str
    changed: dict[str, Any] = Field(default_factory=dict)
    until: float | None = None
    rules: tuple[str, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    approval: str = ""


class ApprovalAsked(_Event):
    """A person is asked whether `step` may do `tool` with the arguments of this `digest`, because
    `rules` want that. The answer is worth nothing from `expires_at` on; `to` is who is asked
    first; `cents` is the amount, where the tool has one, and `changed` what policy had cut down."""

    kind: Literal["approval_asked"] = "approval_asked"
    step: str
    approval: str
    tool: str
    digest: str
    rules: tuple[str, ...]
    reason: str
    expires_at: float
    to: str
    cents: int | None = None
    changed: dict[str, Any] = Field(default_factory=dict)


class ApprovalReminded(_Event):
    """Nobody has answered: reminder `number` goes to the next of the chain."""

    kind: Literal["approval_reminded"] = "approval_reminded"
    step: str
    approval: str
    number: int
    to: str


class ApprovalAnswered(_Event):
    """A person has answered. With `at_most` (cents) no more than that may be spent."""

    kind: Literal["approval_answered"] = "approval_answered"
    step: str
    approval: str
    approved: bool
    by: str
    note: str = ""
    at_most: int | None = None


class EffectStarted(_Event):
    """The connector is about to be asked. Without an end, `key` is looked up before a repeat."""

    kind: Literal["effect_started"] = "effect_started"
    step: str
    tool: str
    key: str
    args: dict[str, Any]


class EffectDone(_Event):
    """The connector's receipt, whose values have this `label` (`agents/taint.py`)."""

    kind: Literal["effect_done"] = "effect_done"
    step: str
    key: str
    receipt: dict[str, Any]
    label: str = ""


class EffectFailed(_Event):
    """The connector refused: nothing was done."""

    kind: Literal["effect_failed"] = "effect_failed"
    step: str
    key: str
    code: str
    reason: str


class EffectParked(_Event):
    """The effect was started and has no end, and its connector can't tell whether it was done. The
    run waits for a person."""

    kind: Literal["effect_parked"] = "effect_parked"
    step: str
    key: str
    reason: str


class EffectResolved(_Event):
    """A person looked: the parked effect was `done`, with what the workflow needs to know of it as
    `receipt`, or it was not and is started anew."""

    kind: Literal["effect_resolved"] = "effect_resolved"
    step: str
    key: str
    done: bool
    by: str
    note: str
    receipt: dict[str, Any]


class WaitBegun(_Event):
    """The run needs no host until something comes: the time `until` (seconds since the epoch), the
    signal `signal`, or the end of all `runs`; `until` also ends the other two. Or the answer to the
    approval `signal`: then `until` is when the next person is reminded."""

    kind: Literal["wait_begun"] = "wait_begun"
    step: str
    awaited: Awaited
    until: float | None = None
    signal: str = ""
    runs: tuple[str, ...] = ()


class WaitEnded(_Event):
    """What was awaited has come, with its `value`; None when the time was up first."""

    kind: Literal["wait_ended"] = "wait_ended"
    step: str
    value: Any = None


class SignalSent(_Event):
    """Somebody told the run something; a wait for `name` takes the oldest one not yet taken."""

    kind: Literal["signal_sent"] = "signal_sent"
    name: str
    value: dict[str, Any]
    by: str


class RunPaused(_Event):
    """Nobody works on the run until it is resumed."""

    kind: Literal["run_paused"] = "run_paused"
    by: str
    reason: str


class RunResumed(_Event):
    kind: Literal["run_resumed"] = "run_resumed"
    by: str


class CancelAsked(_Event):
    """The run is to end with `decision` instead of going on; with `undo` what it did is undone, the
    last first, where a tool can."""

    kind: Literal["cancel_asked"] = "cancel_asked"
    by: str
    reason: str
    undo: bool = False
    decision: str = "cancelled"


class TurnFailed(_Event):
    """A turn was broken off by an error that may pass; the run stays open and is tried again."""

    kind: Literal["turn_failed"] = "turn_failed"
    code: str
    reason: str


class RunEnded(_Event):
    """The run's one outcome: `decision` is the workflow's word (replied, assigned, escalated, ...),
    cancelled, or failed: out of time, refused as it was asked for, or not even handed over."""

    kind: Literal["run_ended"] = "run_ended"
    decision: str
    reason: str
    result: dict[str, Any]


Payload = Annotated[
    RunStarted
    | RunClaimed
    | PhaseDone
    | StepDecided
    | ApprovalAsked
    | ApprovalReminded
    | ApprovalAnswered
    | EffectStarted
    | EffectDone
    | EffectFailed
    | EffectParked
    | EffectResolved
    | WaitBegun
    | WaitEnded
    | SignalSent
    | RunPaused
    | RunResumed
    | CancelAsked
    | TurnFailed
    | RunEnded,
    Field(discriminator="kind"),
]

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Payload)


class Event(BaseModel):
    """A payload at its place: `seq` counts from 1 within its run, `at` is seconds since the
    epoch, `hash` chains over the run's earlier events."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    seq: int
    epoch: int
    at: float
    hash: str
    payload: Payload


def parse(data: str) -> Any:
    """The payload that `data` (JSON) holds; pydantic.ValidationError when it holds none."""
    return _ADAPTER.validate_json(data)
