"""One effect, once, whatever dies in between.

The order is: the decision and the start are journaled in one transaction; the connector is asked,
under a key made of run, step, tool and arguments; its receipt is journaled. An effect that was
started and has no end is looked up at the connector by its key; so is one whose connector was lost
while it was asked, as soon as that is back. Where the connector can't tell, the effect is parked:
nothing but a person can know whether it was done.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from agents.events import EffectDone, EffectFailed, EffectParked, EffectStarted, StepDecided
from agents.policy import Decision
from agents.state import RunState
from agents.tools import TOOLS
from agents.turn import Acted
from cluster.errors import Conflict, EffectUnknown, InvalidInput, NotFound, Unavailable
from cluster.ids import jittered
from cluster.session import own

# How long after it was lost a connector is asked again: seconds, each with its jitter.
_ASK_AGAIN_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of the connector; its own errors come through."""
Append = Callable[[str, int, list[Any]], Awaitable[RunState]]
"""Journals facts of a run under an epoch; the state after them."""


@dataclass(frozen=True)
class Step:
    """What a turn asks for: `tool` with `args`, by a `name` of its own within the run."""

    name: str
    tool: str
    args: dict[str, Any]

    def key(self, run_id: str) -> str:
        """The idempotency key: the same call of the same step has the same key."""
        material = [run_id, self.name, self.tool, self.args]
        canonical = json.dumps(material, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:40]


Decide = Callable[[RunState, Step], Awaitable[Decision]]


class Effects:
    """Decides steps and does those that are allowed."""

    def __init__(self, ask: Ask, append: Append, decide: Decide) -> None:
        self._ask = ask
        self._append = append
        self._decide = decide

    async def act(self, state: RunState, step: Step) -> Acted:
        """See `agents.turn.Office`; under the epoch of `state`."""
        known = state.decisions.get(step.name)
        if known is None:
            return await self._first(state, step)
        if (known.tool, known.args) != (step.tool, step.args):
            raise Conflict(
                f"run {state.run_id}", f"step {step.name} was {known.tool}, now it is {step.tool}"
            )
        decision = Decision(known.answer, known.rule, known.reason)
        if decision.answer != "allow":
            return Acted(decision)
        if step.name in state.receipts:
            return Acted(decision, receipt=state.receipts[step.name])
        if step.name in state.refusals:
            refused = state.refusals[step.name]
            return Acted(decision, refusal=(refused.code, refused.reason))
        if step.name in state.open_effects:
            return await self.resume(state, step.name)
        # A person found that it was not done.
        return await self._begin(state, step, decision, [])

    async def resume(self, state: RunState, name: str) -> Acted:
        """Go on with the effect of a step that an earlier turn started. EffectUnknown when only a
        person can say whether it was done; the run is parked then."""
        begun, known = state.open_effects[name], state.decisions[name]
        if name not in state.parked:
            if TOOLS[begun.tool].lookup:
                decision = Decision(known.answer, known.rule, known.reason)
                return await self._finish(state, begun, decision, look=True)
            reason = f"{begun.tool} was started, and its connector can't tell whether it was done"
            parked = EffectParked(step=name, key=begun.key, reason=reason)
            state = await self._append(state.run_id, state.epoch, [parked])
        raise EffectUnknown(f"step {name} of run {state.run_id}", state.parked[name].reason)

    async def _first(self, state: RunState, step: Step) -> Acted:
        decision = await self._decide(state, step)
        decided = StepDecided(
            step=step.name, tool=step.tool, args=step.args, answer=decision.answer,
            rule=decision.rule, reason=decision.reason,
        )  # fmt: skip
        if decision.answer == "allow":
            return await self._begin(state, step, decision, [decided])
        await self._append(state.run_id, state.epoch, [decided])
        return Acted(decision)

    async def _begin(
        self, state: RunState, step: Step, decision: Decision, decided: list[Any]
    ) -> Acted:
        begun = EffectStarted(
            step=step.name, tool=step.tool, key=step.key(state.run_id), args=step.args
        )
        state = await self._append(state.run_id, state.epoch, [*decided, begun])
        return await self._finish(state, begun, decision)

    async def _finish(
        self, state: RunState, begun: EffectStarted, decision: Decision, look: bool = False
    ) -> Acted:
        """Do the effect, unless it was done by the receipt that `look` finds, and journal how it
        ended."""
        ticket = str(state.input.get("ticket", ""))
        try:
            receipt = await self._receipt(begun, ticket, look)
        except (NotFound, Conflict, InvalidInput) as error:
            reason = str(own(error))
            failed = EffectFailed(step=begun.step, key=begun.key, code=error.code, reason=reason)
            await self._append(state.run_id, state.epoch, [failed])
            return Acted(decision, refusal=(error.code, reason))
        done = EffectDone(step=begun.step, key=begun.key, receipt=receipt)
        await self._append(state.run_id, state.epoch, [done])
        return Acted(decision, receipt=receipt)

    async def _receipt(self, begun: EffectStarted, ticket: str, look: bool) -> dict[str, Any]:
        """The receipt of the effect, which is looked for first if `look`. Unavailable when its
        connector is lost and does not come back in time."""
        pauses = iter(_ASK_AGAIN_S)
        while True:
            try:
                receipt: dict[str, Any] | None = None
                if look:
                    receipt = await self._ask("lookup", begun.key)
                look = TOOLS[begun.tool].lookup
                if receipt is None:
                    receipt = await self._ask("call", begun.tool, begun.key, ticket, begun.args)
                assert receipt is not None
                return receipt
            except Unavailable:
                pause = next(pauses, None)
                if pause is None or not look:
                    raise
            await asyncio.sleep(jittered(pause))
