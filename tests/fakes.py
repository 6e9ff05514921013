"""Stand-ins for what a test must not need: models, memory, time, chance, other processes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agents.chat import Completion
from agents.connector import Connector
from agents.events import (
    EffectDone,
    EffectFailed,
    EffectStarted,
    Event,
    RunStarted,
    StepDecided,
    WaitBegun,
)
from agents.facts import Standing, Thresholds, facts_for
from agents.guarding import KEYS, guard
from agents.intent_keys import ensure
from agents.policy import Decision, Policy, Request
from agents.state import AgentState, RunState, apply
from agents.tools import TOOLS
from agents.turn import Acted, Child, Turn
from agents.waits import Came
from agents.workflows.prompts import Message
from cluster.errors import Conflict, InvalidInput, NotFound, StaleEpoch
from cluster.settings import INFRA, SupportSection
from memory.log import Note
from memory.provenance import require_entry
from memory.records import Hit, Query, Record

DESK = INFRA / "support"
POLICY = INFRA / "policy" / "support.cedar"
TRUSTED = Standing(autonomy=2)
THRESHOLDS = Thresholds(min_confidence=0.7, max_out_of_scope=0.5)


class FakeClock:
    """Stands still until it is told to `step`."""

    def __init__(self, at: float = 1_795_000_000.0) -> None:
        self._at = at

    def now(self) -> float:
        return self._at

    def monotonic(self) -> float:
        return self._at

    def step(self, seconds: float) -> None:
        self._at += seconds


class CountingIds:
    """run_1, run_2, ..."""

    def __init__(self) -> None:
        self._last = 0

    def new(self, kind: str) -> str:
        self._last += 1
        return f"{kind}_{self._last}"


@dataclass
class ScriptedChat:
    """Answers by model, in the order of the script; the last answer stays. An exception in a
    script is raised. `asked` keeps (model, messages) of every call."""

    scripts: dict[str, list[str | Exception]]
    asked: list[tuple[str, list[Message]]] = field(default_factory=list)

    async def complete(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        max_tokens: int,
        timeout_s: float,
        request_id: str,
        seed: int = 0,
        temperature: float = 0.0,
        language: str = "",
    ) -> Completion:
        self.asked.append((model, list(messages)))
        script = self.scripts[model]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, model, f"named {model}", 100, 10, 0.001, 0.25)

    def calls(self, model: str) -> int:
        return sum(m == model for m, _ in self.asked)


@dataclass
class ScriptedClassifier:
    """Gives the same verdict on every text; `seen` keeps the texts."""

    intent: str = "order_status"
    confidence: float = 0.95
    out_of_scope: float = 0.02
    gate: bool = True
    seen: list[str] = field(default_factory=list)
    drifted: float = 0.0

    async def drift(self, opened: str, text: str) -> float:
        return self.drifted

    async def classify(self, text: str) -> dict[str, Any]:
        self.seen.append(text)
        return {
            "intent": self.intent, "confidence": self.confidence, "gate": self.gate,
            "out_of_scope": self.out_of_scope, "why": f"{self.intent} {self.confidence:.2f}",
        }  # fmt: skip


@dataclass
class ListRecaller:
    """Recalls the given (source, text) pairs, whatever is asked."""

    passages: list[tuple[str, str]] = field(default_factory=list)
    asked: int = 0
    told: list[Record] = field(default_factory=list)

    async def recall(self, query: Query) -> list[Hit]:
        self.asked += 1
        records = [
            Record(tenant=query.tenant, kind="policy", source=source, text=words, event_at=0.0)
            for source, words in self.passages[: query.k]
        ]
        return [Hit(record, 0.8, "scripted") for record in records]

    async def remember(self, records: Sequence[Record], note: Note | None = None) -> int:
        for record in records:
            require_entry(record, note is not None)
        new = [record for record in records if record not in self.told]
        self.told += new
        return len(new)


def ticket(number: str) -> dict[str, str]:
    """One of the shipped desk's tickets."""
    for line in (DESK / "tickets.jsonl").read_text("utf-8").splitlines():
        found: dict[str, str] = json.loads(line)
        if found["id"] == number:
            return found
    raise NotFound("ticket", number)


