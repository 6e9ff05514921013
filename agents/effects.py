"""One effect, once, whatever dies in between.

The order is: the decision and the start are journaled in one transaction; the connector is asked,
under a key made of run, step, tool and arguments; its receipt is journaled. An effect that was
started and has no end is looked up at the connector by its key; so is one whose connector was lost
while it was asked, as soon as that is back. Where the connector can't tell, the effect is parked:
nothing but a person can know whether it was done.

What policy does not simply allow or deny waits, and the run with it: for a person's answer, which
is used by the decision that rests on it, or until a rate frees.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from agents.approvals import Approvals, Asking, narrowed
from agents.events import (
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectStarted,
    StepDecided,
    WaitBegun,
)
from agents.intents import LOOKUP, Call, Mint
from agents.meters import Meters
from agents.policy import Decision
from agents.state import Approval, RunState
from agents.toolbox import Toolbox
from agents.turn import Acted
from cluster.errors import (
    Conflict,
    EffectUnknown,
    IntentRefused,
    InvalidInput,
    NotFound,
    Unavailable,
)
from cluster.ids import Clock, jittered
from cluster.session import own
from cluster.tracing import traceparent

# How long after it was lost a connector is asked again: seconds, each with its jitter.
_ASK_AGAIN_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of a tool's connector, named first; its own errors come through."""
Append = Callable[..., Awaitable[RunState]]
"""Journals facts of a run under an epoch, and what is given to be written beside them; the state
after them."""


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


Decide = Callable[[RunState, Step, Collection[str]], Awaitable[Decision]]
"""Policy's answer to a step, where a person has settled the rules of these names."""


