"""A plan is what was offered, ends once, and anything else is refused with the reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.plan import MAX_STEPS, Plan, Step, parse, schema
from agents.tools import support_offers
from cluster.errors import InvalidInput

OFFERS = support_offers(["[ORDER_1]", "[ORDER_2]"], ["[AMOUNT_1]"])
LOOK = {"tool": "lookup_order", "order": "[ORDER_1]"}
REFUND = {"tool": "refund", "order": "[ORDER_1]", "amount": "[AMOUNT_1]"}
REPLY = {"tool": "reply"}
ESCALATE = {"tool": "escalate", "reason": "needs_person"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["reply", "refund", "escalate", "[ORDER_1]", "total"]),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.sampled_from(["steps", "tool", "order", "amount", "x"]), inner),
    max_leaves=12,
)  # fmt: skip


def _text(*steps: Any) -> str:
    return json.dumps({"steps": steps})


def test_a_plan_is_read_and_written_in_the_form_that_the_grammar_lets_through() -> None:
    text = '{"steps": [{"tool": "lookup_order", "order": "[ORDER_1]"}, {"tool": "reply"}]}'
    plan = parse(text, OFFERS)
    assert plan == Plan((Step("lookup_order", {"order": "[ORDER_1]"}), Step("reply", {})))
    assert plan.as_json() == text


def test_arguments_come_in_call_order_whatever_the_model_wrote() -> None:
    text = _text({"amount": "[AMOUNT_1]", "order": "[ORDER_2]", "tool": "refund"}, REPLY)
    assert list(parse(text, OFFERS).steps[0].args) == ["order", "amount"]


def test_a_step_said_twice_is_meant_once() -> None:
    steps = parse(_text(REFUND, REFUND, REPLY), OFFERS).steps
    assert [s.tool for s in steps] == ["refund", "reply"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "plan"),
        ("I think we should reply", "plan"),
        ('{"steps":[{"tool":"reply"}', "plan"),
        ("[" * 100_000, "plan"),
        ("9" * 10_000, "plan"),
        ("null", "plan.steps"),
        ('"reply"', "plan.steps"),
        ("{}", "plan.steps"),
        (_text(), "plan.steps"),
        (_text(*[LOOK] * MAX_STEPS, REPLY), "plan.steps"),
        (_text(*[LOOK] * 10_000, REPLY), "plan.steps"),
        (_text({**LOOK, "order": {"step": 0}}, REPLY), "plan.steps[0].order"),
        (_text({**LOOK, "after": 0}, REPLY), "plan.steps[0]"),
        ('{"steps":{"tool":"reply"}}', "plan.steps"),
        (_text("reply"), "plan.steps[0]"),
        (_text({"tool": "delete_everything"}), "plan.steps[0].tool"),
        (_text({"tool": "read_ticket"}, REPLY), "plan.steps[0].tool"),
        (_text({"tool": ["reply"]}), "plan.steps[0].tool"),
        (_text({"order": "[ORDER_1]"}, REPLY), "plan.steps[0].tool"),
        (_text(LOOK), "plan.steps[0].tool"),
        (_text(REPLY, LOOK), "plan.steps[0].tool"),
        (_text(REPLY, REPLY), "plan.steps[0].tool"),
        (_text(ESCALATE, REPLY), "plan.steps[0].tool"),
        (_text({"tool": "lookup_order"}, REPLY), "plan.steps[0]"),
        (_text({**LOOK, "customer": "C-1"}, REPLY), "plan.steps[0]"),
        (_text({**LOOK, "order": "[ORDER_3]"}, REPLY), "plan.steps[0].order"),
        (_text({**LOOK, "order": "LO-48213"}, REPLY), "plan.steps[0].order"),
        (_text({**LOOK, "order": ["[ORDER_1]"]}, REPLY), "plan.steps[0].order"),
        (_text({**REFUND, "amount": 30}, REPLY), "plan.steps[0].amount"),
        (_text({**REFUND, "amount": "[AMOUNT_2]"}, REPLY), "plan.steps[0].amount"),
        (_text({**REFUND, "amount": "total"}, REPLY), "plan.steps[0].amount"),
        (_text(LOOK, {"tool": "escalate", "reason": "bored"}), "plan.steps[1].reason"),
    ],
)
def test_what_was_not_offered_is_refused_and_named(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text, OFFERS)
    assert caught.value.field == field


def test_a_ticket_without_an_order_is_offered_no_order_tools() -> None:
    offers = support_offers([], ["[AMOUNT_1]"])
    assert [o.tool.form for o in offers] == ["lookup_account()", "reply()", "escalate(reason)"]
    with pytest.raises(InvalidInput):
        parse(_text(REFUND, REPLY), offers)


def test_the_whole_total_is_offered_only_when_no_amount_is_named() -> None:
    text = _text({**REFUND, "amount": "total"}, REPLY)
    offers = support_offers(["[ORDER_1]"], [])
    assert parse(text, offers).steps[0].args["amount"] == "total"


def test_the_prompts_call_forms_are_the_contracts() -> None:
    forms = " ".join(o.tool.form for o in OFFERS)
    expected = "lookup_account() lookup_order(order) refund(order,amount) reply() escalate(reason)"
    assert forms == expected


@given(st.one_of(st.text(), JSON.map(json.dumps), JSON.map(lambda j: json.dumps({"steps": j}))))
def test_parsing_raises_nothing_but_invalid_input(text: str) -> None:
    try:
        plan = parse(text, OFFERS)
    except InvalidInput:
        return
    assert plan == parse(plan.as_json(), OFFERS)


def test_the_schema_lists_exactly_what_was_offered() -> None:
    grammar = schema(OFFERS)
    steps = grammar["properties"]["steps"]
    assert (steps["minItems"], steps["maxItems"]) == (1, MAX_STEPS)
    refund = next(
        s for s in steps["items"]["anyOf"] if s["properties"]["tool"] == {"const": "refund"}
    )
    assert refund["properties"]["order"] == {"enum": ["[ORDER_1]", "[ORDER_2]"]}
    assert refund["properties"]["amount"] == {"enum": ["[AMOUNT_1]"]}
    assert refund["additionalProperties"] is False
    json.dumps(grammar)
