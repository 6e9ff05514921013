"""A run of a workflow pack in this process: real policy, real desk, no journal and no Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.chat import Chat
from agents.effects import Step
from agents.events import (
    EffectDone,
    EffectFailed,
    EffectStarted,
    Event,
    RunOptions,
    RunStarted,
    StepDecided,
    WaitBegun,
    WaitEnded,
)
from agents.facts import Standing, facts_for
from agents.packs import PACKS, Desk, Pack, PackParts, Packs, load
from agents.policy import Decision, Policy, Request
from agents.state import AgentState, RunState, apply
from agents.tools import TOOLS
from agents.turn import Acted, Child, Suspended, Turn
from agents.waits import Came, came
from cluster.errors import Conflict, InvalidInput, NotFound, StaleEpoch
from tests.fakes import POLICY, THRESHOLDS, FakeClock, ListRecaller


class Crash(BaseException):
    """Not an Exception: nobody catches a power cut."""


def shipped(name: str) -> Pack:
    """A pack as a stack loads it."""
    return load([name])[name]


def parts(chat: Chat, memory: Any = None, clock: FakeClock | None = None) -> PackParts:
    """What a pack's workflow works with; the tiers are called planner and routine."""
    told: Any = memory or ListRecaller()
    return PackParts(chat, told, "planner", "routine", 5.0, clock or FakeClock())


