from memory import recall
from memory.recall import candidates_wanted
from memory.records import Found, Hit, Query, Record

TEXTS = ["a lamp broke", "parcel is late", "send it back", "pay by card", "ask for a refund"]


def found(kind: str, text: str, score: float, source: str = "", tenant: str = "shop") -> Found:
    return Found(Record(tenant, kind, source or f"{kind}:{text}", text, 0.0), score)


def rank(found: list[Found], query: Query) -> list[Hit]:
    return recall.rank(found, query, now=0.0)


def test_hits_come_best_first_with_their_reasons() -> None:
    hits = rank(
        [found("policy", "send it back", 0.5), found("policy", "pay by card", 0.8)],
        Query("shop", "how do I pay"),
    )
    assert [h.score for h in hits] == [0.8, 0.5]
    assert hits[0].reason == ("similarity 0.80 (at least 0.25), among the 4 nearest of kind policy")


def test_what_is_not_relevant_does_not_come_even_when_k_is_not_filled() -> None:
    assert rank([found("policy", "pay by card", 0.24)], Query("shop", "lamp")) == []
    assert len(rank([found("policy", "pay by card", 0.25)], Query("shop", "lamp"))) == 1


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
    assert hits[2].reason.endswith("nearest of what was left")


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
