"""Judging: each figure is met by the right answer and missed by a wrong one."""

import json
from itertools import islice

import pytest

from agents.workflows.prompts import (
    NO_ANSWER,
    Evidence,
    draft_messages,
    outline_messages,
    plan_messages,
    slots_messages,
)
from serve.distill.corpus import Example, examples, tool_schema
from serve.distill.judge import BAD, evidence_of, failed, judge

TOOLS = ["lookup_account()", "lookup_order(order)", "refund(order,amount)"]
ENDS = ["reply()", "escalate(reason)"]
EVIDENCE = [
    Evidence("E1", "order", "Order [ORDER_1] is delivered; item lamp; shipped [DATE_1]; "
             "delivered [DATE_2]."),
    Evidence("E2", "policy", "Returns are free within [NUMBER_1] days."),
]  # fmt: skip
LETTER = "Hello,\n(E1) Your order [ORDER_1] with the lamp was delivered on [DATE_2]."
UNCLOSED_CALL = '<tool_call>\n{"name": "find_store", "arguments": {"city": "Bristol"}}'
SUMMARY = (
    "Asked: a refund\nOrders: [ORDER_1]\nParcels: none\nAmounts: [AMOUNT_1]\n"
    "Promised: I will refund [AMOUNT_1]\nOpen: waiting for us"
)
OUTLINE = "# the lamp\n- E1: Price\n- E2: Size\n- Call to action for members"
POSTS = "x: Hi there! (E1) The lamp costs [AMOUNT_1].\nthreads: Hi there! (E2) The lamp is wide."


def steps(*tools: str, **last: str) -> str:
    made: list[dict[str, str]] = [{"tool": tool} for tool in tools]
    made[-1] |= last
    return json.dumps({"steps": made})


LOOKUP = json.dumps({"steps": [{"tool": "lookup_order", "order": "[ORDER_1]"}, {"tool": "reply"}]})


def plan(answer: str) -> Example:
    messages = plan_messages(
        ticket="Where is [ORDER_1]?", intent="order_status", history="", evidence=[],
        tools=TOOLS + ENDS,
    )  # fmt: skip
    return Example("plan", messages, answer)


def slots(answer: str) -> Example:
    return Example("slots", slots_messages(ticket="[ORDER_1]?", intents=["complaint"]), answer)


def draft(answer: str) -> Example:
    messages = draft_messages(ticket="Where is [ORDER_1]?", intent="x", evidence=EVIDENCE)
    return Example("draft", messages, answer)


def content(kind: str, answer: str) -> Example:
    evidence = [
        Evidence("E1", "note", "The lamp costs [AMOUNT_1]."),
        Evidence("E2", "note", "The lamp is wide."),
    ]
    messages = outline_messages(
        topic="the lamp", audience="members", tone="warm", evidence=evidence
    )
    return Example(kind, messages, answer)


def tool(answer: str) -> Example:
    offered = tool_schema({"name": "find_store", "description": "Stores", "argument": "city"})
    return Example("tool", [{"role": "user", "content": "a store"}], answer, [offered])


SLOTS = json.dumps({"intent": "complaint", "orders": ["[ORDER_1]"], "amount": None, "person": True})
ACCOUNT = steps("lookup_account", "reply")
UNCLEAR = steps("escalate", reason="missing_information")
ASKS = "Hello,\n(E1) You have the order [ORDER_1] with us. Do you mean this order?"

