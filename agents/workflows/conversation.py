"""A conversation: a message becomes an answer of the agent's model, which knows its instructions,
what was said before, and what memory has on it. It does nothing in the world and has no tools.

    recall -> answer -> remember -> promote what the user asks to keep -> end
                                \\-> over its budget: a background run sums it up

The conversation is one session, named by its agent; `input.subject` says whom it is about.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents.chat import Chat
from agents.memories import NOTICE, Memories, askable, remembered, storable
from agents.specs import AgentSpec
from agents.state import Turn as Earlier
from agents.taint import UNKNOWN, for_record
from agents.turn import Child, Turn
from agents.workflows.prompts import Message
from cluster.errors import InvalidInput, NotFound, Overloaded
from cluster.ids import Clock
from memory import conversations
from memory.records import Origin, Query, Record
from memory.summaries import POLICY, Policy, text_tokens
from memory.tiers import Ephemeral

COMPRESSION: Final = "compression"
MAX_ANSWER_TOKENS: Final = 512
MAX_PROMPT_CHARS: Final = 4_000
"""Of memory's words and what was said before, where the model has room for so much."""
MAX_MEMORY_CHARS: Final = 1_500
CONTEXT_TOKENS: Final = 4_096
_CHARS_A_TOKEN: Final = 2  # at least, with a small vocabulary
_SPARE_TOKENS: Final = 64
_RECALLED: Final = 8  # of notes and of messages half each, where there are enough
_LEAST_SIMILAR: Final = 0.2  # a note on how to work is not much like the work
_EVERY: Final = 8  # turns, between two looks at whether a conversation is to be summed up
_SUMMARIES: Final = 100
_IMPORTANCE: Final = {"user": 0.5, "agent": 0.3}  # what a model said matters less
PROMOTION: Final = "rule:asked-to-remember"
_ASKED: Final = re.compile(
    r"^\W*(?:(?:and|also|but|please|so|ok(?:ay)?|could you|can you)\W+)*"
    r"(?:remember|keep in mind|note|don't forget|do not forget|from now on|in (?:the )?future"
    r"|always|never)\b",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Parts:
    """What the workflow works with. `own` is the host's, for agents whose memory is ephemeral;
    `policy` says when a conversation is summed up; `context` holds the tokens that models read and
    write together, by id, where that is less than CONTEXT_TOKENS: "auto" is any of them."""

    chat: Chat
    memory: Memories
    own: Ephemeral
    clock: Clock
    timeout_s: float
    policy: Policy = POLICY
    context: Mapping[str, int] = field(default_factory=dict)

    def tokens_of(self, model: str) -> int:
        """The context of this model; of the smallest one for a name that is not among them."""
        smallest = min(self.context.values(), default=CONTEXT_TOKENS)
        return min(CONTEXT_TOKENS, self.context.get(model, smallest))


async def work(turn: Turn, parts: Parts) -> None:
    """Answer `turn`'s message. NotFound for an agent that is not registered."""
    if turn.spec is None:
        raise NotFound("agent", turn.run.agent)
    talk = _Talk(turn, turn.spec, parts)
    said = await turn.phase("answer", talk.answer)
    if turn.spec.memory != "off":
        await turn.phase("remember", lambda: talk.remember(said))
    if turn.spec.memory == "session" and talk.is_due(said["text"]):
        await _sum_up(turn)
    await turn.end("answered", "", said)


def asks_to_remember(text: str) -> bool:
    """The rule by which a message is promoted: its user asks that it be kept, or lays down what is
    always or never to be done."""
    return _ASKED.search(text) is not None


async def _sum_up(turn: Turn) -> None:
    asked = Child(COMPRESSION, {"session": turn.run.agent}, priority="background")
    try:
        await turn.begin(COMPRESSION, [asked])
    except Overloaded:
        return  # a later message asks again


class _Talk:
    """One message and what was said before it."""

    def __init__(self, turn: Turn, spec: AgentSpec, parts: Parts) -> None:
        self._run, self._spec, self._parts = turn.run, spec, parts
        self._earlier = turn.agent.turns
        self._message = _text("message", turn.run.input.get("message"))
        self._subject = _text("subject", turn.run.input.get("subject", ""))
        context = parts.tokens_of(spec.model)
        self._answer_tokens = min(MAX_ANSWER_TOKENS, context // 4)
        room = _CHARS_A_TOKEN * (context - self._answer_tokens - _SPARE_TOKENS)
        room -= len(spec.instructions) + len(NOTICE) + len(self._message)
        self._room = max(0, min(MAX_PROMPT_CHARS, room))
        self._memory_room = min(MAX_MEMORY_CHARS, self._room // 2)

    async def answer(self) -> dict[str, Any]:
        """What the model says, and the ids of what memory told it."""
        told = await self._told()
        block = remembered(told, self._parts.clock.now(), self._memory_room)
        said = await self._parts.chat.complete(
            self._spec.model, self._messages(block), max_tokens=self._answer_tokens,
            timeout_s=self._parts.timeout_s, request_id=self._run.run_id,
        )  # fmt: skip
        return {
            "text": said.text, "truncated": said.truncated, "usage": [said.usage()],
            "recalled": [record.id for record in told] if block else [],
        }  # fmt: skip

    async def remember(self, said: dict[str, Any]) -> dict[str, Any]:
        """Keep message and answer as records of the session, once however often it is done."""
        message = self._record(1, "user", self._message)
        if message is None:
            return {"remembered": 0}
        if self._spec.memory == "ephemeral":
            reply = self._record(2, "agent", said["text"])
            return {"remembered": await self._parts.own.remember(_there(message, reply))}
        kept = await self._keep(message)
        if kept and asks_to_remember(message.text):
            why = f"run {self._run.run_id}: the user asked to remember it"
            await self._parts.memory.promote(message.tenant, message.id, PROMOTION, why)
        parents = (*([message.id] if kept else []), *said["recalled"])
        reply = self._record(2, "agent", said["text"], tuple(dict.fromkeys(parents)))
        try:
            added = await self._parts.memory.remember(_there(reply))
        except InvalidInput as error:
            # what it rests on was forgotten meanwhile, and so is it
            return {"remembered": int(kept), "left_out": str(error)}
        return {"remembered": kept + added}

    def is_due(self, answer: str) -> bool:
        """Whether it is time to see if the conversation is over its budget: by the size of the
        turns that are held, and not at every message."""
        turns = len(self._earlier) + 1
        held = [t.message + t.reply for t in self._earlier if t.message]
        sizes = [text_tokens(text) for text in (*held, self._message + answer)]
        over = turns * sum(sizes) / len(sizes) > self._parts.policy.budget_tokens
        return over and turns % _EVERY == 0

    async def _keep(self, message: Record) -> bool:
        """Whether the message is kept; what memory has just told the session is not."""
        if await self._parts.memory.remember([message]):
            return True
        try:
            await self._parts.memory.get(message.tenant, message.id)
        except NotFound:
            return False
        return True

    async def _told(self) -> list[Record]:
        """What stands for the conversation's past, then what bears on the message."""
        question = askable(self._message)
        if self._spec.memory == "off" or not question:
            return []
        query = Query(
            tenant=self._run.tenant, text=question, k=_RECALLED, subject=self._subject,
            agent=self._run.agent, session=self._run.agent, without=self._shown(),
            min_score=_LEAST_SIMILAR,
            tiers=("long_term",) if self._spec.memory == "ephemeral" else (),
        )  # fmt: skip
        hits = await self._parts.memory.recall(query)
        if self._spec.memory == "ephemeral":
            hits = [*hits, *await self._parts.own.recall(replace(query, tiers=()))]
        summaries = await self._summaries() if self._is_long() else []
        best = sorted(hits, key=lambda hit: -hit.score)[:_RECALLED]
        found = [*summaries, *(hit.record for hit in best)]
        return list({record.id: record for record in found}.values())

    async def _summaries(self) -> list[Record]:
        """Of a session, those that no other one holds."""
        if self._spec.memory == "ephemeral":
            return []
        agent = self._run.agent
        listed = await self._parts.memory.listed(
            self._run.tenant, "", _SUMMARIES, session=agent, kind=conversations.KIND
        )
        return conversations.current(listed)

    def _record(
        self, number: int, who: str, text: str, parents: tuple[str, ...] = ()
    ) -> Record | None:
        kept = storable(text)
        if not kept:
            return None
        model = who == "agent"
        kind = "note" if not model and asks_to_remember(kept) else "message"
        return Record(
            self._run.tenant, kind, _source(self._run.agent, len(self._earlier), number), kept,
            event_at=self._run.started_at, meta={"who": who}, tier="session",
            importance=_IMPORTANCE[who],
            subject=self._subject, agent=self._run.agent, session=self._run.agent, parents=parents,
            labels=for_record(UNKNOWN),
            origin=Origin(
                "model" if model else "user", self._spec.model if model else "", self._run.run_id
            ),
        )  # fmt: skip

    def _messages(self, block: str) -> list[Message]:
        """The prompt: instructions, as much of what was said before as has room beside memory's
        words, the message."""
        history: list[Message] = []
        for past in reversed(self._within(self._room - len(block))):
            history += [
                {"role": "user", "content": past.message},
                {"role": "assistant", "content": past.reply},
            ]
        rules = "\n\n".join(filter(None, [self._spec.instructions, NOTICE if block else ""]))
        system: list[Message] = [{"role": "system", "content": rules}] if rules else []
        asked = f"{block}\n\n{self._message}" if block else self._message
        return [*system, *history, {"role": "user", "content": asked}]

    def _within(self, room: int) -> list[Earlier]:
        """The newest turns that have room, the newest first."""
        kept: list[Earlier] = []
        for past in reversed(self._earlier):
            room -= len(past.message) + len(past.reply)
            if room < 0:
                break
            if past.message and past.reply:
                kept.append(past)
        return kept

    def _shown(self) -> frozenset[str]:
        """Sources of the records whose words stand in the prompt anyway."""
        shown = {past.run_id for past in self._within(self._room - self._memory_room)}
        return frozenset(
            _source(self._run.agent, place, number)
            for place, past in enumerate(self._earlier)
            if past.run_id in shown
            for number in (1, 2)
        )

    def _is_long(self) -> bool:
        """Whether some of what was said has no room in the prompt."""
        return len(self._within(self._room)) < len(self._earlier)


def _source(agent: str, turns: int, number: int) -> str:
    """Messages and answers are numbered parts of one document: neighbours are found together."""
    return f"conversation:{agent}#{2 * turns + number}"


def _there(*records: Record | None) -> Sequence[Record]:
    return [record for record in records if record is not None]


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise InvalidInput(f"input.{name}", given, "a text")
    return given
