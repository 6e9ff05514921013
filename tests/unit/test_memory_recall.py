import pytest

from memory import recall
from memory.recall import HALF_LIVES, MIN_KEYWORD, asking, candidates_wanted
from memory.records import Found, Hit, Query, Record

TEXTS = ["a lamp broke", "parcel is late", "send it back", "pay by card", "ask for a refund"]
DAY = 86_400.0


def found(
    kind: str,
    text: str,
    score: float | None,
    source: str = "",
    tenant: str = "shop",
    keyword: float | None = None,
) -> Found:
    return Found(Record(tenant, kind, source or f"{kind}:{text}", text, 0.0), score, keyword)


def said(text: str, score: float = 0.5, **fields: object) -> Found:
    known = {"tenant": "shop", "kind": "fact", "source": "note", "event_at": 0.0} | fields
    return Found(Record(text=text, **known), score)  # type: ignore[arg-type]


def rank(found: list[Found], query: Query, now: float = 0.0) -> list[Hit]:
    return recall.rank(found, query, now)


def test_hits_come_best_first_with_their_scores_and_reasons() -> None:
    hits = rank(
        [found("policy", "send it back", 0.5), found("policy", "pay by card", 0.8, keyword=0.4)],
        Query("shop", "how do I pay"),
    )
    assert [h.record.text for h in hits] == ["pay by card", "send it back"]
    assert hits[0].score > hits[1].score
    assert (hits[0].scores["dense"], hits[0].scores["keyword"]) == (0.8, 0.4)
    assert hits[0].reason == (
        "similarity 0.80 (at least 0.25), keywords 0.40, among the 4 best of kind policy"
    )


def test_what_is_not_near_does_not_come_even_when_k_is_not_filled() -> None:
    query = Query("shop", "lamp", min_relevance=0.0)
    assert rank([found("policy", "pay by card", 0.24)], query) == []
    assert len(rank([found("policy", "pay by card", 0.25)], query)) == 1


def test_saying_the_questions_words_is_enough_whatever_the_vector_means() -> None:
    query = Query("shop", "PT-014")
    near = found("ticket", "PT-014 was sent", 0.1, keyword=MIN_KEYWORD)
    unseen = found("ticket", "PT-014 came back", None, keyword=1.0)
    hits = rank([near, unseen, found("ticket", "a lamp", 0.3)], query)
    assert [h.record.text for h in hits] == ["PT-014 came back", "PT-014 was sent", "a lamp"]
    assert hits[0].reason.startswith("not among the most similar, keywords 1.00")
    assert hits[1].reason.startswith("similarity 0.10 (below 0.25), keywords 0.50")


def test_nothing_comes_when_not_even_the_best_is_relevant_enough() -> None:
    weak = [found("policy", text, 0.4) for text in TEXTS]
    assert rank(weak, Query("shop", "q")) == []
    strong = found("policy", "returns are free", 0.5, keyword=0.3)
    assert len(rank([*weak, strong], Query("shop", "q"))) == 4


def test_words_and_meaning_together_are_better_than_either() -> None:
    both = found("policy", "both", 0.6, keyword=0.6)
    meaning, words = found("policy", "means", 0.7), found("policy", "says", 0.1, keyword=0.9)
    hits = rank([meaning, words, both], Query("shop", "q"))
    assert hits[0].record.text == "both"


def test_what_ages_gives_way_to_what_is_newer_but_never_becomes_irrelevant() -> None:
    age = HALF_LIVES["status"]
    old = said("it is packed", kind="status")
    new = said("it is sent", 0.45, kind="status", event_at=4 * age)
    query = Query("shop", "q", min_relevance=0.0)
    hits = rank([old, new], query, now=4 * age)
    assert [h.record.text for h in hits] == ["it is sent", "it is packed"]
    assert hits[1].scores["freshness"] == pytest.approx(0.5 + 0.5 / 16)
    assert "freshness 0.53" in hits[1].reason
    assert rank([old, new], query, now=1e10)[0].score > 0.15


def test_a_fact_does_not_age_and_the_future_is_not_older_than_now() -> None:
    query = Query("shop", "q", min_relevance=0.0)
    for kind, event_at in (("fact", -1e9), ("status", 1e9)):
        (hit,) = rank([said("a text", kind=kind, event_at=event_at)], query)
        assert hit.scores["freshness"] == 1.0


def test_a_question_about_the_past_takes_ages_from_there() -> None:
    status = said("it is packed", kind="status", event_at=0.0)
    query = Query("shop", "q", as_of=0.0, min_relevance=0.0)
    (hit,) = rank([status], query, now=400 * DAY)
    assert hit.scores["freshness"] == 1.0


def test_the_more_important_of_two_alike_comes_first() -> None:
    hits = rank(
        [said("a lamp", 0.52, importance=0.1), said("a vase", 0.5, importance=0.9)],
        Query("shop", "q", min_relevance=0.0),
    )
    assert [h.record.text for h in hits] == ["a vase", "a lamp"]


def test_importance_and_freshness_do_not_make_relevant_what_is_not() -> None:
    weak = said("a text", 0.2, importance=1.0)
    assert rank([weak], Query("shop", "q", min_relevance=0.0)) == []