WRONG: list[tuple[str, Example, str]] = [
    ("json_valid", plan(LOOKUP), LOOKUP[:-1]),
    ("json_valid", plan(LOOKUP), LOOKUP + "order"),
    ("json_valid", plan(LOOKUP), '{"steps": []}'),
    ("json_valid", plan(LOOKUP), "[" * 5000),
    ("json_valid", plan(LOOKUP), steps("lookup_order", order="[ORDER_1]", amount="total")),
    ("json_valid", plan(LOOKUP), steps("delete_order", order="[ORDER_1]")),
    ("json_valid", plan(LOOKUP), '{"steps": [{"tool": "lookup_order", "order": 1}]}'),
    ("json_valid", slots(SLOTS), SLOTS.replace("true", '"true"')),
    ("json_valid", slots(SLOTS), SLOTS.replace("person", "human")),
    ("json_valid", slots(SLOTS), "no"),
    ("json_valid", tool(UNCLOSED_CALL + "\n</tool_call>"), UNCLOSED_CALL),
    ("json_valid", tool(UNCLOSED_CALL + "\n</tool_call>"),
     UNCLOSED_CALL.replace("find_store", "find") + "\n</tool_call>"),
    ("plan_right", plan(LOOKUP), steps("reply")),
    ("plan_right", plan(LOOKUP), ACCOUNT),
    ("arguments_right", plan(LOOKUP), LOOKUP.replace("ORDER_1", "ORDER_2")),
    ("arguments_right", slots(SLOTS), SLOTS.replace("ORDER_1", "ORDER_2")),
    ("arguments_right", slots(SLOTS), SLOTS.replace("null", '"[AMOUNT_1]"')),
    ("arguments_right", slots(SLOTS), SLOTS.replace("true", "false")),
    ("intent_right", slots(SLOTS), SLOTS.replace("complaint", "warranty")),
    ("facts_copied", draft(LETTER), LETTER.replace("[DATE_2]", "[DATE_1]")),
    ("facts_copied", draft(LETTER), "(E1) On [DATE_2] [ORDER_1] was delivered."),
    ("facts_copied", draft(LETTER), NO_ANSWER),
    ("facts_copied", Example("summary", [], SUMMARY), SUMMARY.replace("[ORDER_1]", "none")),
    ("facts_copied", content("outline", OUTLINE), OUTLINE.replace("- E2: Size\n", "")),
    ("facts_copied", content("posts", POSTS), POSTS.replace("[AMOUNT_1]", "little")),
    ("ungrounded", draft(LETTER), LETTER.replace("[DATE_2]", "[DATE_3]")),
    ("ungrounded", draft(LETTER), LETTER.replace("[DATE_2]", "3 May 2026")),
    ("ungrounded", draft(LETTER), LETTER.replace("the lamp", "the Torino lamp")),
    ("ungrounded", draft(LETTER), LETTER.replace("E1", "E7")),
    ("ungrounded", draft(NO_ANSWER), LETTER.replace("[DATE_2]", "[DATE_3]")),
    ("ungrounded", content("outline", OUTLINE), OUTLINE.replace("E2", "E5")),
    ("ungrounded", content("posts", POSTS), POSTS.replace("[AMOUNT_1]", "12 EUR")),
    ("supported", draft(LETTER), LETTER.replace("the lamp", "the red velvet cushion cover")),
    ("asks_or_refuses", draft(NO_ANSWER), LETTER),
    ("asks_or_refuses", draft(ASKS), ASKS.replace(" Do you mean this order?", "")),
    ("asks_or_refuses", content("posts", NO_ANSWER), POSTS),
    ("asks_or_refuses", plan(ACCOUNT), steps("reply")),
    ("asks_or_refuses", plan(ACCOUNT), "{"),
    ("asks_or_refuses", plan(UNCLEAR), steps("escalate", reason="needs_person")),
    ("summary_keeps", Example("summary", [], SUMMARY), SUMMARY.replace("refund [", "send [")),
    ("summary_keeps", Example("summary", [], SUMMARY), SUMMARY.replace("[ORDER_1]", "none")),
    ("garbled", draft(LETTER), LETTER.replace("lamp", "lamp lamp")),
    ("garbled", content("posts", POSTS), POSTS.replace("lamp", "lamp lamp")),
    ("exact", draft(LETTER), LETTER + " "),
]  # fmt: skip


@pytest.mark.parametrize(("figure", "example", "answer"), WRONG)
def test_each_figure_is_met_by_the_right_answer_and_missed_by_a_wrong_one(
    figure: str, example: Example, answer: str
) -> None:
    assert figure in failed(judge(example, answer))
    assert failed(judge(example, example.answer)) == []


def test_a_figure_is_counted_only_where_it_applies() -> None:
    assert judge(draft(NO_ANSWER), NO_ANSWER) == {"asks_or_refuses": True, "exact": True}
    assert "asks_or_refuses" not in judge(plan(LOOKUP), LOOKUP)
    assert "facts_copied" not in judge(draft("(E2) Hello."), "(E2) Hello.")
    # What was not written holds no fact, right or wrong.
    assert "ungrounded" not in judge(draft(LETTER), NO_ANSWER)
    assert judge(Example("chat", [], "Hi."), "Hello.") == {"exact": False}


def test_other_white_space_is_as_valid_and_as_right() -> None:
    spaced = json.dumps(json.loads(LOOKUP), indent=2)
    assert failed(judge(plan(LOOKUP), spaced)) == ["exact"]


def test_two_posts_may_say_the_same() -> None:
    twice = "x: Hi there! (E2) The lamp is wide.\nthreads: Hi there! (E2) The lamp is wide."
    assert failed(judge(content("posts", twice), twice)) == []


@pytest.mark.parametrize("task", ["planner", "routine"])
def test_every_expected_answer_of_the_corpus_is_judged_right(task: str) -> None:
    seen: set[str] = set()
    for example in islice(examples(task, "test", 11), 400):
        figures = judge(example, example.answer)
        assert failed(figures) == [], (figures, example)
        seen |= set(figures)
    assert {"json_valid", "arguments_right", "facts_copied", *BAD, "asks_or_refuses"} <= seen


def test_the_evidence_is_read_back_from_the_prompt() -> None:
    assert [(e.id, e.text) for e in evidence_of(draft(LETTER))] == [
        (e.id, e.text) for e in EVIDENCE
    ]
