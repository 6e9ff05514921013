"""What a verdict on a support run teaches memory, and what it must not."""

import pytest

from agents.events import RunEnded
from agents.journal import Feedback, Judgement, Verdict
from agents.lessons import DECISION, decision, general, learning
from agents.state import RunState
from memory.log import Note

REPLY = "Hello [NAME_1],\nyour order LO-48213 is shipped. Parcels arrive within 5 working days."


def run(workflow: str = "support", decided: str = "replied", reply: str = REPLY) -> RunState:
    return RunState(
        "run_1", workflow=workflow, agent="support/C-1", started_at=7.0,
        input={"tenant": "shop", "ticket": "T-1"},
        phases={"intent": {"intent": "order_status"}},
        receipts={"read": {"customer": "C-1", "text": "Where is LO-48213? [NAME_1]"}},
        ended=RunEnded(decision=decided, reason="", result={"reply": reply}),
    )  # fmt: skip


def judged(verdict: Verdict, text: str = "") -> Judgement:
    return Judgement("run_1", 1, 9.0, Feedback(verdict, "ann", text=text))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (REPLY, "Parcels arrive within 5 working days."),
        ("Your refund of 18.50 EUR is done.", ""),
        ("It comes on 3 December 2026. Shipping is free.", "Shipping is free."),
        ("(E1) Parcels are free (E2).", "Parcels are free."),
        ("Dear customer,\nWe wrap gifts.\nKind regards, Lumen & Oak", "We wrap gifts."),
        ("Call [PHONE_1]. LX204817365DE is under way. We wrap gifts.", "We wrap gifts."),
        ("", ""),
    ],
)
def test_what_names_one_customer_is_left_out(answer: str, kept: str) -> None:
    assert general(answer) == kept


def test_an_accepted_reply_becomes_a_past_ticket_with_its_answer() -> None:
    learned = learning(run(), judged("accepted"))
    (record,) = learned.remember
    assert (record.kind, record.source, record.tier) == ("ticket", "ticket:T-1", "long_term")
    assert record.text == "Where is [ORDER_1]? [NAME_1]"
    assert record.meta == {
        "intent": "order_status", "answer": "Parcels arrive within 5 working days.",
    }  # fmt: skip
    assert (record.subject, record.trust, record.origin.run) == ("C-1", "tenant", "run_1")
    assert learned.note == Note("ann", "accepted: run run_1")
    assert learned.forget == ()


def test_a_later_verdict_takes_the_place_of_the_one_before() -> None:
    first, better = judged("accepted"), judged("corrected", "Parcels take one day.")
    (old,) = learning(run(), first).remember
    changed = learning(run(), better, first)
    assert changed.forget == (old.id,)
    assert [r.meta["answer"] for r in changed.remember] == ["Parcels take one day."]
    gone = learning(run(), judged("rejected"), first)
    assert (gone.forget, gone.remember) == ((old.id,), ())
    again = learning(run(), first, first)
    assert (again.forget, again.remember) == ((), ())


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (run(), judged("rejected")),
        (run(reply="Your order LO-48213 is shipped."), judged("accepted")),
        (run(decided="escalated", reply=""), judged("accepted")),
        (run(workflow="triage"), judged("corrected", "Parcels take one day.")),
        (RunState("run_2", workflow="support"), judged("corrected", "Parcels take one day.")),
    ],
)
def test_where_nothing_general_was_said_nothing_is_learnt(
    state: RunState, verdict: Judgement
) -> None:
    assert learning(state, verdict).remember == ()


def test_a_decision_is_one_record_however_often_it_is_made() -> None:
    once, again = [decision(run(), "C-1", "other", "escalated", "no plan: x") for _ in range(2)]
    assert once == again
    assert (once.kind, once.tier, once.session) == (DECISION, "session", "support/C-1")
    assert once.meta["reason"] == "no plan" and once.subject == "C-1"