class PackOffice:
    """`agents.turn.Office` over one run of `pack` on `given`, in the orchestrator's order (decide,
    start, do, receipt). The desk lies where a stack with its data in `folder` has it.

    `settled` are the rules that a person has said yes to; what another rule wants asked waits, or
    is handed over where `waits` is False. `points` are the borders that were passed, before and
    after each; at number `crash_at` of them, from 0, everything stops. `performed` are the tools
    that the desk was asked for."""

    def __init__(
        self, pack: Pack, folder: Path, given: dict[str, Any], *, run_id: str = "run_1",
        autonomy: int = 2, clock: FakeClock | None = None, untrusted: tuple[str, ...] = (),
        standing: Standing | None = None, desk: Desk | None = None,
    ) -> None:  # fmt: skip
        self.pack, self.clock = pack, clock or FakeClock()
        self.packs = Packs([pack])
        self.policy: Policy = self.packs.policy(POLICY)
        self.standing = standing or Standing(autonomy=autonomy)
        self.folder = folder / PACKS / pack.name
        self.desk: Desk = desk or self.open_desk()
        self.agent = AgentState(f"{pack.name}/{run_id}")
        self.events: list[Event] = []
        self.state = RunState(run_id)
        self.settled: set[str] = set()
        self.waits = True
        self.points: list[str] = []
        self.crash_at: int | None = None
        self.performed: list[str] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self._add(
            RunStarted(
                workflow=pack.name, agent=self.agent.agent,
                input={**pack.read(given), "tenant": "default"},
                options=RunOptions(untrusted=untrusted),
            )
        )  # fmt: skip

    def open_desk(self) -> Desk:
        """The pack's desk as a new process opens it."""
        return self.pack.desk(self.folder, self.clock)

    async def work(self, with_: PackParts) -> bool:
        """A turn from the run as it stands; whether the run has ended, or else it waits."""
        turn = Turn(self.state, self.state.epoch, self.agent, self, self.clock)
        try:
            await self.pack.worked(turn, with_)
        except Suspended:
            return False
        return self.state.ended is not None

    async def worked_through(self, with_: PackParts, crash_at: int) -> bool:
        """Work, stop at a border, and work again with a new desk. Whether it came so far."""
        self.crash_at = len(self.points) + crash_at
        try:
            await self.work(with_)
        except Crash:
            self.crash_at = None
            self.desk = self.open_desk()
            if self.state.ended is None:
                await self.work(with_)
            return True
        self.crash_at = None
        return False

    @property
    def ended(self) -> tuple[str, str]:
        """The run's decision and reason."""
        assert self.state.ended is not None
        return self.state.ended.decision, self.state.ended.reason

    @property
    def result(self) -> dict[str, Any]:
        assert self.state.ended is not None
        return self.state.ended.result

    def answers(self) -> dict[str, tuple[str, str]]:
        """Policy's last answer and rule by tool."""
        return {d.tool: (d.answer, d.rule) for d in self.state.decisions.values()}

    # --- agents.turn.Office

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        if epoch != self.state.epoch:
            raise StaleEpoch(run_id, "overtaken")
        if self.state.ended is not None:
            raise Conflict(run_id, "it has ended")
        name = "+".join(p.kind for p in payloads)
        self._point(f"before {name}")
        for payload in payloads:
            self._add(payload)
        self._point(f"after {name}")

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        self.asked.append((step, tool, args))
        known = self.state.decisions.get(step)
        if known is not None and (known.tool, known.args) != (tool, args):
            raise Conflict(run_id, f"step {step} is another one now")
        if step in self.state.receipts or step in self.state.refusals:
            return self._known(step)
        if step in self.state.open_effects:
            return await self._finish(step, look=True)
        if known is not None and known.answer == "deny":
            return self._known(step)
        decision = self.policy.decide(
            Request(tool, self.state.subject, self.facts(tool, args), self.pack.name), self.settled
        )
        decided = StepDecided(step=step, tool=tool, args=args, **vars(decision))
        if not decision.allows:
            await self.append(run_id, epoch, [decided])
            waits = decision.answer == "wait" or (decision.answer == "ask" and self.waits)
            return Acted(decision, pending=waits)
        key = Step(step, tool, args).key(run_id)
        args = {**args, **decision.changed}
        await self.append(
            run_id, epoch, [decided, EffectStarted(step=step, tool=tool, key=key, args=args)]
        )
        return await self._finish(step, look=False)

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        if self.state.waiting is None or self.state.waiting.step != wait.step:
            await self.append(run_id, epoch, [wait])
        found = came(self.state, self.clock.now())
        if found is not None:
            await self.append(run_id, epoch, [WaitEnded(step=wait.step, value=found.value)])
        return found

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        return [f"{run_id}/{step}/{i}" for i in range(len(children))]

    def facts(self, tool: str, args: dict[str, Any]) -> dict[str, Any]:
        """What policy is told of a step now."""
        common = facts_for(tool, args, self.state, self.agent, THRESHOLDS, self.standing)
        return common | self.packs.facts(tool, args, self.state, self.standing)

    # --- inside

    async def _finish(self, step: str, look: bool) -> Acted:
        begun, run_id, epoch = self.state.open_effects[step], self.state.run_id, self.state.epoch
        receipt = self.desk.find(begun.key) if look and TOOLS[begun.tool].lookup else None
        if receipt is None:
            name = begun.tool.partition(".")[2]
            self._point(f"before {begun.tool}")
            self.performed.append(begun.tool)
            try:
                done = self.desk.perform(name, begun.key, self.state.subject, begun.args)
            except (NotFound, Conflict, InvalidInput) as error:
                failed = EffectFailed(step=step, key=begun.key, code=error.code, reason=str(error))
                await self.append(run_id, epoch, [failed])
                return self._known(step)
            receipt = {"kind": name, **done}
            self._point(f"after {begun.tool}")
        label = str(TOOLS[begun.tool].returns)
        await self.append(
            run_id, epoch, [EffectDone(step=step, key=begun.key, receipt=receipt, label=label)]
        )
        return self._known(step)

    def _known(self, step: str) -> Acted:
        decided, refused = self.state.decisions[step], self.state.refusals.get(step)
        decision = Decision(decided.answer, decided.rule, decided.reason, decided.changed)
        return Acted(
            decision, receipt=self.state.receipts.get(step),
            refusal=None if refused is None else (refused.code, refused.reason),
        )  # fmt: skip

    def _point(self, name: str) -> None:
        self.points.append(name)
        if self.crash_at is not None and len(self.points) > self.crash_at:
            raise Crash(name)

    def _add(self, payload: Any) -> None:
        # Through JSON, as a journal would keep it.
        copy = type(payload).model_validate_json(payload.model_dump_json())
        event = Event(
            run_id=self.state.run_id, seq=self.state.seq + 1, epoch=self.state.epoch,
            at=self.clock.now(), hash="0" * 64, payload=copy,
        )  # fmt: skip
        self.events.append(event)
        self.state = apply(self.state, event)
