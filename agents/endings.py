"""How a run ends that does not end by itself: given up after too many broken turns, or cancelled.

Either way no effect is left open: what was started is looked up first, and where only a person can
know, the run waits for one.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from ray.exceptions import RayError

from agents import control
from agents.effects import Effects, Step
from agents.events import RunEnded, TurnFailed
from agents.runs import Runs
from agents.state import RunState
from cluster.errors import EffectUnknown, MainspringError, StaleEpoch
from cluster.telemetry import logger

_MAX_REASON: Final = 2_000
_UNDO: Final = "undo:"

log = logger("endings")

Control = Callable[..., Awaitable[Any]]
"""Does one of `agents.control` to a run and looks at what follows."""


class Endings:
    """Ends runs in the name of their owner."""

    def __init__(self, runs: Runs, effects: Effects, control: Control) -> None:
        self._runs, self._effects, self._control = runs, effects, control

    async def give_up(self, run_id: str, code: str, reason: str, last: bool) -> bool:
        """See `agents.driver.GiveUp`."""
        try:
            state = await self._runs.state(run_id)
            if state.ended is not None or state.cancelled is not None:
                return state.ended is not None
            failed = TurnFailed(code=code, reason=reason[:_MAX_REASON])
            state = await self._runs.append(run_id, state.epoch, [failed])
            if state.stuck < state.options.attempts and not last:
                return False
            await self._settle(state)
            why = f"failed turns: {reason}"[:_MAX_REASON]
            decision = await self._hand_over(state)
            ended = RunEnded(decision=decision, reason=why, result={})
            await self._runs.append(run_id, state.epoch, [ended])
        except (StaleEpoch, EffectUnknown):
            return True
        except (MainspringError, RayError) as error:
            log.error("run %s: the hand-over failed too: %s", run_id, error)
            return False
        return True

    async def close(self, state: RunState) -> None:
        """End a cancelled run. With `undo` its result says which steps were undone, and which that
        changed something were left; the runs that it waits for are cancelled too."""
        asked = state.cancelled
        assert asked is not None
        epoch = await self._runs.claim(state.run_id, asked.decision)
        await self._settle(await self._runs.owned(state.run_id, epoch))
        result = await self._undone(state.run_id, epoch) if asked.undo else {}
        await self._cancel_children(state, asked.by, asked.undo)
        reason = asked.reason or f"by {asked.by}"
        ended = RunEnded(decision=asked.decision, reason=reason, result=result)
        await self._runs.append(state.run_id, epoch, [ended])

    async def _hand_over(self, state: RunState) -> str:
        """Give a ticket to a person; the run's decision."""
        if "ticket" not in state.input:
            return "failed"
        # One text for every attempt, so that the hand-over keeps its key.
        summary = f"given up after {state.options.attempts} turns"
        args = {"reason": "failed turns", "summary": summary}
        handed = await self._effects.act(
            state, Step(control.GIVE_UP, "escalate", args), waits=False
        )
        return "escalated" if handed.receipt is not None else "failed"

    async def _settle(self, state: RunState) -> None:
        """Bring every effect that was started to its end. EffectUnknown when only a person can."""
        for name in state.open_effects:
            await self._effects.resume(await self._runs.owned(state.run_id, state.epoch), name)

    async def _undone(self, run_id: str, epoch: int) -> dict[str, list[str]]:
        """Undo the run's effects, the last first."""
        told: dict[str, list[str]] = {"undone": [], "left": []}
        state = await self._runs.owned(run_id, epoch)
        for name in reversed(state.receipts):
            done = state.decisions[name]
            tool = self._effects.toolbox.tool(done.tool)
            if tool.effect == "read" or name.startswith(_UNDO):
                continue
            acted = None
            if tool.undo:
                of = Step(name, done.tool, done.args).key(run_id)
                step = Step(f"{_UNDO}{name}", tool.undo, {"of": of})
                owned = await self._runs.owned(run_id, epoch)
                acted = await self._effects.act(owned, step, waits=False)
            told["left" if acted is None or acted.receipt is None else "undone"].append(name)
        return told

    async def _cancel_children(self, state: RunState, by: str, undo: bool) -> None:
        children = partial(self._runs.journal.runs, state.tenant, parent=state.run_id)
        for row in await self._runs.commits.do(children):
            if row.status in {"open", "waiting", "paused"}:
                why = f"{state.run_id} was cancelled"
                await self._control(control.cancel, row.run_id, by, why, undo)
