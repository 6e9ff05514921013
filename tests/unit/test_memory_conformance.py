"""What any index must do, against whatever MAINSPRING_MILVUS_URI names: a Milvus Lite file, or a
cluster's address (with MAINSPRING_MILVUS_TOKEN). Without one, a Lite file of its own.

This is where a cluster is checked: `MAINSPRING_MILVUS_URI=http://milvus:19530 make test
ARGS="tests/unit/test_memory_conformance.py"`. Each test works in a collection of its own space,
which is emptied before it and dropped at the end.
"""

import math
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import InvalidInput
from memory.embed import DIMENSION, Space, Vectors
from memory.milvus import MilvusStore
from memory.records import Record, Tier
from memory.scope import Filter
from memory.store import Keywords, Row
from memory.words import Vocabulary, keywords

pytestmark = pytest.mark.enable_socket

NOW = 1_767_000_000.0
QUOTES = [
    '"] or tenant != "',
    "' or 1 == 1 --",
    '\\"',
    "{ids}",
    "%_",
    "日本 🪔",
    "a\n\tb",
    "a\u202eb",
]
LIMIT = 50


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = os.environ.get("MAINSPRING_MILVUS_URI", "")
    return given or str(tmp_path_factory.mktemp("conformance") / "memory.db")


def opened(uri: str) -> MilvusStore:
    token = os.environ.get("MAINSPRING_MILVUS_TOKEN", "")
    return MilvusStore(uri, token, space=Space(f"conformance{os.getpid()}", DIMENSION))


@pytest.fixture(scope="module")
def shared(uri: str) -> Iterator[MilvusStore]:
    store = opened(uri)
    yield store
    store.drop()
    store.close()


@pytest.fixture(params=["unflushed", "flushed"])
def store(shared: MilvusStore, request: pytest.FixtureRequest) -> MilvusStore:
    """Empty. Whatever holds must hold for rows in memory and for rows on disk alike."""
    shared.delete(sorted(shared.ids()))
    if request.param == "flushed":
        return _Flushing(shared)
    return shared


class _Flushing(MilvusStore):
    """The same store, flushed after each write."""

    def __init__(self, other: MilvusStore) -> None:
        self.__dict__.update(other.__dict__)

    def upsert(self, rows: list[Row]) -> None:  # type: ignore[override]
        super().upsert(rows)
        self.flush()

    def delete(self, ids: list[str]) -> None:  # type: ignore[override]
        super().delete(ids)
        self.flush()


def axis(number: int, other: int | None = None, share: float = 0.0) -> Vectors:
    """A direction; with `other`, one whose cosine to that axis is `share`."""
    row = np.zeros(DIMENSION, np.float32)
    row[number] = math.sqrt(1 - share * share)
    if other is not None:
        row[other] = share
    return row


def row(text: str = "a text", vector: Vectors | None = None, **fields: object) -> Row:
    known: dict[str, object] = {"tenant": "shop", "kind": "fact", "source": "note", "event_at": NOW}
    record = Record(text=text, **(known | fields))  # type: ignore[arg-type]
    return Row(record, axis(0) if vector is None else vector, keywords(text))


def asked(question: str) -> Keywords:
    return Vocabulary().weights(question)


def by_vector(store: MilvusStore, scope: Filter | None = None) -> set[str]:
    return {m.id for m in store.nearest(axis(0), scope or Filter("shop", NOW), LIMIT)}


def by_words(store: MilvusStore, scope: Filter | None = None) -> set[str]:
    return {m.id for m in store.matching(asked("text"), scope or Filter("shop", NOW), LIMIT)}


def test_what_is_acknowledged_is_found_at_once_by_both_legs(store: MilvusStore) -> None:
    kept = row("a text about lamps")
    store.upsert([kept])
    (near,) = store.nearest(axis(0), Filter("shop", NOW), 5)
    (said,) = store.matching(asked("lamp"), Filter("shop", NOW), 5)
    assert near.id == said.id == kept.record.id
    assert near.score == pytest.approx(1.0, abs=1e-5)


def test_vectors_come_nearest_first_with_their_cosine(store: MilvusStore) -> None:
    shares = [0.9, -0.5, 0.3, 0.0]
    rows = [row(f"text {n}", 3 * axis(1, 0, share)) for n, share in enumerate(shares)]
    store.upsert(rows)
    found = store.nearest(2 * axis(0), Filter("shop", NOW), 10)
    expected = sorted(zip(shares, rows, strict=True), key=lambda pair: -pair[0])
    assert [m.id for m in found] == [r.record.id for _, r in expected]
    assert [m.score for m in found] == pytest.approx([s for s, _ in expected], abs=1e-5)
    assert [m.id for m in store.nearest(axis(0), Filter("shop", NOW), 2)] == [
        r.record.id for _, r in expected[:2]
    ]