def connector(folder: Path) -> Connector:
    """The real connector on a desk in `folder`, seeded with the shipped shop."""
    ensure(folder / KEYS)
    return Connector(folder / "desk.db", DESK, partial(guard, folder))


def plan_text(*steps: dict[str, str]) -> str:
    return json.dumps({"steps": steps}, separators=(",", ":"))


def support_section(**changes: Any) -> SupportSection:
    return SupportSection(**changes)


class Office:
    """`agents.turn.Office` in this process, over one run, a real policy and a real connector.

    It asks nobody, and keeps the orchestrator's order (decide, start, do, receipt) without journal
    and Ray.
    """

    def __init__(
        self, connector: Connector, ticket: str, agent: AgentState | None = None,
        workflow: str = "support", message: str = "",
    ) -> None:  # fmt: skip
        self.connector = connector
        self.policy = Policy.load(POLICY)
        self.agent = agent or AgentState("support/C")
        self.events: list[Event] = []
        self.state = RunState("run_1")
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        given = {"ticket": ticket, "tenant": "default", "head": "support"}
        given |= {"message": message} if message else {}
        self._add(RunStarted(workflow=workflow, agent=self.agent.agent, input=given))

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        if epoch != self.state.epoch:
            raise StaleEpoch(run_id, "overtaken")
        if self.state.ended is not None:
            raise Conflict(run_id, "it has ended")
        for payload in payloads:
            self._add(payload)

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        self.asked.append((step, tool, args))
        if step in self.state.decisions:
            return self._again(step, tool, args)
        facts = facts_for(tool, args, self.state, self.agent, THRESHOLDS, TRUSTED)
        ticket = str(self.state.input["ticket"])
        decision = self.policy.decide(Request(tool, ticket, facts, self.state.workflow))
        taken = StepDecided(step=step, tool=tool, args=args, **vars(decision))
        await self.append(run_id, epoch, [taken])
        if not decision.allows:
            return Acted(decision)
        args = {**args, **decision.changed}
        begun = EffectStarted(step=step, tool=tool, key=f"{run_id}/{step}", args=args)
        await self.append(run_id, epoch, [begun])
        try:
            receipt = self.connector.perform(tool, begun.key, ticket, args)
        except (NotFound, Conflict, InvalidInput) as error:
            failed = EffectFailed(step=step, key=begun.key, code=error.code, reason=str(error))
            await self.append(run_id, epoch, [failed])
            return Acted(decision, refusal=(error.code, str(error)))
        label = str(TOOLS[tool].returns)
        done = EffectDone(step=step, key=begun.key, receipt=receipt, label=label)
        await self.append(run_id, epoch, [done])
        return Acted(decision, receipt=receipt)

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        """Nothing ever comes here."""
        await self.append(run_id, epoch, [wait])
        return None

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        return [f"{run_id}/{step}/{i}" for i in range(len(children))]

    def turn(self) -> Turn:
        """A turn on the run as it stands now."""
        return Turn(self.state, self.state.epoch, self.agent, self, FakeClock())

    def tools(self) -> list[str]:
        """The tools that were asked for, in order."""
        return [tool for _, tool, _ in self.asked]

    def answers(self) -> dict[str, str]:
        """Policy's answer by tool, the last one where a tool was asked for twice."""
        return {d.tool: d.answer for d in self.state.decisions.values()}

    def _again(self, step: str, tool: str, args: dict[str, Any]) -> Acted:
        taken = self.state.decisions[step]
        if (taken.tool, taken.args) != (tool, args):
            raise Conflict(self.state.run_id, f"step {step} is another one now")
        decision = Decision(taken.answer, taken.rule, taken.reason)
        refused = self.state.refusals.get(step)
        return Acted(
            decision,
            receipt=self.state.receipts.get(step),
            refusal=None if refused is None else (refused.code, refused.reason),
        )

    def _add(self, payload: Any) -> None:
        # Through JSON, as a journal would keep it.
        copy = type(payload).model_validate_json(payload.model_dump_json())
        event = Event(
            run_id=self.state.run_id, seq=self.state.seq + 1, epoch=self.state.epoch,
            at=1_795_000_000.0, hash="0" * 64, payload=copy,
        )  # fmt: skip
        self.events.append(event)
        self.state = apply(self.state, event)
