"""A ticket is a thread over days: what is said in it, who has it, and what agents see of it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.helpdesk import ERASED, HelpDesk
from agents.macros import Macro, Macros
from agents.threads import MAX_MESSAGES
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from tests.fakes import DESK, FakeClock, ticket

T = "T-001"  # Anna Weber asks where LO-48213 is


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[HelpDesk]:
    made = HelpDesk(tmp_path / "desk.db", FakeClock())
    made.seed(DESK)
    t = ticket(T)
    made.open_ticket(T, t["customer"], t["subject"], t["body"], t["received"])
    yield made
    made.close()


def status_of(desk: HelpDesk) -> str:
    return str(desk.whole(T)["status"])


def test_a_thread_keeps_what_was_said_in_order(desk: HelpDesk) -> None:
    desk.reply("k1", T, "It leaves today.")
    assert desk.say(T, "M-1", "And when does it arrive?")["waits_for"] == "agent"
    assert status_of(desk) == "open"
    desk.reply("k2", T, "On Friday.", "M-1")
    said = [(m["author"], m["text"]) for m in desk.thread(T)]
    assert said == [
        ("agent", "It leaves today."),
        ("customer", "And when does it arrive?"),
        ("agent", "On Friday."),
    ]
    assert desk.sent(T) == "On Friday."


def test_the_same_message_again_is_the_same(desk: HelpDesk) -> None:
    desk.say(T, "M-1", "Hello?")
    assert desk.say(T, "M-1", "Hello?")["repeated"]
    assert len(desk.thread(T)) == 1
    with pytest.raises(Conflict, match="another message"):
        desk.say(T, "M-1", "Something else")


@pytest.mark.parametrize("text", ["", "  \n", "x" * 20_001, "nul\x00"])
def test_a_message_of_nothing_or_too_much_is_refused(desk: HelpDesk, text: str) -> None:
    with pytest.raises(InvalidInput, match="text"):
        desk.say(T, "M-1", text)
    assert desk.thread(T) == []


def test_a_thread_has_a_limit(desk: HelpDesk) -> None:
    with desk.transaction() as db:
        db.executemany(
            "insert into messages(id, ticket, author, by, text, at)"
            " values (?, ?, 'note', '', 'x', 0)",
            [(f"N-{i}", T) for i in range(MAX_MESSAGES)],
        )
    with pytest.raises(Conflict, match=str(MAX_MESSAGES)):
        desk.say(T, "M-1", "one more")


def test_what_is_personal_in_a_thread_has_one_placeholder_throughout(desk: HelpDesk) -> None:
    desk.say(T, "M-1", "Mail me at other@example.org please. Anna")
    desk.say(T, "M-2", "Or at third@example.org. Once more: other@example.org")
    first, second = desk.read_message(T, "M-1"), desk.read_message(T, "M-2")
    assert "@" not in first["text"] + second["text"] and "Anna" not in first["text"]
    placeholder = first["text"].split()[3]
    assert placeholder in second["text"]
    # A later message moves nothing in what a run on an earlier one has read.
    assert desk.read_message(T, "M-1") == first
    desk.reply("k", T, f"We write to {placeholder}.", "M-1")
    assert desk.sent(T) == "We write to other@example.org."
    with pytest.raises(InvalidInput, match="references of this ticket"):
        desk.reply("k2", T, "To [EMAIL_9].", "M-1")


def test_a_reader_sees_the_last_word_and_what_was_before(desk: HelpDesk) -> None:
    desk.reply("k1", T, "It leaves today.")
    desk.say(T, "M-1", "Thanks. When is it here?")
    view = desk.read_message(T, "M-1")
    assert view["text"] == "Thanks. When is it here?"
    assert [m["author"] for m in view["before"]] == ["customer", "agent"]
    with pytest.raises(NotFound, match="M-9"):
        desk.read_message(T, "M-9")


def test_while_a_person_has_it_no_agent_answers(desk: HelpDesk) -> None:
    desk.take("k1", T, "ann")
    assert status_of(desk) == "held"
    assert desk.say(T, "M-1", "Still there?")["waits_for"] == "person"
    with pytest.raises(Conflict, match="a person has it"):
        desk.reply("k2", T, "Hello.", "M-1")
    desk.escalate("k3", T, "unsure", "...")
    assert status_of(desk) == "held"
    for act in (desk.take, desk.close_ticket):
        with pytest.raises(Conflict, match="ann has it"):
            act("k4", T, "bob")
    assert desk.take("k5", T, "ann")["by"] == "ann"


def test_a_persons_words_go_out_once_and_wait_as_a_draft_till_then(desk: HelpDesk) -> None:
    desk.take("k1", T, "ann")
    draft = desk.draft(T, "ann", "Dear Anna Weber, call me: +49 30 23125 999")
    assert desk.draft(T, "ann", "Dear Anna Weber, call me: +49 30 23125 999") == draft
    with pytest.raises(Conflict, match="ann has it"):
        desk.answer("k2", T, "bob", draft)
    first = desk.answer("k3", T, "ann", draft)
    assert desk.answer("k3", T, "ann", draft)["repeated"] and not first["repeated"]
    assert desk.sent(T) == "Dear Anna Weber, call me: +49 30 23125 999"
    assert [m["author"] for m in desk.thread(T)] == ["person"]
    with pytest.raises(NotFound, match="draft"):
        desk.answer("k4", T, "ann", draft)
    assert status_of(desk) == "held"


def test_what_is_given_back_is_open_where_the_customer_waits(desk: HelpDesk) -> None:
    with pytest.raises(Conflict, match="no person has it"):
        desk.give_back("k0", T, "ann")
    desk.take("k1", T, "ann")
    assert desk.give_back("k2", T, "ann")["unanswered"] == ""
    assert status_of(desk) == "open"
    desk.take("k3", T, "ann")
    desk.say(T, "M-1", "Hello?")
    note = desk.draft(T, "ann", "The carrier says Friday.")
    left = desk.give_back("k4", T, "ann", note)["unanswered"]
    assert left == "k4"
    view = desk.read_message(T, left)
    assert (view["text"], view["notes"]) == ("Hello?", ["The carrier says Friday."])
    desk.take("k5", T, "ann")
    desk.answer("k6", T, "ann", desk.draft(T, "ann", "On Friday."))
    assert desk.give_back("k7", T, "ann")["unanswered"] is None
    assert status_of(desk) == "replied"


def test_a_closed_ticket_opens_with_the_next_word(desk: HelpDesk) -> None:
    desk.close_ticket("k1", T, "ann")
    assert status_of(desk) == "closed"
    desk.say(T, "M-1", "It broke again.")
    assert status_of(desk) == "open"


def test_an_answer_is_rated_and_the_last_rating_holds(desk: HelpDesk) -> None:
    with pytest.raises(Conflict, match="nobody has answered"):
        desk.rate("k0", T, 5)
    desk.reply("k1", T, "It leaves today.")
    assert desk.rate("k2", T, 2, desk.draft(T, "customer", "too slow"))["of"] == "agent"
    assert desk.whole(T)["rating"] == {"score": 2, "comment": "too slow"}
    desk.rate("k3", T, 5)
    assert desk.whole(T)["rating"]["score"] == 5
    for score in (0, 6, -1):
        with pytest.raises(InvalidInput, match="score"):
            desk.rate(f"k{score}", T, score)


def test_macros_are_filled_with_what_the_desk_knows(desk: HelpDesk) -> None:
    macros = Macros(DESK)
    draft = desk.draft(T, "ann", macro=macros.require("address-check"))
    desk.answer("k", T, "ann", draft)
    sent = desk.sent(T) or ""
    assert "Anna Weber" in sent and "LO-48213" in sent and "{" not in sent
    with pytest.raises(NotFound, match="solved"):
        macros.require("nope")
    first = macros.fitting("damaged_item")[0]
    assert "damaged_item" in first.intents
    with pytest.raises(Conflict, match="no order"):
        Macro(name="x", text="{order}").filled({"order": ""})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- name: a\n  text: '{amount}'", "no blank"),
        ("- {name: a, text: x}\n- {name: a, text: y}", "one name"),
        ("name: a", "a list"),
        ("- [", "no list"),
    ],
)
def test_a_file_of_macros_that_is_none_is_said(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "macros.yaml").write_text(text)
    with pytest.raises(DataError, match=why):
        Macros(tmp_path)


def test_a_list_of_tickets_has_pages_and_a_status(desk: HelpDesk) -> None:
    for n in range(5):
        desk.open_ticket(f"X-{n}", "C-1001", "s", "b", "2026-11-20T00:00:00Z")
    desk.escalate("k", "X-2", "unsure", "...")
    assert [r["id"] for r in desk.listed(limit=2)] == ["X-4", "X-3"]
    assert [r["id"] for r in desk.listed(after="X-3", limit=2)] == ["X-2", "X-1"]
    assert [r["id"] for r in desk.listed("escalated")] == ["X-2"]
    for status, after in (("lost", ""), ("", "nope")):
        with pytest.raises(InvalidInput):
            desk.listed(status, after)


def test_a_person_sees_account_and_history(desk: HelpDesk) -> None:
    desk.open_ticket("X-1", "C-1001", "older", "b", "2026-10-20T00:00:00Z")
    desk.escalate("k", T, "unsure", "about [NAME_1]")
    whole = desk.whole(T)
    assert whole["customer"]["name"] == "Anna Weber"
    assert whole["escalation"] == {"reason": "unsure", "summary": "about Anna Weber"}
    assert [o["id"] for o in whole["orders"]][:1] and whole["other_tickets"][0]["id"] == "X-1"


def test_erasing_a_customer_empties_the_thread_and_drafts(desk: HelpDesk, tmp_path: Path) -> None:
    desk.say(T, "M-1", "My secret is zebra-one.")
    desk.draft(T, "ann", "zebra-two")
    desk.reply("k", T, "Hello.", "M-1")
    desk.rate("r", T, 1, desk.draft(T, "customer", "zebra-three"))
    desk.erase("C-1001")
    assert {m["text"] for m in desk.thread(T)} == {ERASED}
    for file in tmp_path.iterdir():
        assert b"zebra" not in file.read_bytes(), file


def test_replies_of_a_file_from_before_threads_are_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    desk = HelpDesk(path, FakeClock())
    desk.seed(DESK)
    t = ticket(T)
    desk.open_ticket(T, t["customer"], t["subject"], t["body"], t["received"])
    desk.reply("k1", T, "It leaves today.")
    desk.close()
    with sqlite3.connect(path) as db:
        for table in ("messages", "drafts", "holders", "ratings"):
            db.execute(f"drop table {table}")
    desk = HelpDesk(path, FakeClock())
    assert [m["text"] for m in desk.thread(T)] == ["It leaves today."]
    desk.close()
