"""From a run's events to the chats that its models had, for any workflow.

The workflow itself is worked again: phases, receipts and decisions come from the journal, nothing
is done and no model is asked. What it sends to its chat on the way is what the models were sent;
the answer is the journaled one. So no prompt is built here a second time, and a workflow that has
changed since is noticed: a step, an argument or an outcome that is not the journaled one leaves
the chat out.

A phase that asked a model has `usage` in its result, and its answer under its own name or under
`text`; `findings` in it mean that the workflow refused the answer. All attempts of a phase are
asked with the same messages.

Covered: every phase that asked a model, with what the agent knew of its earlier runs when the
phase was done. Not covered: answers that the workflow refused (the journal holds their price
only); white space and repeated steps of a plan, which is journaled in its parsed form; a prompt
that this version words otherwise: then the chat is the one that this version would have.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents.chat import Chat, Completion
from agents.control import GIVE_UP
from agents.corrections import as_draft
from agents.events import PhaseDone, RunEnded, WaitBegun
from agents.journal import Journal
from agents.policy import Decision
from agents.references import references_in
from agents.state import AgentState, RunState, fold
from agents.turn import Acted, Child, Turn
from agents.waits import Came
from agents.workflows.prompts import Message
from cluster.errors import Conflict, MainspringError, NotFound
from cluster.ids import SystemClock

Workflow = Callable[[Turn, Chat], Awaitable[None]]
"""A workflow with everything but its chat filled in; its other parts are never asked."""

DRAFT: Final = "draft"

NOT_ASKED: Final = "no model was asked"
REFUSED: Final = "the workflow refused the answer"
NOT_SENT: Final = "the draft was not sent"
CHANGED: Final = "the workflow has changed since"
HISTORY_UNSURE: Final = "an earlier run of the agent was given up"
NO_DRAFT: Final = "a correction, but the run has no draft"
UNGROUNDED: Final = "the correction says what the evidence does not"


@dataclass(frozen=True)
class Sample:
    """One chat: `task` is the phase that asked, `model` who answered. Messages and answer hold
    references, never the values behind them."""

    task: str
    model: str
    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Transcript:
    """A run's chats in order, and why others of its chats are not among them. `run` is its state,
    `hash` the last link of its chain."""

    run: RunState
    hash: str
    samples: tuple[Sample, ...] = ()
    left_out: tuple[str, ...] = ()


async def transcribe(
    journal: Journal, run_id: str, workflow: Workflow, correction: str = ""
) -> Transcript:
    """The chats of an ended run. `correction` is what the draft should have said, with values or
    references; it takes the place of the draft's answer where the evidence holds what it says.

    NotFound when there is no such run, Conflict when it has not ended, DataError when its hash
    chain, or that of an earlier run which the agent knew of, is broken.
    """
    events = journal.verified(run_id)
    run = fold(run_id, events)
    if run.ended is None:
        raise Conflict(f"run {run_id}", "it has not ended")
    asked = [
        (e.at, e.payload)
        for e in events
        if isinstance(e.payload, PhaseDone) and "usage" in e.payload.result
    ]
    found: list[Sample | str] = []
    if not asked:
        found.append(NOT_ASKED)
    elif correction and DRAFT not in run.phases:
        asked, found = [], [NO_DRAFT]
    for at, done in asked:
        agent = _agent_before(journal, run, at)
        if agent is None:
            found.append(HISTORY_UNSURE)
            continue
        text = correction if done.phase == DRAFT else ""
        found.append(await _sample(_Replay(run, agent, workflow, done), text))
    return Transcript(
        run,
        events[-1].hash,
        tuple(f for f in found if isinstance(f, Sample)),
        tuple(f for f in found if isinstance(f, str)),
    )


async def _sample(replay: "_Replay", correction: str) -> Sample | str:
    answer, why_not = replay.answer, _refusal(replay)
    if why_not and not correction:
        return why_not
    try:
        played = await replay.play(answer)
        if correction:
            answer = await _corrected(replay, played, correction)
    except (MainspringError, LookupError):
        # Another version's steps, or a result that lacks what this version reads.
        return CHANGED
    if not correction and (_answer(replay.done.phase, played.result) != answer or played.refused):
        return CHANGED
    if not answer:
        return UNGROUNDED
    return Sample(replay.done.phase, replay.model, tuple(played.messages), answer)


def _refusal(replay: "_Replay") -> str:
    if not replay.answer or replay.done.result.get("findings"):
        return REFUSED
    sent = replay.run.ended is not None and replay.run.ended.decision == "replied"
    return NOT_SENT if replay.done.phase == DRAFT and not sent else ""


async def _corrected(replay: "_Replay", played: "_Played", correction: str) -> str:
    """The correction as the model should have written it, or "" where that can't be."""
    known = {r for m in played.messages for r in references_in(m["content"])}
    values = await _values(replay, sorted(known))
    draft = as_draft(correction, replay.answer, values)
    if references_in(draft) - known:
        return ""
    judged = await replay.play(draft, to_its_end=False)
    return "" if judged.refused else draft


