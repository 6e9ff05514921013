"""Against Milvus Lite itself, which talks over a loopback socket."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import Conflict, DataError, InvalidInput, Unavailable
from memory.embed import DIMENSION, Vectors
from memory.milvus import MilvusStore, _record, _scope, collection_name
from memory.records import Record

pytestmark = pytest.mark.enable_socket


def axis(number: int) -> Vectors:
    row = np.zeros(DIMENSION, np.float32)
    row[number] = 1
    return row


def record(text: str, tenant: str = "shop", source: str = "policy:a.md#1") -> Record:
    return Record(tenant, "policy", source, text, 1_767_000_000.125, {"lang": "é\"'\\"})


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data" / "memory.db")


@pytest.fixture
def store(path: str) -> Iterator[MilvusStore]:
    store = MilvusStore(path)
    yield store
    store.close()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusStore]:
    """Shared by tests that leave nothing behind."""
    store = MilvusStore(str(tmp_path_factory.mktemp("empty") / "memory.db"))
    yield store
    store.close()


def test_a_record_comes_back_whole_and_survives_reopening(path: str) -> None:
    hostile = record('"] or tenant != "\\\n\t\x07 %_ {id} 日本 🪔', source='a" or "#1')
    first = MilvusStore(path)
    first.upsert([hostile, record("other")], np.stack([axis(0), axis(1)]))
    first.close()
    first.close()
    again = MilvusStore(path)
    try:
        (nearest, far) = again.search(axis(0), "shop", (), 5)
        assert nearest.record == hostile
        assert nearest.score == pytest.approx(1.0)
        assert far.score == pytest.approx(0.0, abs=1e-6)
        assert again.known("shop", [hostile.id, "f" * 32]) == {hostile.id}
        assert again.members("shop", [hostile.document]) == {hostile.id}
    finally:
        again.close()


def test_every_read_and_delete_stays_with_its_tenant(store: MilvusStore) -> None:
    ours, theirs = record("ours"), record("theirs", tenant="other")
    store.upsert([ours, theirs], np.stack([axis(0), axis(0)]))
    assert [s.record.text for s in store.search(axis(0), "other", (), 5)] == ["theirs"]
    assert store.search(axis(0), "other", ("ticket",), 5) == []
    assert store.known("other", [ours.id, theirs.id]) == {theirs.id}
    assert store.members("other", ["policy:a.md"]) == {theirs.id}
    store.delete("other", [ours.id])
    assert (store.count("shop"), store.count("other")) == (1, 1)
    store.delete("shop", [ours.id])
    assert (store.count("shop"), store.count("other")) == (0, 1)


def test_the_same_id_again_replaces_its_row(store: MilvusStore) -> None:
    store.upsert([record("one")], axis(0).reshape(1, -1))
    store.flush()
    store.upsert([record("one")], axis(1).reshape(1, -1))
    store.flush()
    assert store.count("shop") == 1
    assert store.search(axis(1), "shop", (), 1)[0].score == pytest.approx(1.0)


def test_more_rows_than_one_call_holds_are_all_kept(store: MilvusStore) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1_200, DIMENSION)).astype(np.float32)
    store.upsert([record(f"text {n}") for n in range(1_200)], vectors)
    assert store.count("shop") == 1_200


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_that_can_not_be_compared_is_refused(empty: MilvusStore, bad: float) -> None:
    with pytest.raises(InvalidInput):
        empty.upsert([record("one")], np.full((1, DIMENSION), bad, np.float32))
    with pytest.raises(InvalidInput):
        empty.search(np.full(DIMENSION, bad, np.float32), "shop", (), 3)
    assert empty.count("shop") == 0


def test_a_vector_of_another_model_is_refused(empty: MilvusStore) -> None:
    with pytest.raises(InvalidInput, match="384"):
        empty.upsert([record("one")], np.ones((1, 768), np.float32))


@pytest.mark.parametrize("value", ['shop" or tenant != "x', "", "a b", "ü", "x" * 65, "a\n"])
def test_no_callers_text_reaches_a_filter(empty: MilvusStore, value: str) -> None:
    with pytest.raises(InvalidInput):
        empty.count(value)
    with pytest.raises(InvalidInput):
        _scope("shop", "id", [value])


def test_a_second_owner_is_told_which_file_is_taken(store: MilvusStore, path: str) -> None:
    with pytest.raises(Conflict, match="another process has it open") as caught:
        MilvusStore(path)
    assert path in str(caught.value)
    script = f"from memory.milvus import MilvusStore; MilvusStore({path!r})"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode != 0
    assert f"memory store {path}: another process has it open" in other.stderr
    store.upsert([record("still mine")], axis(0).reshape(1, -1))
    assert store.count("shop") == 1


def test_a_file_of_another_format_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_text("SQLite format 3")
    with pytest.raises(Conflict, match="another format"):
        MilvusStore(str(path))
    assert path.read_text() == "SQLite format 3"
    with pytest.raises(InvalidInput, match=r"\.db"):
        MilvusStore(str(tmp_path / "memory"))


def test_a_closed_store_says_so(path: str) -> None:
    store = MilvusStore(path)
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.count("shop")


def test_an_unreachable_server_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        MilvusStore("http://127.0.0.1:9")


def test_a_row_that_does_not_match_its_id_is_an_error() -> None:
    row = {"tenant": "shop", "kind": "policy", "source": "s", "text": "changed", "event_ms": 0}
    with pytest.raises(DataError, match="does not match"):
        _record(record("original").id, {**row, "meta": "{}"})


def test_the_collection_names_its_schema_and_embedding_space() -> None:
    assert collection_name() == "memory_v1__minilm384_53aa5117"
    assert collection_name("other") != collection_name()
