"""Agents answer better on the second day than on the first, and it is memory that makes them.

Two scripted days each for support and for a writer of posts, over the real orchestrator and a real
memory with MiniLM and Milvus Lite; in between everything is stopped and started. The models are
scripted and do only what their prompt allows: they know nothing by themselves. The control lives
the same two days without memory.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from agents.chat import Completion
from agents.journal import Feedback
from agents.lessons import learning
from agents.specs import AgentSpec
from agents.state import RunState
from agents.workflows import conversation, support
from agents.workflows.answering import Parts
from agents.workflows.prompts import Message
from cluster.settings import INFRA, AgentsSection, MemorySection
from memory.embed import MiniLM
from tests.fakes import ScriptedClassifier, support_section
from tests.memories import Desk
from tests.world import GOVERNED, World, connect

pytestmark = pytest.mark.enable_socket

_WORD: Final = re.compile(r"[a-z]{4,}")
_COMMON: Final = frozenset("your have does that this with from what they them order hello".split())

FIRST_DAY: Final = {
    "D-1": ("C-1001", "Do you offer gift wrapping for a birthday present?",
            "Gift wrapping for a birthday is available at checkout, free of charge."),
    "D-2": ("C-1002", "Can I collect my parcel at your warehouse myself?",
            "Our warehouse has no desk at which you collect a parcel yourself."),
    "D-3": ("C-1003", "Is the varnish of the children's stool free of solvents?",
            "The varnish of every children's stool is water based and free of solvents."),
    "D-4": ("C-1004", "Do you plant trees for the timber that you use?",
            "For the timber of our furniture we plant trees in Styria."),
}  # fmt: skip
SECOND_DAY: Final = {
    "E-1": ("C-1005", "Hello, could you do gift wrapping please? It is a birthday present."),
    "E-2": ("C-1006", "May I come to the warehouse and collect the parcel?"),
    "E-3": (
        "C-1007",
        "Our children chew on everything: are there solvents in the stool's varnish?",
    ),
    "E-4": ("C-1008", "Where does the timber come from, and do you plant trees for it?"),
}


def words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _COMMON


class Clerk:
    """Plans a reply, and writes the passage of its evidence that shares most words with the ticket:
    at least three, or it has no answer."""

    async def complete(self, model: str, messages: Sequence[Message], **_: Any) -> Completion:
        asked = messages[-1]["content"]
        said = '{"steps":[{"tool":"reply"}]}' if model == "planner" else self._draft(asked)
        return Completion(said, model, "named", 1, 1, 0.0, 0.0)

    def _draft(self, asked: str) -> str:
        ticket = words(asked.partition("</ticket>")[0])
        passages = re.findall(r"^(E\d+) (.+)$", asked, re.MULTILINE)
        shared = [(len(ticket & words(text)), id, text) for id, text in passages]
        most, id, text = max(shared, default=(0, "", ""))
        return f"({id}) {text.split('. ')[0]}" if most >= 3 else "NO_ANSWER"


class Writer:
    """Writes a post, and keeps each of the house's rules that stands somewhere in its prompt."""

    async def complete(self, model: str, messages: Sequence[Message], **_: Any) -> Completion:
        told = " ".join(message["content"] for message in messages)
        close = "." if "exclamation marks" in told else "!"
        wood = "Styrian oak" if "say Styrian oak" in told else "wood"
        sign = " #lumenandoak" if "hashtag #lumenandoak" in told else ""
        return Completion(f"New: our table of {wood}{close}{sign}", model, "", 1, 1, 0.0, 0.0)


def rules_kept(post: str) -> float:
    """The share of the house's three rules that a post keeps."""
    return ("!" not in post) / 3 + ("Styrian oak" in post) / 3 + ("#lumenandoak" in post) / 3


