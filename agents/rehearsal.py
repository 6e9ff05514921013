"""A pack's run in one process, for its tests: real policy, desk and fold of events; the models
answer by script.

    rehearsal = Rehearsal(PACK, tmp_path, answers=["Hello!"])
    run = await rehearsal.run({"subject": "x"})
    assert run.ended.decision == "waved"

What policy wants asked of a person is answered at once, by what `says` for the tool: True, False,
or nothing, and then the run stands as it is. Timers are over at once; signals come from `signals`.
Not covered: what only the orchestrator does (recovery, rates, deadlines, child runs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from agents.chat import Chat, Completion
from agents.events import (
    EffectDone,
    EffectFailed,
    EffectStarted,
    Event,
    RunStarted,
    StepDecided,
    WaitBegun,
    WaitEnded,
)
from agents.facts import Standing, Thresholds, facts_for
from agents.memories import Memories
from agents.packs import PACKS, Pack, PackParts, Packs
from agents.policy import Decision, Request
from agents.state import AgentState, RunState, apply
from agents.tools import TOOLS
from agents.turn import Acted, Child, Suspended, Turn
from agents.waits import Came
from agents.workflows.prompts import Message
from cluster.errors import Conflict, InvalidInput, NotFound, Unavailable
from cluster.ids import Clock, SystemClock
from cluster.settings import infra_path
from memory.provenance import require_entry
from memory.records import Hit, Query, Record

_POLICY: Final = "support.cedar"
_THRESHOLDS: Final = Thresholds(0.7, 0.5)


@dataclass
class Script:
    """`agents.chat.Chat` that gives these answers, the last one again and again; an exception among
    them is raised. `asked` keeps the messages of every call."""

    answers: list[str | Exception]
    asked: list[list[Message]] = field(default_factory=list)

    async def complete(self, model: str, messages: Sequence[Message], **_: Any) -> Completion:
        """The next answer; Unavailable without any."""
        self.asked.append(list(messages))
        if not self.answers:
            raise Unavailable(f"model {model}", "the rehearsal has no answer")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, model, "rehearsal", 0, 0, 0.0, 0.0)


@dataclass
class Remembered:
    """What is recalled, whatever is asked, and what was to be remembered."""

    hits: list[Hit] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    async def recall(self, query: Query) -> list[Hit]:
        """The hits."""
        return self.hits[: query.k]

    async def remember(self, records: Sequence[Record], note: Any = None) -> int:
        """Keep them, as memory would: see `memory.provenance.require_entry`."""
        for record in records:
            require_entry(record, note is not None)
        self.records += records
        return len(records)


class Rehearsal:
    """`agents.turn.Office` over one run after the other. `desk` is the pack's; `events` are those
    of the run, `asked` the tools that it wanted, in order."""

    def __init__(
        self, pack: Pack, folder: Path, *, answers: Sequence[str | Exception] = (),
        says: Mapping[str, bool] | None = None, signals: Mapping[str, Any] | None = None,
        autonomy: int = 2, clock: Clock | None = None, chat: Chat | None = None,
    ) -> None:  # fmt: skip
        """`folder` is empty, or another rehearsal's. `chat` takes the place of the script."""
        self._clock = clock or SystemClock()
        self._packs = Packs([pack])
        self._pack = pack
        self._policy = self._packs.policy(infra_path("policy", _POLICY))
        self._standing = Standing(autonomy=autonomy)
        self._says, self._signals = dict(says or {}), dict(signals or {})
        self.desk: Any = pack.desk(folder / PACKS / pack.name, self._clock)
        self.chat, self.memory = Script(list(answers)), Remembered()
        memory = cast(Memories, self.memory)
        self.parts = PackParts(chat or self.chat, memory, "planner", "routine", 5.0, self._clock)
        self.runs = 0
        self.events: list[Event] = []
        self.asked: list[str] = []
        self.state = RunState("run_0")

    async def run(self, given: Mapping[str, Any]) -> RunState:
        """Begin a run and work it until it ends or waits. InvalidInput for what the pack does not
        take."""
        asked = self._pack.read(given)
        self.runs += 1
        self.state, self.events, self.asked = RunState(f"run_{self.runs}"), [], []
        agent = f"{self._pack.name}/{asked.get('subject', '')}"
        begun = RunStarted(
            workflow=self._pack.name, agent=agent, input={**asked, "tenant": "default"}
        )
        self._add(begun)
        return await self.resume()

    async def resume(self) -> RunState:
        """Work the run on, as after a crash."""
        agent = AgentState(self.state.agent)
        turn = Turn(self.state, self.state.epoch, agent, self, self._clock)
        try:
            await self._pack.worked(turn, self.parts)
        except Suspended:
            pass
        return self.state

    @property
    def done(self) -> list[str]:
        """The writes that were done, in order, by the steps' tools."""
        decided = self.state.decisions
        return [
            decided[step].tool for step in self.state.receipts
            if TOOLS[decided[step].tool].effect == "write"
        ]  # fmt: skip

    # --- agents.turn.Office

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        """See `agents.turn.Office`."""
        if self.state.ended is not None:
            raise Conflict(run_id, "it has ended")
        for payload in payloads:
            self._add(payload)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        """See `agents.turn.Office`."""
        known = self.state.decisions.get(step)
        if known is not None and (known.tool, known.args) != (tool, args):
            raise Conflict(f"run {run_id}", f"step {step} was {known.tool}, now it is {tool}")
        if step in self.state.receipts:
            return Acted(_told(known), receipt=self.state.receipts[step])
        if step in self.state.refusals:
            refused = self.state.refusals[step]
            return Acted(_told(known), refusal=(refused.code, refused.reason))
        self.asked.append(tool)
        decision = self._decided(tool, args)
        taken = StepDecided(step=step, tool=tool, args=args, **vars(decision))
        await self.append(run_id, epoch, [taken])
        if not decision.allows:
            return Acted(decision, pending=decision.answer in ("ask", "wait"))
        return await self._done(run_id, epoch, step, tool, {**args, **decision.changed}, decision)

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        """See `agents.turn.Office`. A timer is over; a signal comes if the rehearsal has it."""
        await self.append(run_id, epoch, [wait])
        sent = wait.signal in self._signals
        if wait.awaited != "timer" and not sent:
            return None
        value = {"value": self._signals[wait.signal], "by": "rehearsal"} if sent else None
        await self.append(run_id, epoch, [WaitEnded(step=wait.step, value=value)])
        return Came(value)

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        """See `agents.turn.Office`; nobody works them."""
        return [f"{run_id}/{step}/{i}" for i in range(len(children))]

    # --- inside

    def _decided(self, tool: str, args: dict[str, Any]) -> Decision:
        run = self.state
        agent = AgentState(run.agent)
        facts = facts_for(tool, args, run, agent, _THRESHOLDS, self._standing)
        facts |= self._packs.facts(tool, args, run, self._standing)
        request = Request(tool, run.subject, facts, run.workflow)
        settled: tuple[str, ...] = ()
        decision = self._policy.decide(request)
        said = self._says.get(tool.partition(".")[2])
        while decision.answer == "ask" and said:
            settled = (*settled, *decision.rules)
            decision = self._policy.decide(request, settled)
        if decision.answer == "ask" and said is False:
            return replace(decision, answer="deny", reason=f"{decision.reason}; a person said no")
        return decision

    async def _done(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any],
        decision: Decision,
    ) -> Acted:  # fmt: skip
        key = f"{run_id}/{step}"
        begun = EffectStarted(step=step, tool=tool, key=key, args=args)
        await self.append(run_id, epoch, [begun])
        name = tool.partition(".")[2]
        try:
            done = self.desk.find(key) or self.desk.perform(name, key, self.state.subject, args)
        except (NotFound, Conflict, InvalidInput) as error:
            failed = EffectFailed(step=step, key=key, code=error.code, reason=str(error))
            await self.append(run_id, epoch, [failed])
            return Acted(decision, refusal=(error.code, str(error)))
        receipt = {"kind": name, **done}
        label = str(TOOLS[tool].returns)
        ended = EffectDone(step=step, key=key, receipt=receipt, label=label)
        await self.append(run_id, epoch, [ended])
        return Acted(decision, receipt=receipt)

    def _add(self, payload: Any) -> None:
        # Through JSON, as a journal would keep it.
        copy = type(payload).model_validate_json(payload.model_dump_json())
        event = Event(
            run_id=self.state.run_id, seq=self.state.seq + 1, epoch=self.state.epoch,
            at=self._clock.now(), hash="0" * 64, payload=copy,
        )  # fmt: skip
        self.events.append(event)
        self.state = apply(self.state, event)


def _told(known: StepDecided | None) -> Decision:
    assert known is not None
    return Decision(known.answer, known.rule, known.reason, known.changed)
