"""A person says whether a parked effect was done."""

from typing import Any

from agents.events import EffectResolved
from agents.journal import MAX_LINE, Journal
from agents.state import fold
from cluster.errors import Conflict, InvalidInput


def resolve(
    journal: Journal, run_id: str, step: str, *, done: bool, by: str, note: str = "",
    receipt: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Record that the parked effect `step` was done, with what the workflow needs to know of it as
    `receipt`, or that it was not: then it is started anew when the run is taken up.

    NotFound for an unknown run; Conflict when the step is not parked, or was resolved meanwhile;
    InvalidInput for nobody's word, a receipt of what was not done, and what is too long.
    """
    for name, value in (("by", by), ("note", note)):
        if len(value) > MAX_LINE or "\0" in value:
            raise InvalidInput(name, value, f"at most {MAX_LINE} characters, none of them NUL")
    if not by.strip():
        raise InvalidInput("by", by, "the name of who looked")
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
