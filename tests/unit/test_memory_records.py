import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidInput
from memory.records import Query, Record, record_id


def record(**changed: object) -> Record:
    given = {
        "tenant": "shop",
        "kind": "policy",
        "source": "policy:returns.md#1",
        "text": "Returns are free.",
        "event_at": 1_767_000_000.0,
    }
    return Record(**{**given, **changed})  # type: ignore[arg-type]


def test_the_id_depends_on_tenant_kind_source_and_text_only() -> None:
    same = record(event_at=5.0, meta={"a": "b"})
    assert record().id == same.id
    others = {
        record(tenant="other").id,
        record(kind="ticket").id,
        record(source="policy:returns.md#2").id,
        record(text="Returns cost 5 EUR.").id,
    }
    assert len(others | {same.id}) == 5


def test_parts_of_an_id_can_not_be_shifted_between_fields() -> None:
    assert record_id("a", "bc", "d", "e") != record_id("ab", "c", "d", "e")


def test_the_id_is_the_same_on_every_machine_and_day() -> None:
    assert record_id("shop", "policy", "s", "t") == "80b80e7133334aac82d4327cfe38b8ab"


def test_a_record_and_its_meta_survive_pickling() -> None:
    original = record(meta={"intent": "return_item"})
    copy = pickle.loads(pickle.dumps(original))
    assert copy == original
    assert copy.id == original.id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", 'x" or tenant != "'),
        ("tenant", ""),
        ("tenant", "UPPER"),
        ("kind", "past ticket"),
        ("source", " "),
        ("source", "s" * 1_001),
        ("text", ""),
        ("text", "\n\t "),
        ("text", "a\x00b"),
        ("text", "\ud800"),
        ("text", "é" * 32_001),
        ("event_at", math.nan),
        ("event_at", math.inf),
        ("meta", {"n": 3}),
        ("meta", {"n": "x" * 17_000}),
    ],
)
def test_what_can_not_be_stored_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        record(**{field: value})
    assert caught.value.field == field


@given(st.text(min_size=1, max_size=200))
def test_any_text_is_either_taken_whole_or_refused(text: str) -> None:
    try:
        assert record(text=text).text == text
    except InvalidInput as error:
        assert error.field == "text"


def test_a_document_is_the_source_without_its_passage() -> None:
    assert record().document == "policy:returns.md"
    assert record(source="ticket:PT-014").document == "ticket:PT-014"


@pytest.mark.parametrize(
    "changed", [{"k": 0}, {"k": 101}, {"text": " "}, {"kinds": ("a b",)}, {"min_score": math.nan}]
)
def test_a_query_that_makes_no_sense_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Query(**{"tenant": "shop", "text": "where", **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tier", "ephemeral"),
        ("subject", "\x00"),
        ("subject", "x" * 257),
        ("agent", "\ud800"),
        ("expires_at", math.nan),
        ("expires_at", 1e12),
        ("importance", 1.5),
        ("importance", -0.1),
        ("importance", math.nan),
        ("trust", "admin"),
        ("labels", ("Upper",)),
        ("labels", ("a",) * 17),
        ("labels", ["pii"]),
        ("parents", ("short",)),
        ("parents", ("0" * 32,) * 257),
        ("event_at", None),
        ("meta", {"a": "\x00"}),
        ("meta", {"a": "\ud800"}),
    ],
)
def test_a_wrong_scope_time_or_standing_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        record(**{field: value})
    assert caught.value.field == field


def test_a_session_record_names_its_session() -> None:
    with pytest.raises(InvalidInput, match="name of the session"):
        record(tier="session")
    assert record(tier="session", session="s1").session == "s1"


def test_any_name_may_be_a_subject() -> None:
    for name in ('" or tenant != "', "ann@example.com", "\u202eann", "🦊"):
        assert record(subject=name).subject == name


def test_a_numbered_source_tells_the_place_in_its_document() -> None:
    assert (record().document, record().number) == ("policy:returns.md", 1)
    assert record(source="ticket:PT-014").number == 0
    assert record(source="a#b").number == 0
