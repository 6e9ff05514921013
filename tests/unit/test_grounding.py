"""A draft that says only what its evidence says passes; one wrong fact is enough to stop it."""

import pytest

from agents.grounding import check
from agents.references import References
from agents.workflows.prompts import Evidence, without_citations

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
        "(E1) Your order [ORDER_1] is shipped.",
        "Hello [NAME_1], thank you for your message. (E1) Your ceramic table lamp is shipped; it is"
        " expected [DATE_2], tracking [TRACKING_1]. Kind regards, Lumen & Oak",
        "(E1) The total was [AMOUNT_1]. (E2) Orders arrive within 5 working days.",
        "(E2) Orders arrive within [NUMBER_2] working days.",
        "(E3) Your orders are [ORDER_1] and [ORDER_2].",
        "(E1) Your order LO-48213 is shipped and cost 64.90 EUR.",
        "(E1) Your order lo-48213 is expected 19 november 2026.",
        "(E1, E2) The ceramic lamp is shipped and orders arrive within 5 working days.",
        "(E2) Write to [EMAIL_1] when the parcel is late.",
        "(E2) Orders arrive within 5 working days. Write to [EMAIL_1] when a parcel is late.",
        "Hello, thank you for your message. (E1) Your ceramic lamp is shipped."
        "\n\nKind regards,\nLumen & Oak",
    ],
)
def test_a_faithful_draft_has_no_findings(draft: str) -> None:
    assert _findings(draft) == []


@pytest.mark.parametrize(
    ("draft", "finding"),
    [
        # numbers, amounts, dates and ids, spelt out
        ("(E2) Orders arrive within 7 working days.", "number not in the evidence: 7"),
        ("(E1) The total was 46.90 EUR.", "amount not in the evidence: 46.90 EUR"),
        ("(E1) Expected 20 November 2026.", "date not in the evidence: 20 November 2026"),
        ("(E1) Your order LO-48231 is shipped.", "order not in the evidence: LO-48231"),
        ("(E1) Tracking LX204817356DE.", "tracking not in the evidence: LX204817356DE"),
        # what only the customer said is no evidence
        ("(E1) Your order waited 9 days and is shipped.", "number not in the evidence: 9"),
        # references
        ("(E1) Your order [ORDER_3] is shipped.", "reference not in the evidence: [ORDER_3]"),
        ("(E1) Your order is shipped to [ADDRESS_1].", "reference not in the evidence: [ADDRESS_1"),
        ("(E2) It is [NUMBER_1] days late.", "reference not in the evidence: [NUMBER_1]"),
        # names
        ("(E1) Your order is shipped by Hermes.", "name not in the evidence: Hermes"),
        ("(E1) Hello Sophie, your order is shipped.", "name not in the evidence: Sophie"),
        # citations
        ("Your order [ORDER_1] is shipped.", "no citation"),
        ("(E9) Your order [ORDER_1] is shipped.", "citation of nothing: E9"),
        ("(E1, E7) Your order is shipped.", "citation of nothing: E7"),
        # words that the cited evidence does not hold
        ("(E1) Yxzor qwerts blomph grivvle.", "claim not in what it cites"),
        ("(E2) A voucher covers whatever damage happened.", "claim not in what it cites"),
        ("(E2) Your ceramic lamp is shipped.", "claim not in what it cites"),
        # claims beside what is cited
        (
            "A free lamp is on its way. (E1) Your order is shipped.",
            "claim without a citation: A fr",
        ),
        ("(E1) Your order is shipped.\nWe add a voucher.", "claim without a citation: We add"),
        ("Fully insured, (E1) your order is shipped.", "claim without a citation: Fully"),
        # a citation holds up to the next one or the end of the line
        ("(E1) Your order is shipped. A voucher follows.", "claim not in what it cites: A vouch"),
        (
            "(E1) Your order is shipped. (E2) Your ceramic lamp is late.",
            "claim not in what it cites: Your ceramic",
        ),
        ("(E1) Your lamp is shipped. It is not late.", "denies what it cites: It is not"),
        # a thread that is lost
        ("(E1) Your order to to be shipped.", "a word again and again: to"),
        ("(E1) The lamp is shipped. (E1) The lamp is shipped.", "said twice: The lamp"),
        # a meaning turned around
        ("(E1) Your ceramic lamp is not shipped.", "denies what it cites"),
        # nothing said
        ("NO_ANSWER", "no answer"),
        ("(E1) Your order is shipped. NO_ANSWER", "no answer"),
        ("", "no answer"),
        ("(E1)  ", "no answer"),
    ],
)
def test_one_wrong_fact_is_found(draft: str, finding: str) -> None:
    assert any(f.startswith(finding) for f in _findings(draft)), _findings(draft)


def test_each_wrong_fact_is_a_finding_of_its_own() -> None:
    found = _findings("(E1) Your ceramic lamp LO-48231 of 7 is shipped by Hermes.")
    assert [f.partition(":")[2].strip() for f in found] == ["LO-48231", "7", "Hermes"]


def test_without_evidence_nothing_is_grounded() -> None:
    draft = "(E1) Your order is shipped."
    findings = check(draft, [], References(), SHOP)
    assert "citation of nothing: E1" in [str(f) for f in findings]


def test_checking_leaves_the_conversations_references_as_they_were() -> None:
    references = References()
    evidence = [Evidence("E1", "order", references.rewrite(ORDER))]
    before = list(references.items())
    check("(E1) Your order LO-99999 costs 7 EUR.", evidence, references, SHOP)
    assert list(references.items()) == before


@pytest.mark.parametrize(
    ("draft", "read"),
    [
        ("Hello,\n(E1) It is late. (E2) Sorry.\nBye", "Hello,\nIt is late. Sorry.\nBye"),
        ("It is late (E1). Sorry (E1, E2)!", "It is late. Sorry!"),
        ("It (E1) is late (E2)\nBye", "It is late\nBye"),
        ("(E1) [ORDER_1] (E2) [DATE_1]", "[ORDER_1] [DATE_1]"),
    ],
)
def test_a_customer_reads_no_citation_and_no_hole_where_it_stood(draft: str, read: str) -> None:
    assert without_citations(draft) == read