def test_a_turn_that_only_asks_comes_behind_the_one_that_answers() -> None:
    asks = said("Ann: Where did you go? And when?", 0.5, source="chat:1#1")
    tells = said("Ben: We went to the sea.", 0.46, source="chat:1#2")
    hits = rank([asks, tells], Query("shop", "q", min_relevance=0.0))
    assert [h.record.text for h in hits] == [tells.record.text, asks.record.text]
    alone = said("Where is my lamp? And when?", 0.5, source="ticket:1")
    hits = rank([alone, tells], Query("shop", "q", min_relevance=0.0))
    assert hits[0].record.text == alone.record.text


@pytest.mark.parametrize(
    ("text", "share"), [("No.", 0.0), ("Why?", 1.0), ("أين؟", 1.0), ("", 0.0), ("Oh! Why?", 0.625)]
)
def test_how_much_of_a_text_is_question(text: str, share: float) -> None:
    assert asking(text) == pytest.approx(share)


def test_hits_fit_the_budget_and_a_long_one_makes_room_for_short_ones() -> None:
    long = said("word " * 50, 0.9)
    short = [said(text, 0.8) for text in TEXTS]
    hits = rank([long, *short], Query("shop", "q", k=10, budget_tokens=30))
    assert long.record.text not in {h.record.text for h in hits}
    assert 0 < len(hits) < 6
    assert len(rank([long, *short], Query("shop", "q", k=10, budget_tokens=300))) == 6


def test_many_tickets_do_not_drown_the_policies() -> None:
    tickets = [found("ticket", text, 0.9 - i / 100) for i, text in enumerate(TEXTS)]
    policies = [
        found("policy", "returns are free", 0.4),
        found("policy", "refunds take days", 0.35),
    ]
    hits = rank([*tickets, *policies], Query("shop", "q", k=4))
    assert [h.record.kind for h in hits] == ["ticket", "ticket", "policy", "policy"]


def test_a_kind_without_relevant_records_leaves_its_share_to_the_others() -> None:
    tickets = [found("ticket", text, 0.9 - i / 100) for i, text in enumerate(TEXTS)]
    hits = rank([*tickets, found("policy", "returns are free", 0.32)], Query("shop", "q", k=4))
    assert [h.record.kind for h in hits] == ["ticket", "ticket", "ticket", "policy"]
    assert hits[2].reason.endswith("best of what was left")


def test_the_best_comes_alone_when_k_is_one() -> None:
    hits = rank(
        [found("ticket", "pay by card", 0.6), found("policy", "send it back", 0.7)],
        Query("shop", "q", k=1),
    )
    assert [h.record.kind for h in hits] == ["policy"]


def test_almost_the_same_words_come_once_with_the_better_score() -> None:
    hits = rank(
        [
            found("ticket", "Where is my parcel? I ordered it a week ago.", 0.6, "ticket:1"),
            found("ticket", "where is my parcel, I ordered it a week ago!!", 0.7, "ticket:2"),
            found("ticket", "My parcel came but the lamp is broken.", 0.5, "ticket:3"),
        ],
        Query("shop", "q"),
    )
    assert [h.record.source for h in hits] == ["ticket:2", "ticket:3"]


def test_what_differs_in_a_number_or_in_whom_it_is_about_is_not_the_same() -> None:
    query = Query("shop", "q", min_relevance=0.0)
    words = "you can send back what you bought in our shop within {} days of delivery"
    assert len(rank([said(words.format(30)), said(words.format(60))], query)) == 2
    of_two = [said("likes tea", subject=s, source=s) for s in ("ann", "ben")]
    assert len(rank(of_two, query)) == 2


def test_texts_without_words_are_not_taken_for_the_same() -> None:
    hits = rank([found("ticket", "!?", 0.6), found("ticket", "...", 0.6)], Query("shop", "q"))
    assert len(hits) == 2


def test_another_tenants_record_never_passes_even_if_a_store_returns_it() -> None:
    assert rank([found("policy", "secret", 0.9, tenant="other")], Query("shop", "q")) == []


def test_excluded_sources_and_unasked_kinds_do_not_come() -> None:
    query = Query("shop", "q", kinds=("ticket",), without=frozenset({"ticket:self"}))
    hits = rank(
        [
            found("ticket", "the very ticket", 0.99, "ticket:self"),
            found("policy", "returns are free", 0.9),
            found("ticket", "an older one", 0.5, "ticket:old"),
        ],
        query,
    )
    assert [h.record.source for h in hits] == ["ticket:old"]


def test_equal_scores_are_ordered_the_same_whatever_the_store_returns_first() -> None:
    one = [found("ticket", text, 0.5) for text in TEXTS]
    query = Query("shop", "q", k=3)
    assert rank(one, query) == rank(one[::-1], query)


def test_a_search_looks_at_more_than_it_returns() -> None:
    query = Query("shop", "q", k=4, without=frozenset({"a", "b"}))
    assert candidates_wanted(query) > 4 + 2
    assert candidates_wanted(Query("shop", "q", k=100)) <= 16_384