async def _values(replay: "_Replay", known: Sequence[str]) -> Mapping[str, str]:
    """What the workflow puts in place of each reference: it is given them as a draft, and tells
    when it comes to say that draft. What is personal is not the workflow's to put back."""
    told = (await replay.play("\n".join(known), to_its_end=False)).said.split("\n")
    return dict(zip(known, told if len(told) == len(known) else known, strict=True))


@dataclass(frozen=True)
class _Replay:
    """A phase of a run that can be worked again, with another answer if need be."""

    run: RunState
    agent: AgentState
    workflow: Workflow
    done: PhaseDone

    @property
    def answer(self) -> str:
        return _answer(self.done.phase, self.done.result)

    @property
    def model(self) -> str:
        return str(self.done.result["usage"][-1]["model"])

    async def play(self, answer: str, *, to_its_end: bool = True) -> "_Played":
        """Work the run again with `answer` as this phase's. Conflict where it goes another way
        than the journal says; not `to_its_end`: only up to what follows from the answer."""
        played = _Played(self, answer, to_its_end)
        others = {k: v for k, v in self.run.phases.items() if k != self.done.phase}
        run = replace(self.run, phases=others)
        try:
            await self.workflow(Turn(run, run.epoch, self.agent, played, SystemClock()), played)
        except _Said:
            return played
        if not played.messages or (to_its_end and not played.ended):
            raise Conflict(f"run {run.run_id}", f"{self.done.phase} was not asked for again")
        return played


class _Said(Exception):
    """The workflow has come to act on the answer that it was given."""


@dataclass
class _Played:
    """`agents.turn.Office` and `agents.chat.Chat` of a run that is worked again."""

    replay: _Replay
    given: str
    to_its_end: bool
    messages: list[Message] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    ended: bool = False

    @property
    def refused(self) -> bool:
        return bool(self.result.get("findings"))

    async def complete(
        self, model: str, messages: Sequence[Message], **_options: Any
    ) -> Completion:
        self.messages = self.messages or list(messages)
        return Completion(self.given, self.replay.model, "", 0, 0, 0.0, 0.0)

    async def append(self, run_id: str, epoch: int, payloads: list[Any]) -> None:
        for payload in payloads:
            if isinstance(payload, PhaseDone) and payload.phase == self.replay.done.phase:
                self.result = payload.result
            elif isinstance(payload, PhaseDone) and self.to_its_end:
                raise Conflict(f"run {run_id}", f"phase {payload.phase} was not done")
            elif isinstance(payload, RunEnded):
                self._end(payload)

    async def wait(self, run_id: str, epoch: int, wait: WaitBegun) -> Came | None:
        raise NotFound("wait", wait.step)

    async def spawn(
        self, run_id: str, epoch: int, step: str, children: Sequence[Child]
    ) -> list[str]:
        raise NotFound("step", step)

    def _end(self, now: RunEnded) -> None:
        then = self.replay.run.ended
        if then is None or now.decision != then.decision:
            raise Conflict(self.replay.run.run_id, f"it would be {now.decision} now")
        self.ended = True

    async def act(
        self, run_id: str, epoch: int, step: str, tool: str, args: dict[str, Any]
    ) -> Acted:
        if self.result and not self.to_its_end:
            self.said = str(args.get("text", ""))
            raise _Said
        run = self.replay.run
        decided = run.decisions.get(step)
        if decided is None:
            raise NotFound("step", step)
        if (decided.tool, decided.args) != (tool, args):
            raise Conflict(f"run {run_id}", f"step {step} is asked for otherwise now")
        refused = run.refusals.get(step)
        return Acted(
            Decision(decided.answer, decided.rule, decided.reason),
            receipt=run.receipts.get(step),
            refusal=None if refused is None else (refused.code, refused.reason),
        )


def _answer(phase: str, result: Mapping[str, Any]) -> str:
    return str(result.get(phase, result.get("text", "")))


def _agent_before(journal: Journal, run: RunState, at: float) -> AgentState | None:
    """What the agent knew at that time: no two turns of an agent are worked at once, so
    it is what had ended before. None where a run was given up by then: that happens outside of
    the agent's turns, and the agent may have known of it or not."""
    state = AgentState(run.agent)
    for row in journal.runs(str(run.input.get("tenant", "")), "ended", run.agent):
        earlier = fold(row.run_id, journal.verified(row.run_id))
        if earlier.ended_at is None or earlier.ended_at >= at:
            continue
        if GIVE_UP in earlier.decisions:
            return None
        state = state.after(earlier)
    return state
