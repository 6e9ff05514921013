from hypothesis import given
from hypothesis import strategies as st

from memory.chunking import LIMIT, markdown, plain

RETURNS = """---
owner: support
---
# Returns

You can return an item within **30 days**. It must be unused.

## Refunds

- The money goes back to the card you paid with.
- It takes [five days](https://example.org/refunds).

```
not a heading
```
"""


def test_a_passage_carries_its_title_and_its_own_heading() -> None:
    texts = [passage.text for passage in markdown(RETURNS)]
    assert texts[0] == "Returns: You can return an item within 30 days. It must be unused."
    assert texts[1].startswith("Returns - Refunds: The money goes back to the card you paid with.")
    assert "It takes five days." in texts[1]


def test_front_matter_is_not_content() -> None:
    assert not any("owner" in passage.text for passage in markdown(RETURNS))


def test_passages_are_numbered_from_one_through_the_document() -> None:
    assert [passage.number for passage in markdown(RETURNS)] == [1, 2]


def test_long_paragraphs_are_cut_between_sentences() -> None:
    text = "# Guide\n\n" + " ".join(f"Sentence number {n} says a little." for n in range(40))
    passages = markdown(text)
    assert len(passages) > 3
    for passage in passages:
        assert passage.text.startswith("Guide: Sentence")
        assert passage.text.endswith("little.")


def test_a_sentence_without_end_is_cut_between_words() -> None:
    words = [f"word{n}" for n in range(200)]
    passages = plain(" ".join(words))
    assert " ".join(passage.text for passage in passages).split() == words


def test_only_the_mark_that_begins_an_item_is_left_out() -> None:
    text = "# Fees\n\nThe fee - if any - is 30. It is due at once.\n\n- a - b\n1. first\n"
    assert [p.text for p in markdown(text)] == [
        "Fees: The fee - if any - is 30. It is due at once. a - b first"
    ]


def test_passages_say_their_heading_their_lines_and_what_stands_beside_them() -> None:
    first, second = markdown(RETURNS)
    assert (first.heading, first.span) == ("Returns", "line 6")
    assert (second.heading, second.span) == ("Returns - Refunds", "lines 10-15")
    assert second.context == "You can return an item within 30 days. It must be unused."
    assert first.context == second.text.removeprefix("Returns - Refunds: ")
    assert [p.span for p in plain("one\ntwo\n\n\nthree\n")] == ["lines 1-2", "line 5"]


def test_plain_text_is_cut_at_empty_lines() -> None:
    assert [p.text for p in plain("one\ntwo\n\n\nthree\n")] == ["one two", "three"]


def test_a_document_without_content_has_no_passages() -> None:
    assert markdown("# Only a title\n\n") == []
    assert plain(" \n ") == []


@given(st.text(alphabet="ab .\n#-é1)*`[]", max_size=900))
def test_no_passage_is_empty_or_too_long(text: str) -> None:
    for passage in [*markdown(text), *plain(text)]:
        assert passage.text.strip()
        assert len(passage.text) <= LIMIT


@given(st.lists(st.sampled_from(["lamp", "return", "It ends.", "five", "days."]), max_size=300))
def test_no_word_is_lost(words: list[str]) -> None:
    text = " ".join(words)
    assert " ".join(p.text for p in plain(text)).split() == text.split()
