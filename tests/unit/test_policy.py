"""The shipped policy as a table, and a loader that never allows more than was written."""

from pathlib import Path
from typing import Any

import pytest

from agents import policy_cases
from agents.policy import Policy, Request
from agents.policy_cases import Case
from cluster.errors import ConfigError
from tests.fakes import POLICY

SURE = {
    "intent": "refund_request", "confidence": 950, "out_of_scope": 20,
    "min_confidence": 700, "max_out_of_scope": 500, "tenant": "default", "autonomy": 2,
    "untrusted": [], "tool_trusted": False, "sharing": "personal",
}  # fmt: skip
REFUND = SURE | {
    "amount_cents": 1000, "order_total_cents": 2490, "order_refunded_cents": 0,
    "agent_refunded_cents": 0, "named_cents": 0, "order_status": "delivered",
    "hour_count": 0, "day_cents": 0, "hour_frees_at": 0, "order_named": True, "drift": 0,
    "named_left_cents": 0,
}  # fmt: skip
REPLY = SURE | {"grounded": True, "finding": ""}
ASSIGN = SURE | {"gate": True}

CASES = policy_cases.read(POLICY.with_suffix(".cases.yaml"))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(POLICY)


@pytest.mark.parametrize("case", CASES.cases, ids=str)
def test_the_shipped_policy(policy: Policy, case: Case) -> None:
    (tried,) = policy_cases.tried(policy, CASES.model_copy(update={"cases": (case,)}))
    assert tried.wrong == ""
    assert tried.decision.reason


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

FORBID = PERMIT.replace('@id("r")', '@id("f") @answer("ANSWER")').replace("permit", "forbid")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("permit (principal, action", "valid Cedar"),
        ("permit (principal, action, resource);", "@id and @reason"),
        ('@id("r") permit (principal, action, resource);', "@id and @reason"),
        (PERMIT.replace("reply", "replay"), 'unrecognized action `Action::"replay"`'),
        (PERMIT + PERMIT, "two are called r"),
        (PERMIT.replace("permit", '@answer("ask") permit'), "no @answer on a permit"),
        (PERMIT + FORBID.replace("ANSWER", "maybe"), "ask, wait or modify"),
        (PERMIT + FORBID.replace("ANSWER", "wait"), "@until with"),
        (PERMIT + FORBID.replace("ANSWER", "modify"), "@narrow with"),
        (PERMIT + FORBID.replace("ANSWER", 'wait") @until("grounded'), "numbers that the schema"),
        (PERMIT + FORBID.replace("ANSWER", "deny"), "f denies all that r allows"),
        (
            PERMIT.replace(";", " when { context.grounded };")
            + FORBID.replace("ANSWER", "deny").replace(";", " when { context.grounded };"),
            "f denies all that r allows",
        ),
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


def test_groups_of_actions_on_which_no_forbid_would_hold_stop_the_start() -> None:
    schema = """entity Agent; entity Ticket;
    action writes; action reply, refund in [writes] appliesTo {
      principal: Agent, resource: Ticket, context: {}
    };"""
    forbid = '@id("f") @reason("no") forbid (principal, action in Action::"writes", resource);'
    refund = PERMIT.replace('@id("r")', '@id("p")').replace("reply", "refund")
    with pytest.raises(ConfigError, match="without groups"):
        Policy(PERMIT + refund + forbid, schema, "groups")


def test_a_policy_without_rules_denies_everything(tmp_path: Path) -> None:
    policy = Policy("", POLICY.with_suffix(".cedarschema").read_text("utf-8"), "empty")
    decision = policy.decide(Request("read_ticket", "T-1", SURE))
    assert (decision.answer, decision.rule) == ("deny", "default-deny")
