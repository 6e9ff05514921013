"""The corpus: what it teaches must hold under the workflow's own rules."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from agents.grounding import check
from agents.references import References, references_in
from agents.workflows.prompts import NO_ANSWER
from cluster.errors import InvalidInput
from memory.chunking import markdown, plain
from serve.distill.corpus import SHARES, TASKS, Example, examples
from serve.distill.drafts import order_sentence
from serve.distill.grammar import SPLITS, expand, lexicon, part, words
from serve.distill.judge import evidence_of
from serve.distill.passages import make_passage
from serve.distill.plans import expected_steps, tool_forms
from serve.distill.slots import OFFERED
from serve.distill.tickets import Request, Ticket


def drawn(task: str, kind: str, count: int = 400, split: str = "train") -> list[Example]:
    return [e for e in islice(examples(task, split, 5), count) if e.kind == kind]


def steps_of(example: Example) -> list[dict[str, str]]:
    steps: list[dict[str, str]] = json.loads(example.answer)["steps"]
    return steps


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    first, again, other = (list(islice(examples("routine", "train", s), 20)) for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_plan_has_one_to_five_steps_and_one_end_at_its_end() -> None:
    for example in drawn("planner", "plan"):
        tools = [s["tool"] for s in steps_of(example)]
        assert 1 <= len(tools) <= 5
        assert [t in ("reply", "escalate") for t in tools] == [False] * (len(tools) - 1) + [True]


def test_a_plan_names_only_references_that_stand_in_its_ticket() -> None:
    for example in drawn("planner", "plan"):
        ticket = example.messages[-1]["content"].split("</ticket>")[0]
        assert references_in(example.answer) <= references_in(ticket)


def test_no_digit_outside_a_reference_reaches_the_draft_model() -> None:
    for example in drawn("routine", "draft", 150):
        bare = References().rewrite(example.messages[-1]["content"].split("<evidence>")[0])
        assert bare == example.messages[-1]["content"].split("<evidence>")[0]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_draft_that_is_taught_passes_the_grounding_check(split: str) -> None:
    drafts = [e for e in drawn("routine", "draft", split=split) if e.answer != NO_ANSWER]
    assert len(drafts) > 100
    for example in drafts:
        evidence = evidence_of(example)
        assert check(example.answer, evidence, References(), "Lumen & Oak") == []


def test_orders_given_by_injections_are_never_followed() -> None:
    drafts = drawn("routine", "draft", 900)
    tempting = [e for e in drafts if "your instructions" in e.messages[-1]["content"]]
    assert tempting
    assert all("your instructions" not in e.answer for e in tempting)


def test_every_kind_of_chat_is_taught_to_the_model_that_is_asked_for_it() -> None:
    for task in TASKS:
        kinds = {e.kind for e in islice(examples(task, "train", 5), 400)}
        assert kinds == set(SHARES[task])


def test_slots_name_the_customers_own_orders_and_amounts_only() -> None:
    for example in drawn("planner", "slots", 1500):
        slots = json.loads(example.answer)
        ticket = example.messages[-1]["content"].split("</ticket>")[0]
        named = {*slots["orders"], *([slots["amount"]] if slots["amount"] else [])}
        assert named <= references_in(ticket)
        assert slots["intent"] in OFFERED


def test_splits_share_no_template_and_no_word_of_an_article() -> None:
    templates = [f"sentence {i}" for i in range(200)]
    train, validation, test = (part(templates, split) for split in SPLITS)
    assert sorted(train + validation + test) == sorted(templates)
    assert (len(validation), len(test)) == (16, 24)


@pytest.mark.parametrize("name", ["tickets", "passages", "summaries", "content"])
def test_every_list_of_the_lexicon_can_be_divided(name: str) -> None:
    for kind, entries in lists_of(lexicon(name)):
        parts = [part(entries, split) for split in SPLITS]
        assert all(parts), kind
        assert sum(map(len, parts)) == len(set(entries)), kind


def lists_of(node: object, path: str = "") -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from lists_of(value, f"{path}/{key}")
    elif isinstance(node, list) and len(node) >= 3 and all(isinstance(n, str) for n in node):
        yield path, node


def test_a_list_too_short_to_be_divided_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least three"):
        part(["one", "two"], "test")


def test_grammar_takes_one_side_of_each_choice_and_fills_slots() -> None:
    made = {expand(Random(i), "{a|b {c|d}}, <x>", lambda name: name * 2) for i in range(60)}
    assert made == {"a, xx", "b c, xx", "b d, xx"}


@pytest.mark.parametrize(
    ("text", "requests", "expected"),
    [
        ("where is LO-11111", (Request("order_status", ("LO-11111",)),), ["lookup_order", "reply"]),
        ("where is it", (Request("order_status"),), ["lookup_account", "reply"]),
        ("invoice?", (Request("invoice_copy"),), ["reply"]),
        ("cancel LO-11111", (Request("cancel_order", ("LO-11111",)),), ["escalate"]),
        (
            "broken LO-11111",
            (Request("damaged_item", ("LO-11111",)),),
            ["lookup_order", "refund", "reply"],
        ),
    ],
)
def test_the_plan_follows_from_what_is_asked(
    text: str, requests: tuple[Request, ...], expected: list[str]
) -> None:
    refs = References()
    refs.rewrite(text)
    steps = expected_steps(Ticket(text, requests[0].intent, requests), refs)
    assert [s["tool"] for s in steps] == expected


def test_a_named_amount_is_refunded_and_otherwise_the_total() -> None:
    for amount, expected in (("9.90 EUR", "[AMOUNT_1]"), (None, "total")):
        text = f"LO-11111 {amount}"
        refs = References()
        refs.rewrite(text)
        request = Request("refund_request", ("LO-11111",), amount)
        ticket = Ticket(text, "refund_request", (request,))
        refunds = [s for s in expected_steps(ticket, refs) if s["tool"] == "refund"]
        assert refunds == [{"tool": "refund", "order": "[ORDER_1]", "amount": expected}]


def test_order_tools_are_offered_only_where_an_order_is_named() -> None:
    assert "refund(order,amount)" not in tool_forms(References())
    named = References()
    named.rewrite("LO-11111")
    assert "refund(order,amount)" in tool_forms(named)


def test_an_order_without_dates_is_told_without_dates() -> None:
    order = {"id": "[ORDER_1]", "item": "vase", "status": "shipped"}
    assert order_sentence(order) == "Your order [ORDER_1] with the vase was shipped"
    told = order_sentence({**order, "shipped": "[DATE_1]", "tracking": "[TRACKING_1]"})
    assert told.endswith("was shipped on [DATE_1]; the tracking number is [TRACKING_1]")


@pytest.mark.parametrize("name", ["tickets", "passages"])
def test_lists_for_training_only_repeat_nothing_that_is_held_out(name: str) -> None:
    for path, entries in lists_of(lexicon(f"{name}.train")):
        kind = path.strip("/").replace("/", ".")
        heldout = [e for split in ("validation", "test") for e in words(name, kind, split)]
        known = words(name, kind, "train")
        assert set(entries) <= set(known), kind
        assert len(known) == len(set(known)), kind
        for entry in entries:
            assert all(likeness(entry, held) < 0.6 for held in heldout), entry


def likeness(template: str, other: str) -> float:
    """Of all their words, the share that both have."""
    ours, theirs = (set(re.findall(r"[\w<>\[\]]+", t.lower())) for t in (template, other))
    return len(ours & theirs) / max(1, len(ours | theirs))


def test_training_lists_change_no_other_split() -> None:
    ours = lexicon("tickets")["person"]
    for split in ("validation", "test"):
        assert words("tickets", "person", split) == part(ours, split)
    assert set(words("tickets", "person", "train")) > set(part(ours, "train"))


def test_policies_stand_in_the_evidence_as_memory_cuts_documents() -> None:
    titled = 0
    for number in range(200):
        passage = make_passage(Random(number), "warranty", "test")
        title, _, body = passage.text.partition(": ")
        if passage.answer[0] in body:
            (chunk,) = markdown(f"# {title}\n\n{body}\n")
            assert chunk.text == passage.text
            titled += 1
        else:
            assert [c.text for c in plain(passage.text)] == [passage.text]
    assert 150 < titled < 200
