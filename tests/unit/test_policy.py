"""The shipped policy as a table, and a loader that never allows more than was written."""

from pathlib import Path
from typing import Any

import pytest

from agents.policy import Policy, Request
from cluster.errors import ConfigError
from tests.fakes import POLICY

SURE = {
    "intent": "refund_request", "confidence": 950, "out_of_scope": 20,
    "min_confidence": 700, "max_out_of_scope": 500,
}  # fmt: skip
REFUND = SURE | {
    "amount_cents": 1000, "order_total_cents": 2490, "order_refunded_cents": 0,
    "agent_refunded_cents": 0, "named_cents": 0, "order_status": "delivered",
}  # fmt: skip
REPLY = SURE | {"grounded": True, "finding": ""}
ASSIGN = SURE | {"gate": True}

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("read_ticket", SURE, "allow", "read-own-desk"),
    ("lookup_account", SURE, "allow", "read-own-desk"),
    ("lookup_order", SURE, "allow", "read-own-desk"),
    ("lookup_order", SURE | {"confidence": 0}, "allow", "read-own-desk"),
    ("escalate", SURE | {"confidence": 0, "out_of_scope": 1000}, "allow", "hand-to-person"),
    # refund: by intent and status
    ("refund", REFUND, "allow", "refund-asked-for"),
    ("refund", REFUND | {"intent": "damaged_item"}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"intent": "wrong_item"}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"intent": "order_status"}, "deny", "default-deny"),
    ("refund", REFUND | {"intent": "complaint"}, "deny", "default-deny"),
    ("refund", REFUND | {"order_status": "shipped"}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"order_status": "processing"}, "deny", "default-deny"),
    ("refund", REFUND | {"order_status": "cancelled"}, "deny", "default-deny"),
    # refund: by money
    ("refund", REFUND | {"amount_cents": 3000, "order_total_cents": 9000}, "allow",
     "refund-asked-for"),
    ("refund", REFUND | {"amount_cents": 3001, "order_total_cents": 9000}, "ask", "refund-cap"),
    ("refund", REFUND | {"agent_refunded_cents": 2000}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"agent_refunded_cents": 2001}, "ask", "refund-cap"),
    ("refund", REFUND | {"amount_cents": 2490}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"amount_cents": 2491}, "deny", "refund-above-total"),
    ("refund", REFUND | {"order_refunded_cents": 1491}, "deny", "refund-above-total"),
    ("refund", REFUND | {"named_cents": 1000}, "allow", "refund-asked-for"),
    ("refund", REFUND | {"named_cents": 999}, "ask", "refund-above-named"),
    ("refund", REFUND | {"amount_cents": 0}, "deny", "refund-positive"),
    ("refund", REFUND | {"amount_cents": -500}, "deny", "refund-positive"),
    # an order that was not looked up as the customer's own: its facts are empty
    ("refund", REFUND | {"order_total_cents": 0, "order_status": "unknown"}, "deny",
     "refund-above-total"),
    # a denial beats a question
    ("refund", REFUND | {"amount_cents": 9000}, "deny", "refund-above-total"),
    # sureness
    ("refund", REFUND | {"confidence": 699}, "ask", "unsure-intent"),
    ("refund", REFUND | {"out_of_scope": 501}, "ask", "unsure-intent"),
    ("reply", REPLY, "allow", "reply-grounded"),
    ("reply", REPLY | {"confidence": 700, "out_of_scope": 500}, "allow", "reply-grounded"),
    ("reply", REPLY | {"confidence": 699}, "ask", "unsure-intent"),
    ("reply", REPLY | {"grounded": False, "finding": "number: 7"}, "ask", "reply-ungrounded"),
    ("assign", ASSIGN, "allow", "assign-sure"),
    ("assign", ASSIGN | {"gate": False}, "ask", "assign-unsure"),
]  # fmt: skip


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(POLICY)


@pytest.mark.parametrize(("tool", "facts", "answer", "rule"), CASES)
def test_the_shipped_policy(
    policy: Policy, tool: str, facts: dict[str, Any], answer: str, rule: str
) -> None:
    decision = policy.decide(Request(tool, "T-1", facts))
    assert (decision.answer, decision.rule) == (answer, rule)
    assert decision.reason


@pytest.mark.parametrize(
    ("tool", "facts"),
    [
        ("refund", SURE),
        ("refund", REFUND | {"amount_cents": "1000"}),
        ("refund", REFUND | {"amount_cents": 10.5}),
        ("refund", REFUND | {"amount_cents": None}),
        ("refund", REFUND | {"amount_cents": 2**70}),
        ("refund", REFUND | {"approved": True}),
        ("reply", SURE),
        ("reply", REPLY | {"grounded": "yes"}),
        ("read_ticket", {}),
        ("escalate", {"intent": 7}),
        ("assign", SURE),
    ],
)
def test_malformed_facts_are_never_allowed(
    policy: Policy, tool: str, facts: dict[str, Any]
) -> None:
    decision = policy.decide(Request(tool, "T-1", facts))
    assert (decision.answer, decision.rule) == ("deny", "malformed-request")
    assert decision.reason


@pytest.mark.parametrize("tool", ["delete", "", 'x"', "refund2"])
def test_an_unknown_tool_is_denied(policy: Policy, tool: str) -> None:
    assert policy.decide(Request(tool, "T-1", SURE)).answer == "deny"


@pytest.mark.parametrize("ticket", ["", 'T"1', "T\\", "T\n1", "ü☂", 'x", context: {}'])
def test_a_strange_ticket_id_decides_nothing(policy: Policy, ticket: str) -> None:
    assert policy.decide(Request("refund", ticket, REFUND)).answer in {"allow", "deny"}
    over = REFUND | {"amount_cents": 9999}
    assert policy.decide(Request("refund", ticket, over)).answer == "deny"


PERMIT = '@id("r") @reason("why") permit (principal, action == Action::"reply", resource);'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("permit (principal, action", "valid Cedar"),
        ("permit (principal, action, resource);", "@id and @reason"),
        ('@id("r") permit (principal, action, resource);', "@id and @reason"),
        (PERMIT.replace("reply", "replay"), "fits its schema"),
        (PERMIT.replace(";", " when { context.amount_cents > 1 };"), "fits its schema"),
        (PERMIT.replace(";", ' when { context.grounded == "yes" };'), "fits its schema"),
    ],
)
def test_a_broken_policy_stops_the_start(tmp_path: Path, source: str, expected: str) -> None:
    path = tmp_path / "own.cedar"
    path.write_text(source, "utf-8")
    path.with_suffix(".cedarschema").write_text(
        POLICY.with_suffix(".cedarschema").read_text("utf-8"), "utf-8"
    )
    with pytest.raises(ConfigError) as caught:
        Policy.load(path)
    assert caught.value.field == "agents.policy"
    assert expected in caught.value.expected


@pytest.mark.parametrize("missing", ["own.cedar", "own.cedarschema"])
def test_a_missing_file_stops_the_start(tmp_path: Path, missing: str) -> None:
    for name in {"own.cedar", "own.cedarschema"} - {missing}:
        (tmp_path / name).write_text("", "utf-8")
    with pytest.raises(ConfigError, match=missing):
        Policy.load(tmp_path / "own.cedar")


def test_a_policy_without_rules_denies_everything(tmp_path: Path) -> None:
    policy = Policy("", POLICY.with_suffix(".cedarschema").read_text("utf-8"), "empty")
    decision = policy.decide(Request("read_ticket", "T-1", SURE))
    assert (decision.answer, decision.rule) == ("deny", "default-deny")