class House:
    """Both agents over one memory, which may be stopped and started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk = Desk(folder, MemorySection(), None, MiniLM())
        self.desk.clock.time = 1_795_000_000.0
        self._folder, self._monkeypatch = folder, monkeypatch
        self.world = self._opened()

    def _opened(self) -> World:
        parts = Parts(
            Clerk(), ScriptedClassifier("other"), self.desk.memory, support_section(), "planner",
            "routine", 5.0,
        )  # fmt: skip
        talk = partial(conversation.work, parts=self.desk.talk(Writer()))
        work = partial(support.work, parts=parts)
        world = World(self._folder, work, AgentsSection(**GOVERNED), conversation=talk)
        connect(self._monkeypatch, world)
        return world

    async def sleep(self) -> None:
        """The night: everything is stopped, and started a day later."""
        await self.world.stop()
        await self.desk.again()
        self.desk.clock.time += 86_400
        self.world = self._opened()

    async def tickets(self, asked: Mapping[str, tuple[str, ...]]) -> dict[str, RunState]:
        bodies = [
            {"id": id, "customer": row[0], "subject": "", "body": row[1], "received": "2026-11-20"}
            for id, row in asked.items()
        ]
        self.world.connector.open_tickets(bodies)
        runs = [await self.world.submit(id, id, f"support/{row[0]}") for id, row in asked.items()]
        return {str(s.input["ticket"]): s for s in await self.world.ended(*runs)}

    async def corrected(self, ended: dict[str, RunState]) -> None:
        """People write what should have been answered."""
        for id, state in ended.items():
            said = Feedback("corrected", "ann", text=f"Dear customer,\n{FIRST_DAY[id][2]}\nRegards")
            learned = learning(state, self.world.journal.judge(state.run_id, said))
            await self.desk.memory.remember(learned.remember, learned.note)

    async def say(self, text: str, agent: str) -> str:
        run = await self.world.orchestrator.message("default", agent, text, {"message": text})
        (state,) = await self.world.ended(run)
        assert state.ended is not None
        return str(state.ended.result["text"])

    async def posts(self, agent: str, things: Sequence[str]) -> float:
        """The share of rules kept in posts about these things."""
        briefs = [f"Write a post for our shop about the {thing}, please." for thing in things]
        return sum([rules_kept(await self.say(b, agent)) for b in briefs]) / len(things)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(tmp_path, monkeypatch)
    yield house
    await house.world.stop()
    await house.desk.memory.close()


@pytest.mark.parametrize(("remembers", "replied"), [(True, 4), (False, 0)])
async def test_support_answers_on_the_second_day_what_people_answered_on_the_first(
    house: House, remembers: bool, replied: int
) -> None:
    await house.desk.memory.ingest("default", str(INFRA / "support" / "policies"), "policy")
    first = await house.tickets(FIRST_DAY)
    assert [s.ended.decision for s in first.values() if s.ended] == ["escalated"] * 4
    if remembers:
        await house.corrected(first)
    await house.sleep()
    second = await house.tickets(SECOND_DAY)
    answers = {
        id: house.world.connector.sent(id)
        for id, s in second.items()
        if s.ended is not None and s.ended.decision == "replied"
    }
    assert len(answers) == replied
    if remembers:
        for (_, _, told), (_, answer) in zip(
            FIRST_DAY.values(), sorted(answers.items()), strict=True
        ):
            assert answer == told
    decided = await house.desk.memory.listed("default", kind="decision")
    assert len(decided) == 8  # every decided ticket, once


@pytest.mark.parametrize(("memory", "least", "most"), [("session", 0.75, 1.0), ("off", 0.0, 0.0)])
async def test_a_writer_keeps_on_the_second_day_the_rules_of_the_first(
    house: House, memory: Any, least: float, most: float
) -> None:
    spec = AgentSpec(id="writer", workflow="conversation", instructions="Write.", memory=memory)
    await house.world.orchestrator.define_agent("default", spec)
    assert await house.posts("writer", ["new table", "walnut bench"]) == 0.0
    for rule in (
        "Remember for every post about our shop: no exclamation marks.",
        "From now on say Styrian oak and not wood in a post for our shop.",
        "Please always end a post for our shop with the hashtag #lumenandoak.",
    ):
        await house.say(rule, "writer")
    for number in range(12):  # the rules leave the part of the talk that a prompt has room for
        await house.say(
            f"Minutes of meeting {number}: " + f"item {number} was discussed; " * 20, "writer"
        )
    await house.sleep()
    kept = await house.posts("writer", ["oak shelf", "new lamp", "garden chair", "round mirror"])
    assert least <= kept <= most