def test_keywords_come_by_their_inner_product_best_first_and_positive(store: MilvusStore) -> None:
    rows = [row(t) for t in ("lamp lamp lamp vase", "lamp", "a long tale of one lamp in a room")]
    rows.append(row("nothing of the kind"))
    store.upsert(rows)
    weights = asked("lamp vase")
    found = store.matching(weights, Filter("shop", NOW), 10)
    scores = {
        r.record.id: sum(w * r.keywords.get(term, 0) for term, w in weights.items()) for r in rows
    }
    expected = sorted((s for s in scores.values() if s > 0), reverse=True)
    assert [m.score for m in found] == pytest.approx(expected, rel=1e-5)
    assert all(m.score == pytest.approx(scores[m.id], rel=1e-5) for m in found)


def test_a_words_worth_does_not_depend_on_which_rows_are_flushed(shared: MilvusStore) -> None:
    shared.delete(sorted(shared.ids()))
    store, question = shared, asked("cat")
    early, late = row("the cat sat"), row("the cat cat sat")
    store.upsert([early, row("dogs"), row("birds")])
    store.flush()
    store.upsert([late])
    mixed = store.matching(question, Filter("shop", NOW), 5)
    store.flush()
    assert [m.id for m in mixed] == [late.record.id, early.record.id]
    assert mixed == store.matching(question, Filter("shop", NOW), 5)


def test_a_row_without_words_is_found_by_its_vector_only(store: MilvusStore) -> None:
    store.upsert([Row(row("of it").record, axis(0), {})])
    assert len(by_vector(store)) == 1
    assert store.matching(asked("it"), Filter("shop", NOW), 5) == []
    assert by_words(store) == set()


def test_a_row_again_is_replaced_whole(store: MilvusStore) -> None:
    store.upsert([row("a text of lamps", subject="ann", expires_at=NOW + 9)])
    again = row("a text of lamps", axis(1), subject="ben")
    store.upsert([Row(again.record, again.vector, keywords("vases"))])
    assert store.count() == 1
    (match,) = store.nearest(axis(1), Filter("shop", NOW + 99, subject="ben"), 5)
    assert match.score == pytest.approx(1.0, abs=1e-5)
    assert by_vector(store, Filter("shop", NOW, subject="ann")) == set()
    assert store.matching(asked("lamp"), Filter("shop", NOW), 5) == []
    assert len(store.matching(asked("vase"), Filter("shop", NOW), 5)) == 1


def test_deleted_rows_are_not_found_and_others_are(store: MilvusStore) -> None:
    gone, kept = row("one text"), row("another text")
    store.upsert([gone, kept])
    store.delete([gone.record.id, "f" * 32])
    assert by_vector(store) == by_words(store) == store.ids() == {kept.record.id}
    assert store.count() == 1
    store.upsert([gone])
    assert by_vector(store) == {gone.record.id, kept.record.id}


def test_no_search_leaves_its_tenant(store: MilvusStore) -> None:
    ours, theirs = row("a text"), row("a text", tenant="other")
    store.upsert([ours, theirs])
    for tenant, own in (("shop", ours), ("other", theirs), ("third", None)):
        scope = Filter(tenant, NOW)
        expected = {own.record.id} if own else set()
        assert by_vector(store, scope) == by_words(store, scope) == expected


@pytest.mark.parametrize("hostile", QUOTES)
def test_names_full_of_quotes_are_names_like_others(store: MilvusStore, hostile: str) -> None:
    kept = row("a text", subject=hostile, agent=hostile, session=hostile, tier="session")
    store.upsert([kept, row("other text", subject="ann", agent="b", session="c", tier="session")])
    scope = Filter("shop", NOW, subject=hostile, agent=hostile, session=hostile)
    assert by_vector(store, scope) == by_words(store, scope) == {kept.record.id}


@pytest.mark.parametrize("value", ['shop" or tenant != "x', "", "a b", "ü", "x" * 65, "a\n"])
def test_a_tenant_that_is_no_name_reaches_no_expression(shared: MilvusStore, value: str) -> None:
    with pytest.raises(InvalidInput):
        shared.nearest(axis(0), Filter(value, NOW), 5)
    with pytest.raises(InvalidInput):
        shared.delete([value])


def test_what_expired_is_never_found(store: MilvusStore) -> None:
    for n, expires in enumerate((NOW - 1, NOW, NOW + 0.001, NOW + 1e9, None)):
        store.upsert([row(f"text {n}", expires_at=expires)])
    assert len(by_vector(store)) == len(by_words(store)) == 3
    assert len(by_vector(store, Filter("shop", NOW + 1))) == 2
    assert len(by_vector(store, Filter("shop", 9e10))) == 1


