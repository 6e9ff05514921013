"""The journal's vocabulary. Events are facts; state is their fold (`agents/state.py`).

One frozen type per kind, all JSON. A change of a type's meaning is a new kind or an optional
field: what one version wrote, the next one reads.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Answer = Literal["allow", "deny", "ask"]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunStarted(_Event):
    """A run was accepted. `input` holds ids and settings, never a customer's words."""

    kind: Literal["run_started"] = "run_started"
    workflow: str
    agent: str
    input: dict[str, Any]


class RunClaimed(_Event):
    """An owner took the run. Writes that carry an older epoch are refused from here on."""

    kind: Literal["run_claimed"] = "run_claimed"
    epoch: int
    reason: str


class PhaseDone(_Event):
    """A phase of the turn finished; a resumed turn takes `result` instead of doing it again."""

    kind: Literal["phase_done"] = "phase_done"
    phase: str
    result: dict[str, Any]
    seconds: float


class StepDecided(_Event):
    """Policy answered whether a step may be done."""

    kind: Literal["step_decided"] = "step_decided"
    step: str
    tool: str
    args: dict[str, Any]
    answer: Answer
    rule: str
    reason: str


class EffectStarted(_Event):
    """The connector is about to be asked. Without an end, `key` is looked up before a repeat."""

    kind: Literal["effect_started"] = "effect_started"
    step: str
    tool: str
    key: str
    args: dict[str, Any]


class EffectDone(_Event):
    kind: Literal["effect_done"] = "effect_done"
    step: str
    key: str
    receipt: dict[str, Any]


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


class TurnFailed(_Event):
    """A turn was broken off by an error that may pass; the run stays open and is tried again."""

    kind: Literal["turn_failed"] = "turn_failed"
    code: str
    reason: str


class RunEnded(_Event):
    """The run's one outcome: `decision` is replied, assigned, escalated, or failed when even the
    hand-over to a person was refused."""

    kind: Literal["run_ended"] = "run_ended"
    decision: str
    reason: str
    result: dict[str, Any]


Payload = Annotated[
    RunStarted
    | RunClaimed
    | PhaseDone
    | StepDecided
    | EffectStarted
    | EffectDone
    | EffectFailed
    | EffectParked
    | EffectResolved
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
