"""Facts come from the journal; what is missing there leads to a denial."""

from typing import Any

import pytest

from agents.events import RunEnded
from agents.facts import facts_for
from agents.policy import Policy, Request
from agents.state import AgentState, RunState
from tests.fakes import POLICY, THRESHOLDS, TRUSTED

INTENT = {"intent": "refund_request", "confidence": 0.8, "out_of_scope": 0.125, "gate": True}
ORDER = {
    "kind": "order", "id": "LO-48055", "status": "delivered", "total_cents": 1850,
    "refunded_cents": 0,
}  # fmt: skip
GIVEN = {"kind": "refund", "order": "LO-48055", "amount_cents": 500}
AGENT = AgentState("support/C-1")


def _run(**changes: Any) -> RunState:
    return RunState(run_id="r", phases={"intent": INTENT}, **changes)


def _refund(run: RunState, agent: AgentState = AGENT, order: str = "LO-48055") -> dict[str, Any]:
    args = {"order": order, "amount_cents": 1000}
    return facts_for("refund", args, run, agent, THRESHOLDS, TRUSTED)


def test_shares_become_thousandths() -> None:
    assert facts_for("escalate", {}, _run(), AGENT, THRESHOLDS, TRUSTED) == {
        "intent": "refund_request", "confidence": 800, "out_of_scope": 125,
        "min_confidence": 700, "max_out_of_scope": 500, "tenant": "", "autonomy": 2,
        "untrusted": [], "tool_trusted": True, "sharing": "public",
    }  # fmt: skip


def test_a_run_without_an_intent_counts_as_wholly_unsure() -> None:
    facts = facts_for("escalate", {}, RunState("r"), AGENT, THRESHOLDS, TRUSTED)
    assert (facts["intent"], facts["confidence"], facts["out_of_scope"]) == ("unknown", 0, 1000)


def test_a_refund_is_judged_by_the_order_that_was_looked_up() -> None:
    facts = _refund(_run(receipts={"1": ORDER}), order="lo-48055")
    assert facts["amount_cents"] == 1000
    assert (facts["order_total_cents"], facts["order_status"]) == (1850, "delivered")


@pytest.mark.parametrize(
    "receipts", [{}, {"1": ORDER | {"id": "LO-11111"}}, {"1": ORDER | {"kind": "account"}}]
)
def test_an_order_that_was_not_looked_up_has_no_facts_and_is_denied(
    receipts: dict[str, dict[str, Any]],
) -> None:
    facts = _refund(_run(receipts=receipts))
    assert (facts["order_total_cents"], facts["order_status"]) == (0, "unknown")
    assert Policy.load(POLICY).decide(Request("refund", "T-1", facts)).answer == "deny"


def test_the_latest_lookup_of_an_order_counts() -> None:
    receipts = {"1": ORDER, "2": GIVEN, "3": ORDER | {"refunded_cents": 500}}
    assert _refund(_run(receipts=receipts))["order_refunded_cents"] == 500


@pytest.mark.parametrize(
    ("text", "cents"),
    [("give me 4.90 EUR of the 60 EUR back", 6000), ("money back!", 0), ("9 dollars", 0)],
)
def test_the_largest_amount_that_the_ticket_names_is_a_fact(text: str, cents: int) -> None:
    facts = _refund(_run(receipts={"read": {"kind": "ticket", "text": text}, "1": ORDER}))
    assert facts["named_cents"] == cents


def test_refunds_of_earlier_runs_and_of_this_one_add_up() -> None:
    earlier = RunState(
        run_id="before",
        receipts={"1": GIVEN | {"amount_cents": 700}},
        ended=RunEnded(decision="replied", reason="", result={}),
    )
    facts = _refund(_run(receipts={"1": ORDER, "2": GIVEN}), AGENT.after(earlier))
    assert facts["agent_refunded_cents"] == 1200


@pytest.mark.parametrize(
    ("phases", "grounded", "finding"),
    [
        ({}, False, "the draft was not checked"),
        ({"grounding": {"findings": []}}, True, ""),
        ({"grounding": {"findings": ["number: 7", "name: X"]}}, False, "number: 7"),
    ],
)
def test_a_reply_is_grounded_only_when_it_was_checked(
    phases: dict[str, Any], grounded: bool, finding: str
) -> None:
    run = RunState(run_id="r", phases={"intent": INTENT, **phases})
    facts = facts_for("reply", {"text": "x", "grounded": True}, run, AGENT, THRESHOLDS, TRUSTED)
    assert (facts["grounded"], facts["finding"]) == (grounded, finding)


@pytest.mark.parametrize(
    ("intent", "gate"), [(INTENT, True), (INTENT | {"gate": False}, False), ({}, False)]
)
def test_the_gate_is_the_classifiers_and_closed_without_one(
    intent: dict[str, Any], gate: bool
) -> None:
    run = RunState(run_id="r", phases={"intent": intent})
    assert facts_for("assign", {"queue": "x"}, run, AGENT, THRESHOLDS, TRUSTED)["gate"] is gate
