"""A draft that says only what its evidence says passes; one wrong fact is enough to stop it."""

import pytest

from agents.grounding import check
from agents.references import References
from agents.workflows.prompts import Evidence

SHOP = "Lumen & Oak"
TICKET = "Where is my lamp LO-48213? I waited 9 days and paid 64.90 EUR."
ORDER = (
    "Order LO-48213 is shipped; item ceramic table lamp; total 64.90 EUR; ordered 12 November 2026;"
    " expected 19 November 2026; tracking LX204817365DE."
)
POLICY = "Orders arrive within 5 working days. Write to [EMAIL_1] when a parcel is late."
ACCOUNT = "Customer [NAME_1] since 18 March 2024; orders LO-48213, LO-44120."


def _findings(draft: str) -> list[str]:
    references = References()
    references.rewrite(TICKET)
    evidence = [
        Evidence(f"E{i}", source, references.rewrite(text))
        for i, (source, text) in enumerate(
            [("order", ORDER), ("policy:delivery", POLICY), ("account", ACCOUNT)], 1
        )
    ]
    return [str(f) for f in check(draft, evidence, references, SHOP)]


@pytest.mark.parametrize(
    "draft",
    [
        "Your order [ORDER_1] is shipped (E1).",
        "Hello [NAME_1], thank you for your message. Your ceramic table lamp is shipped; it is"
        " expected [DATE_2], tracking [TRACKING_1] (E1). Kind regards, Lumen & Oak",
        "The total was [AMOUNT_1] (E1). Orders arrive within 5 working days (E2).",
        "Orders arrive within [NUMBER_2] working days (E2).",
        "Your orders are [ORDER_1] and [ORDER_2] (E3).",
        "Your order LO-48213 is shipped and cost 64.90 EUR (E1).",
        "Your order lo-48213 is expected 19 november 2026 (E1).",
        "The ceramic lamp is shipped and orders arrive within 5 working days (E1, E2).",
        "Write to [EMAIL_1] when the parcel is late (E2).",
        "Hello, thank you for your message. Your ceramic lamp is shipped (E1)."
        "\n\nKind regards,\nLumen & Oak",
    ],
)
def test_a_faithful_draft_has_no_findings(draft: str) -> None:
    assert _findings(draft) == []


@pytest.mark.parametrize(
    ("draft", "finding"),
    [
        # numbers, amounts, dates and ids, spelt out
        ("Orders arrive within 7 working days (E2).", "number not in the evidence: 7"),
        ("The total was 46.90 EUR (E1).", "amount not in the evidence: 46.90 EUR"),
        ("Expected 20 November 2026 (E1).", "date not in the evidence: 20 November 2026"),
        ("Your order LO-48231 is shipped (E1).", "order not in the evidence: LO-48231"),
        ("Tracking LX204817356DE (E1).", "tracking not in the evidence: LX204817356DE"),
        # what only the customer said is no evidence
        ("Your order waited 9 days and is shipped (E1).", "number not in the evidence: 9"),
        # references
        ("Your order [ORDER_3] is shipped (E1).", "reference not in the evidence: [ORDER_3]"),
        ("Your order is shipped to [ADDRESS_1] (E1).", "reference not in the evidence: [ADDRESS_1"),
        ("It is [NUMBER_1] days late (E2).", "reference not in the evidence: [NUMBER_1]"),
        # names
        ("Your order is shipped by Hermes (E1).", "name not in the evidence: Hermes"),
        ("Hello Sophie, your order is shipped (E1).", "name not in the evidence: Sophie"),
        # citations
        ("Your order [ORDER_1] is shipped.", "no citation"),
        ("Your order [ORDER_1] is shipped (E9).", "citation of nothing: E9"),
        ("Your order is shipped (E1, E7).", "citation of nothing: E7"),
        # words that the cited evidence does not hold
        ("Yxzor qwerts blomph grivvle (E1).", "claim not in what it cites"),
        ("A voucher covers whatever damage happened (E2).", "claim not in what it cites"),
        ("Your ceramic lamp is shipped (E2).", "claim not in what it cites"),
        # claims beside what is cited
        (
            "A free lamp is on its way. Your order is shipped (E1).",
            "claim without a citation: A fr",
        ),
        ("Your order is shipped (E1). We add a voucher.", "claim without a citation: We add"),
        ("Your order is shipped (E1) and fully insured.", "claim without a citation: and fully"),
        # a thread that is lost
        ("Your order to to be shipped (E1).", "a word again and again: to"),
        ("The lamp is shipped (E1). The lamp is shipped (E1).", "said twice: The lamp"),
        # a meaning turned around
        ("Your ceramic lamp is not shipped (E1).", "denies what it cites"),
        # nothing said
        ("NO_ANSWER", "no answer"),
        ("Your order is shipped (E1). NO_ANSWER", "no answer"),
        ("", "no answer"),
        ("  (E1)", "no answer"),
    ],
)
def test_one_wrong_fact_is_found(draft: str, finding: str) -> None:
    assert any(f.startswith(finding) for f in _findings(draft)), _findings(draft)


def test_each_wrong_fact_is_a_finding_of_its_own() -> None:
    found = _findings("Your ceramic lamp LO-48231 of 7 is shipped by Hermes (E1).")
    assert [f.partition(":")[2].strip() for f in found] == ["LO-48231", "7", "Hermes"]


def test_without_evidence_nothing_is_grounded() -> None:
    draft = "Your order is shipped (E1)."
    findings = check(draft, [], References(), SHOP)
    assert "citation of nothing: E1" in [str(f) for f in findings]


def test_checking_leaves_the_conversations_references_as_they_were() -> None:
    references = References()
    evidence = [Evidence("E1", "order", references.rewrite(ORDER))]
    before = list(references.items())
    check("Your order LO-99999 costs 7 EUR (E1).", evidence, references, SHOP)
    assert list(references.items()) == before
