import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.words import REACH, Vocabulary, keywords, number, terms


def score(question: str, text: str, vocabulary: Vocabulary) -> float:
    held = keywords(text)
    return sum(weight * held.get(term, 0) for term, weight in vocabulary.weights(question).items())


@pytest.fixture
def vocabulary() -> Vocabulary:
    counted = Vocabulary()
    for text in ("The parcel is late.", "A parcel was lost", "the lamp broke", "Parcel of lamps"):
        counted.add(text)
    return counted


def test_forms_of_a_word_are_one_term_and_stop_words_none() -> None:
    assert terms("The parcels were delivered") == terms("delivering a parcel")[::-1]
    assert terms("What was it about, and why didn't they?") == []


@pytest.mark.parametrize("named", ["PT-014", "30.00", "2026-05-12", "ann@example.org", "v1.2"])
def test_ids_amounts_dates_and_addresses_are_kept_whole(named: str) -> None:
    assert named.casefold() in terms(f"It is ({named}), I think.")


def test_a_part_of_an_id_finds_it_too() -> None:
    assert "014" in terms("PT-014")


def test_unicode_forms_of_the_same_word_are_one_term() -> None:
    assert terms("CAFÉ ﬁle Straße") == terms("cafe\u0301 file STRASSE")


def test_scripts_without_spaces_become_pairs() -> None:
    assert terms("東京都") == ["東京", "京都"]


def test_other_scripts_and_lone_surrogates_do_no_harm() -> None:
    assert terms("שלום 🪔 مرحبا") == ["שלום", "مرحبا"]
    assert keywords("\ud800abc")


def test_neighbours_lend_their_words_the_less_the_farther_they_are() -> None:
    alone = keywords("yes")
    held = keywords("yes", [(1, "lamp"), (REACH, "vase")])
    assert held[number("lamp")] > held[number("vase")] > 0
    assert held[number("yes")] <= alone[number("yes")]


def test_a_rare_word_is_worth_more_than_a_common_one_and_an_unsaid_one_most(
    vocabulary: Vocabulary,
) -> None:
    weights = vocabulary.weights("lost parcel unicorn")
    unsaid, rare, common = (weights[number(t)] for t in ("unicorn", "lost", "parcel"))
    assert unsaid > rare > common > 0
    assert sum(weights.values()) == pytest.approx(1)


def test_a_text_that_says_all_of_the_question_scores_about_one(vocabulary: Vocabulary) -> None:
    assert 0.9 < score("where is the lost parcel", "my parcel got lost", vocabulary) < 2
    assert score("where is the lost parcel", "pay by card", vocabulary) == 0


def test_what_is_counted_out_leaves_no_trace(vocabulary: Vocabulary) -> None:
    before = vocabulary.weights("lost parcel")
    vocabulary.add("a lost and found parcel office")
    assert vocabulary.weights("lost parcel") != before
    vocabulary.remove("a lost and found parcel office")
    assert vocabulary.weights("lost parcel") == before


def test_a_question_of_stop_words_asks_for_nothing(vocabulary: Vocabulary) -> None:
    assert vocabulary.weights("who is it?") == {}
    assert Vocabulary().weights("lamp") == {number("lamp"): 1.0}


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_finite_weights_that_milvus_takes(text: str, near: str) -> None:
    for term, weight in keywords(text, [(1, near)]).items():
        assert 0 <= term < 2**32 - 2
        assert 0 < weight <= 2


def test_words_that_most_texts_say_are_not_looked_up() -> None:
    known = Vocabulary()
    for n in range(200):
        known.add(f"hello lamp{n}")
    assert set(known.weights("hello lamp7")) == {number("lamp7")}
    assert set(known.weights("hello")) == {number("hello")}
