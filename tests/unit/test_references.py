"""Values travel by reference: none is left in a text, and each comes back as it was."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agents.references import REFERENCE, References, references_in

WORDS = st.sampled_from(
    "LO-48213 lo-48213 LX123456789DE 24.90 EUR €12 5 7 1999 12 May 2026-05-12 1,024.50 EUR 3rd "
    "[ ] _ ORDER NUMBER ( ) . , : - % 12/05/26 order May 4th paid $5.00 dollars 99 +49 30".split()
)
TEXTS = st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=14).map(" ".join))


def _same(one: str, other: str) -> bool:
    # A second spelling of a value comes back in the first one's case.
    return one.upper().casefold() == other.upper().casefold()


@given(TEXTS)
@example("[NUMBER_123456] and LO-1234567")
@example("Â²5 ٣ 4\u0661")
def test_no_value_is_left_and_each_comes_back(text: str) -> None:
    assume(not REFERENCE.search(text))
    references = References()
    rewritten = references.rewrite(text)
    assert not re.search(r"\d", REFERENCE.sub("", rewritten))
    assert _same(references.render(rewritten), text)


@given(TEXTS)
def test_rewriting_again_changes_nothing(text: str) -> None:
    references = References()
    once = references.rewrite(text)
    assert references.rewrite(once) == once


@given(st.lists(TEXTS, max_size=4))
def test_the_same_texts_give_the_same_references(texts: list[str]) -> None:
    first, second = References(), References()
    assert [first.rewrite(t) for t in texts] == [second.rewrite(t) for t in texts]


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("Where is LO-48213?", "Where is [ORDER_1]?"),
        ("lo-48213 and LO-48213 and LO-48214", "[ORDER_1] and [ORDER_1] and [ORDER_2]"),
        ("parcel LX123456789DE", "parcel [TRACKING_1]"),
        ("24.90 EUR", "[AMOUNT_1]"),
        ("refund €24,90!", "refund [AMOUNT_1]!"),
        ("12,5 euros", "[AMOUNT_1]"),
        ("1,024.50 EUR", "[AMOUNT_1]"),
        ("1.024,50 EUR", "[AMOUNT_1]"),
        ("€1,024.50.", "[AMOUNT_1]."),
        ("EUR 30, please", "[AMOUNT_1], please"),
        ("on 12 May 2026, or 2026-05-12", "on [DATE_1], or [DATE_2]"),
        ("by May 4th", "by [DATE_1]"),
        ("11.12.2026 or 3/4/26", "[DATE_1] or [DATE_2]"),
        ("5 lamps at 17:30", "[NUMBER_1] lamps at [NUMBER_2]"),
        ("LO-482137", "LO-[NUMBER_1]"),
        ("1234567 EUR", "[NUMBER_1] EUR"),
        ("nothing to see", "nothing to see"),
    ],
)
def test_each_kind_of_value_is_found(text: str, rewritten: str) -> None:
    references = References()
    assert references.rewrite(text) == rewritten
    assert _same(references.render(rewritten), text)


@pytest.mark.parametrize("text", ["1,024.50 EUR", "€1,024.50", "12,5 EUR", "9.5 EUR", "$1.234"])
def test_an_amount_is_never_cut_to_its_last_digits(text: str) -> None:
    references = References()
    references.rewrite(f"please refund {text} today")
    assert [references.value(r) for r in references.of_kind("AMOUNT")] == [text]
    assert references.of_kind("NUMBER") == []


def test_personal_references_stay_as_they_are() -> None:
    references = References()
    assert references.rewrite("[NAME_1] at [EMAIL_2], 5") == "[NAME_1] at [EMAIL_2], [NUMBER_1]"
    assert references.render("[NAME_1] [NUMBER_1]") == "[NAME_1] 5"


def test_more_than_a_hundred_values_keep_their_references() -> None:
    references = References()
    text = " ".join(str(n) for n in range(1, 1200))
    rewritten = references.rewrite(text)
    assert references.rewrite(rewritten) == rewritten
    assert references.render(rewritten) == text
    assert "[NUMBER_1199]" in references_in(rewritten)


def test_an_unknown_reference_has_no_value_and_stays() -> None:
    references = References()
    references.rewrite("LO-48213")
    assert references.value("[ORDER_1]") == "LO-48213"
    assert references.value("[ORDER_2]") is None
    assert references.render("[ORDER_2]") == "[ORDER_2]"


def test_references_are_listed_by_first_appearance() -> None:
    references = References()
    references.rewrite("LO-00002 then LO-00001 for 5 EUR")
    assert references.of_kind("ORDER") == ["[ORDER_1]", "[ORDER_2]"]
    assert list(references.items()) == [
        ("[ORDER_1]", "LO-00002"),
        ("[ORDER_2]", "LO-00001"),
        ("[AMOUNT_1]", "5 EUR"),
    ]
