"""One effect, once, whatever dies in between.

The order is: the decision and the start are journaled in one transaction; the connector is asked,
under a key made of run, step, tool and arguments; its receipt is journaled. An effect that was
started and has no end is looked up at the connector by its key. Where the connector can't tell, it
is parked: nothing but a person can know whether it was done.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from agents.events import EffectDone, EffectFailed, EffectParked, EffectStarted
from agents.policy import Decision
from agents.state import RunState
from agents.tools import TOOLS
from agents.turn import Acted
from cluster.errors import Conflict, EffectUnknown, InvalidInput, NotFound
from cluster.session import own

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of the connector; its own errors come through."""
Append = Callable[[str, int, list[Any]], Awaitable[RunState]]
"""Journals facts of a run under an epoch; the state after them."""


class Effects:
    """Does what was decided."""

    def __init__(self, ask: Ask, append: Append) -> None:
        self._ask = ask
        self._append = append

    async def begin(
        self, state: RunState, epoch: int, step: str, decision: Decision, taken: list[Any],
        tool: str, args: dict[str, Any],
    ) -> Acted:  # fmt: skip
        """Journal `taken` and the start of the effect together, and do it."""
        key = effect_key(state.run_id, step, tool, args)
        begun = EffectStarted(step=step, tool=tool, key=key, args=args)
        state = await self._append(state.run_id, epoch, [*taken, begun])
        return await self._finish(state, epoch, step, decision, None)

    async def resume(self, state: RunState, epoch: int, step: str, decision: Decision) -> Acted:
        """Go on with an effect that was started by an earlier turn. EffectUnknown when only a
        person can say whether it was done; the run is parked then."""
        begun = state.open_effects[step]
        if step not in state.parked and TOOLS[begun.tool].lookup:
            receipt = await self._ask("lookup", begun.key)
            return await self._finish(state, epoch, step, decision, receipt)
        reason = f"{begun.tool} was started, and its connector can't tell whether it was done"
        if step not in state.parked:
            parked = EffectParked(step=step, key=begun.key, reason=reason)
            await self._append(state.run_id, epoch, [parked])
        raise EffectUnknown(f"step {step} of run {state.run_id}", reason)

    async def _finish(
        self, state: RunState, epoch: int, step: str, decision: Decision,
        receipt: dict[str, Any] | None,
    ) -> Acted:  # fmt: skip
        begun = state.open_effects[step]
        ticket = str(state.input.get("ticket", ""))
        try:
            if receipt is None:
                receipt = await self._ask("call", begun.tool, begun.key, ticket, begun.args)
        except (NotFound, Conflict, InvalidInput) as error:
            reason = str(own(error))
            failed = EffectFailed(step=step, key=begun.key, code=error.code, reason=reason)
            await self._append(state.run_id, epoch, [failed])
            return Acted(decision, refusal=(error.code, reason))
        done = EffectDone(step=step, key=begun.key, receipt=receipt)
        await self._append(state.run_id, epoch, [done])
        return Acted(decision, receipt=receipt)


def effect_key(run_id: str, step: str, tool: str, args: dict[str, Any]) -> str:
    """The idempotency key of an effect: the same call of the same step has the same key."""
    canonical = json.dumps([run_id, step, tool, args], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]
