"""A thread is answered over days: what a plan may name, what was said before, mere thanks."""

from pathlib import Path

import pytest

from agents.connector import Connector
from agents.workflows.answering import Parts
from agents.workflows.cases import only_thanks
from agents.workflows.support import work
from memory.embed import MiniLM
from serve.encoders import apart
from tests.fakes import (
    ListRecaller,
    Office,
    ScriptedChat,
    ScriptedClassifier,
    connector,
    plan_text,
    support_section,
    ticket,
)
from tests.traced import LOOK, REFUND

T = "T-006"  # Priya wants 18.50 EUR back for LO-48055
REPLY = {"tool": "reply"}
DRAFT = "(E1) Your order [ORDER_1] is delivered."


class Thread:
    """A ticket on the real desk, and a run for what its customer said last."""

    def __init__(self, folder: Path) -> None:
        self.desk: Connector = connector(folder)
        self.desk.open_tickets([ticket(T)])
        self.chat = ScriptedChat({"planner": [plan_text(LOOK, REPLY)], "routine": [DRAFT]})
        self.classifier = ScriptedClassifier()
        self.office = Office(self.desk, T)

    async def says(self, text: str, id: str = "M-1") -> tuple[str, str]:
        """How the run for this message ends."""
        self.desk.said(T, id, text)
        return await self.worked(id)

    async def worked(self, message: str) -> tuple[str, str]:
        self.office = Office(self.desk, T, message=message)
        parts = Parts(
            self.chat, self.classifier, ListRecaller([]), support_section(), "planner", "routine",
            5.0,
        )  # fmt: skip
        await work(self.office.turn(), parts)
        ended = self.office.state.ended
        assert ended is not None
        return ended.decision, ended.reason

    def told(self) -> str:
        return " ".join(m["content"] for _, messages in self.chat.asked for m in messages)


@pytest.fixture
def thread(tmp_path: Path) -> Thread:
    made = Thread(tmp_path)
    made.desk._desk.reply("first", T, "We have looked into LO-48055.")
    return made


async def test_the_order_of_the_thread_is_the_one_that_a_short_word_is_about(
    thread: Thread,
) -> None:
    assert (await thread.says("When was it delivered?"))[0] == "replied"
    assert thread.office.tools() == ["read_ticket", "lookup_order", "reply"]
    assert "It is about order [ORDER_1]." in thread.told()
    assert thread.desk.sent(T) == "Your order LO-48055 is delivered."
    assert [m["author"] for m in thread.desk.thread(T)["messages"]] == [
        "agent",
        "customer",
        "agent",
    ]


async def test_what_was_answered_before_is_evidence(thread: Thread) -> None:
    await thread.says("You have looked into what exactly?")
    assert "E2 We have looked into [ORDER_1]." in thread.told()


async def test_an_amount_named_days_ago_gives_nothing_back_again(thread: Thread) -> None:
    thread.classifier.intent = "damaged_item"
    thread.chat.scripts["planner"] = [plan_text(LOOK, REFUND, REPLY)] * 2
    decision, _ = await thread.says("Any news on it?")
    assert decision == "escalated"  # the plan names an amount that this message does not
    assert thread.desk.counts()["refunded_cents"] == 0


@pytest.mark.parametrize(("drifted", "answer"), [(0.8, "allow"), (0.81, "ask")])
async def test_money_is_asked_about_where_the_thread_has_moved_away(
    thread: Thread, drifted: float, answer: str
) -> None:
    thread.classifier.intent, thread.classifier.drifted = "damaged_item", drifted
    thread.chat.scripts["planner"] = [plan_text(LOOK, REFUND, REPLY)]
    await thread.says("Give me 18.50 EUR back for LO-48055, it is broken.")
    assert thread.office.answers()["refund"] == answer
    rule = next(d.rule for d in thread.office.state.decisions.values() if d.tool == "refund")
    assert (rule == "refund-drifted") is (answer == "ask")


def test_how_far_a_thread_has_moved_is_told_by_meaning() -> None:
    opened = "My new lamp [ORDER_1] came with a broken shade, I want my money back."
    near = "So when do I get the money back for the broken lamp?"
    far = "Ignore that. Write me a poem about the stock market in Japan."
    vectors = MiniLM().encode([opened, near, far])
    assert apart(vectors[0], vectors[1]) < 0.6 < 0.8 < apart(vectors[0], vectors[2])
    assert apart(vectors[0], vectors[0]) == pytest.approx(0, abs=1e-6)
    assert apart(vectors[0], 0 * vectors[0]) == 1


async def test_a_word_that_says_little_is_read_with_the_one_before(thread: Thread) -> None:
    sure, thread.classifier.intent = thread.classifier.confidence, "order_status"
    seen: list[str] = []

    async def classify(text: str) -> dict[str, object]:
        seen.append(text)
        found = 0.2 if len(seen) == 1 else sure
        return {"intent": "order_status", "confidence": found, "out_of_scope": 0.0, "gate": True}

    thread.classifier.classify = classify  # type: ignore[assignment]
    assert (await thread.says("And?"))[0] == "replied"
    assert len(seen) == 2 and seen[1].endswith("And?\nIt is about order [ORDER_1].")


async def test_thanks_alone_closes_the_ticket_and_asks_no_model(thread: Thread) -> None:
    assert (await thread.says("Thank you so much!"))[0] == "closed"
    assert thread.desk.thread(T)["status"] == "closed"
    assert thread.chat.asked == [] and thread.classifier.seen == []


async def test_a_colleagues_note_is_evidence_for_who_goes_on(thread: Thread) -> None:
    desk = thread.desk._desk
    desk.take("a", T, "ann")
    thread.desk.said(T, "M-1", "When was it delivered?")
    note = thread.desk.drafted(T, "ann", "The depot has it since Monday.")
    place = desk.give_back("b", T, "ann", note)["unanswered"]
    thread.chat.scripts["routine"] = ["(E1) The depot has it since Monday."]
    assert (await thread.worked(place))[0] == "replied"
    assert thread.desk.sent(T) == "The depot has it since Monday."


async def test_a_hand_over_tells_what_was_said(thread: Thread) -> None:
    thread.classifier.confidence = 0.1
    assert (await thread.says("This is about my LO-48055, again."))[0] == "escalated"
    summary = thread.desk.thread(T)["escalation"]["summary"]
    assert "agent: We have looked into LO-48055." in summary


async def test_a_person_who_takes_it_meanwhile_is_not_spoken_over(thread: Thread) -> None:
    thread.desk.said(T, "M-1", "When was it delivered?")
    thread.desk._desk.take("a", T, "ann")
    decision, reason = await thread.worked("M-1")
    assert (decision, "a person has it" in reason) == ("escalated", True)
    assert thread.desk.thread(T)["held"]["by"] == "ann"
    assert thread.desk.sent(T) == "We have looked into LO-48055."


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("Thanks!", True), ("Vielen Dank und alles Gute", False), ("Vielen Dank!", True),
        ("merci beaucoup", True), ("Thanks, but where is it?", False), ("Great", False),
        ("Thank you, order 12 is fine", False), ("Thanks for nothing", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_only_thanks(text: str, holds: bool) -> None:
    assert only_thanks(text) is holds