def test_times_at_the_far_ends_are_kept(store: MilvusStore) -> None:
    past, future = row("old text", event_at=-1e11), row("new text", event_at=1e11)
    store.upsert([past, future])
    assert by_vector(store, Filter("shop", NOW, until=0.0)) == {past.record.id}
    assert by_vector(store, Filter("shop", NOW, since=0.0)) == {future.record.id}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_that_can_not_be_compared_is_refused(shared: MilvusStore, bad: float) -> None:
    before, vector = shared.ids(), np.full(DIMENSION, bad, np.float32)
    with pytest.raises(InvalidInput):
        shared.upsert([row("a good text"), row("a bad text", vector)])
    with pytest.raises(InvalidInput):
        shared.nearest(vector, Filter("shop", NOW), 5)
    assert shared.ids() == before


def test_a_vector_of_another_model_is_refused(shared: MilvusStore) -> None:
    with pytest.raises(InvalidInput, match="384"):
        shared.upsert([row("a text", np.ones(768, np.float32))])
    with pytest.raises(InvalidInput, match="384"):
        shared.nearest(np.ones(768, np.float32), Filter("shop", NOW), 5)


def test_more_rows_than_one_call_holds_are_all_kept_and_listed(store: MilvusStore) -> None:
    vectors = np.random.default_rng(1).normal(size=(1_200, DIMENSION)).astype(np.float32)
    rows = [row(f"text {n}", vector) for n, vector in enumerate(vectors)]
    store.upsert(rows)
    assert store.count() == 1_200
    assert store.ids() == {r.record.id for r in rows}
    store.delete([r.record.id for r in rows])
    assert store.ids() == set()


def test_a_reopened_index_is_searched_without_more_ado(uri: str, tmp_path: object) -> None:
    path = uri if "://" in uri else f"{tmp_path}/memory.db"
    first = opened(path)
    kept = row("a text")
    first.upsert([kept])
    first.close()
    again = opened(path)
    try:
        assert by_vector(again) == by_words(again) == {kept.record.id}
        assert again.ids() == {kept.record.id}
        again.drop()
        assert (again.count(), again.ids(), by_vector(again)) == (0, set(), set())
        again.upsert([kept])
        assert by_vector(again) == {kept.record.id}
    finally:
        again.close()


NAMES = st.sampled_from(["", "ann", "ben", *QUOTES[:2]])
TIMES = st.sampled_from([NOW - 10, NOW - 0.001, NOW, NOW + 0.001, NOW + 10])
MAYBE = st.none() | TIMES
TIERS: tuple[Tier, ...] = ("session", "long_term")


@st.composite
def records(draw: st.DrawFn) -> Record:
    tier = draw(st.sampled_from(TIERS))
    return Record(
        tenant=draw(st.sampled_from(["shop", "other"])), kind=draw(st.sampled_from(["a", "b"])),
        source="s", text=draw(st.sampled_from([f"text {n}" for n in range(40)])),
        event_at=draw(TIMES), tier=tier, subject=draw(NAMES), agent=draw(NAMES),
        session=draw(NAMES.filter(bool)) if tier == "session" else draw(NAMES),
        expires_at=draw(MAYBE), trust=draw(st.sampled_from(["untrusted", "tenant", "trusted"])),
        recorded_at=draw(TIMES), superseded_at=draw(MAYBE),
    )  # fmt: skip


@st.composite
def scopes(draw: st.DrawFn) -> Filter:
    return Filter(
        tenant=draw(st.sampled_from(["shop", "other"])), now=draw(TIMES), as_of=draw(MAYBE),
        kinds=draw(st.sampled_from([(), ("a",), ("a", "b")])),
        tiers=draw(st.sampled_from([(), ("session",), TIERS])),
        subject=draw(NAMES), agent=draw(NAMES), session=draw(NAMES),
        trust=draw(st.sampled_from(["untrusted", "tenant", "trusted"])),
        since=draw(MAYBE), until=draw(MAYBE),
    )  # fmt: skip


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(records(), min_size=10, max_size=40), st.lists(scopes(), min_size=8, max_size=8))
def test_a_search_finds_exactly_what_its_filter_admits(
    shared: MilvusStore, several: list[Record], asked_in: list[Filter]
) -> None:
    shared.delete(sorted(shared.ids()))
    kept = {record.id: record for record in several}
    shared.upsert([Row(record, axis(0), keywords(record.text)) for record in kept.values()])
    for scope in asked_in:
        admitted = {record.id for record in kept.values() if scope.admits(record)}
        assert by_vector(shared, scope) == by_words(shared, scope) == admitted