class Effects:
    """Decides steps and does those that are allowed."""

    def __init__(
        self, ask: Ask, append: Append, decide: Decide, mint: Mint, meters: Meters,
        approvals: Approvals, asking: Asking, clock: Clock, max_rate_wait_s: float,
        toolbox: Toolbox,
    ) -> None:  # fmt: skip
        self.toolbox = toolbox
        self._ask = ask
        self._append = append
        self._decide = decide
        self._mint = mint
        self._meters, self._approvals, self._asking = meters, approvals, asking
        self._clock, self._max_rate_wait_s = clock, max_rate_wait_s

    async def act(self, state: RunState, step: Step, waits: bool = True) -> Acted:
        """See `agents.turn.Office`; under the epoch of `state`. Unless it `waits`, a step that a
        person would have to allow is not done."""
        known = state.decisions.get(step.name)
        if known is None:
            return await self._judge(state, step, waits)
        if (known.tool, known.args) != (step.tool, step.args):
            raise Conflict(
                f"run {state.run_id}", f"step {step.name} was {known.tool}, now it is {step.tool}"
            )
        approval = state.approvals.get(step.name)
        if known.answer == "ask" or (approval is not None and approval.granted):
            return await self._asked(state, step, known, waits)
        if known.answer == "wait":
            return await self._judge(state, step, waits)
        return await self._known(state, step, _told(known))

    async def _known(self, state: RunState, step: Step, decision: Decision) -> Acted:
        """What became of a step that was decided for good."""
        if not decision.allows:
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

    async def _asked(self, state: RunState, step: Step, known: StepDecided, waits: bool) -> Acted:
        """Go on with a step that a person was asked about, or would have been."""
        approval = state.approvals.get(step.name)
        if approval is None:
            return Acted(_told(known))
        asked, answered = approval.asked, approval.answered
        if self._clock.now() >= asked.expires_at:
            reason = f"{asked.reason}; nobody allowed it in time"
            return await self._refused(state, step, "approval-expired", reason)
        if answered is None:
            return Acted(_told(known), pending=waits)
        if not answered.approved:
            reason = f"{answered.by} said no" + (f": {answered.note}" if answered.note else "")
            return await self._refused(state, step, known.rule, reason)
        return await self._judge(state, step, waits, approval)

    async def _refused(self, state: RunState, step: Step, rule: str, reason: str) -> Acted:
        decision = Decision("deny", rule, reason)
        await self._append(state.run_id, state.epoch, [_decided(step, decision)])
        return Acted(decision)

    async def _judge(
        self, state: RunState, step: Step, waits: bool, approval: Approval | None = None
    ) -> Acted:
        """Decide a step, on what a person has allowed if there is an `approval`, and journal what
        follows: its start, a question, a wait, or nothing."""
        async with self._meters.turn(state.tenant, step.tool):
            decision = await self._answer(state, step, approval)
            if decision.allows:
                id = approval.asked.approval if approval is not None else ""
                decided = _decided(step, decision, id)
                state, begun = await self._started(state, step, decision, [decided])
        if decision.allows:
            return await self._finish(state, begun, decision)
        if decision.answer == "ask" and waits and self._asking.wanted(state):
            return await self._question(state, step, decision)
        payloads: list[Any] = [_decided(step, decision)]
        if decision.answer == "wait":
            until = decision.until
            payloads.append(WaitBegun(step=f"rate:{step.name}", awaited="timer", until=until))
        await self._append(state.run_id, state.epoch, payloads)
        return Acted(decision, pending=decision.answer == "wait")

    async def _answer(self, state: RunState, step: Step, approval: Approval | None) -> Decision:
        """Policy's answer, to what the person has left of the step if one was asked."""
        cut = {} if approval is None else narrowed(step.tool, step.args, approval)
        asked = Step(step.name, step.tool, {**step.args, **cut})
        settled = approval.asked.rules if approval is not None else ()
        decision = await self._decide(state, asked, settled)
        if cut and decision.answer == "allow":
            decision = replace(decision, answer="modify")
        late = (decision.until or 0.0) > self._clock.now() + self._max_rate_wait_s
        if decision.answer == "wait" and late:
            decision = replace(decision, answer="deny", until=None)
        return replace(decision, changed={**cut, **decision.changed})

    async def _question(self, state: RunState, step: Step, decision: Decision) -> Acted:
        args = {**step.args, **decision.changed}
        asked, wait = self._asking.question(state, step.name, step.tool, args, decision)
        payloads = [_decided(step, decision), asked, wait]
        await self._append(
            state.run_id, state.epoch, payloads, self._approvals.opened(state, asked)
        )
        return Acted(decision, pending=True)

    async def resume(self, state: RunState, name: str) -> Acted:
        """Go on with the effect of a step that an earlier turn started. EffectUnknown when only a
        person can say whether it was done; the run is parked then."""
        begun, known = state.open_effects[name], state.decisions[name]
        if name not in state.parked:
            if self.toolbox.tool(begun.tool).lookup:
                return await self._finish(state, begun, _told(known), look=True)
            reason = f"{begun.tool} was started, and its connector can't tell whether it was done"
            await self._park(state, begun, reason)
        raise EffectUnknown(f"step {name} of run {state.run_id}", state.parked[name].reason)

    async def _park(self, state: RunState, begun: EffectStarted, reason: str) -> NoReturn:
        """Leave it to a person whether it was done."""
        parked = EffectParked(step=begun.step, key=begun.key, reason=reason)
        await self._append(state.run_id, state.epoch, [parked])
        raise EffectUnknown(f"step {begun.step} of run {state.run_id}", reason)

    async def _begin(
        self, state: RunState, step: Step, decision: Decision, decided: list[Any]
    ) -> Acted:
        state, begun = await self._started(state, step, decision, decided)
        return await self._finish(state, begun, decision)

    async def _started(
        self, state: RunState, step: Step, decision: Decision, decided: list[Any]
    ) -> tuple[RunState, EffectStarted]:
        """Journal that the connector is about to be asked."""
        args = {**step.args, **decision.changed}
        begun = EffectStarted(step=step.name, tool=step.tool, key=step.key(state.run_id), args=args)
        spent = self._meters.spent(state.tenant, state.run_id, step.name, step.tool, args)
        state = await self._append(state.run_id, state.epoch, [*decided, begun], spent)
        return state, begun

    async def _finish(
        self, state: RunState, begun: EffectStarted, decision: Decision, look: bool = False
    ) -> Acted:
        """Do the effect, unless it was done by the receipt that `look` finds, and journal how it
        ended."""
        try:
            receipt = await self._receipt(state.run_id, begun, state.subject, look)
        except EffectUnknown as error:
            await self._park(state, begun, str(own(error)))
        except (NotFound, Conflict, InvalidInput) as error:
            reason = str(own(error))
            failed = EffectFailed(step=begun.step, key=begun.key, code=error.code, reason=reason)
            await self._append(state.run_id, state.epoch, [failed])
            return Acted(decision, refusal=(error.code, reason))
        label = str(self.toolbox.tool(begun.tool).returns)
        done = EffectDone(step=begun.step, key=begun.key, receipt=receipt, label=label)
        await self._append(state.run_id, state.epoch, [done])
        return Acted(decision, receipt=receipt)

    async def _receipt(
        self, run: str, begun: EffectStarted, ticket: str, look: bool
    ) -> dict[str, Any]:
        """The receipt of the effect, which is looked for first if `look`. Each call has a token of
        its own. Unavailable when its connector is lost and does not come back in time."""
        call = Call(begun.tool, begun.key, ticket, begun.args)
        pauses = iter(_ASK_AGAIN_S)
        while True:
            try:
                receipt: dict[str, Any] | None = None
                if look:
                    token = self._mint.mint(run, begun.step, Call(LOOKUP, begun.key, ticket, {}))
                    receipt = await self._ask(begun.tool, "lookup", begun.key, ticket, token)
                look = self.toolbox.tool(begun.tool).lookup
                if receipt is None:
                    token = self._mint.mint(run, begun.step, call)
                    receipt = await self._ask(
                        begun.tool,
                        "call",
                        begun.tool,
                        begun.key,
                        ticket,
                        begun.args,
                        token,
                        *_trace(),
                    )
                assert receipt is not None
                return receipt
            except Unavailable:
                pause = next(pauses, None)
                if pause is None or not look:
                    raise
            except IntentRefused as refused:
                # Nothing was done. A key that was rotated, or a new life of the connector, takes
                # another token.
                pause = next(pauses, None)
                if pause is None or not refused.passing:
                    raise
            await asyncio.sleep(jittered(pause))


def _trace() -> tuple[str, ...]:
    """What a connector goes on with, when traces are on."""
    within = traceparent()
    return (within,) if within else ()


def _told(known: StepDecided) -> Decision:
    return Decision(
        known.answer, known.rule, known.reason, known.changed, known.until, known.rules,
        known.facts,
    )  # fmt: skip


def _decided(step: Step, decision: Decision, approval: str = "") -> StepDecided:
    return StepDecided(
        step=step.name, tool=step.tool, args=step.args, approval=approval, **vars(decision)
    )
