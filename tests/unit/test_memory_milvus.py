"""Milvus Lite's own matters: its file and who owns it. What any index must do is in
test_memory_conformance.py."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import Conflict, InvalidInput, Unavailable
from memory.embed import DIMENSION, MINILM, SPACE, Space
from memory.milvus import MilvusStore, collection_name
from memory.records import Record
from memory.scope import Filter
from memory.store import Row
from memory.words import keywords

pytestmark = pytest.mark.enable_socket


def row(text: str) -> Row:
    record = Record("shop", "policy", "policy:a.md#1", text, 1_767_000_000.125)
    return Row(record, np.ones(DIMENSION, np.float32), keywords(text))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data" / "memory.db")


@pytest.fixture
def store(path: str) -> Iterator[MilvusStore]:
    store = MilvusStore(path)
    yield store
    store.close()


def test_no_text_and_no_name_lies_in_the_file(store: MilvusStore, path: str) -> None:
    record = Record(
        "shop", "fact", "note:secretsource", "the secrettext", 0.0, subject="secretsubject",
        agent="secretagent", session="secretsession", meta={"k": "secretmeta"},
    )  # fmt: skip
    store.upsert([Row(record, np.ones(DIMENSION, np.float32), keywords(record.text))])
    for flushed in (False, True):
        if flushed:
            store.flush()
        files = [p for p in Path(path).rglob("*") if p.is_file()]
        assert files
        assert not [p for p in files if b"secret" in p.read_bytes()]
    assert store.nearest(np.ones(DIMENSION, np.float32), Filter("shop", 1.0), 5)


def test_a_dropped_index_leaves_no_rows_on_disk(store: MilvusStore, path: str) -> None:
    kept = row("a text")
    store.upsert([kept])
    store.flush()
    held = kept.record.id.encode()
    assert [p for p in Path(path).rglob("*.parquet") if held in p.read_bytes()]
    store.drop()
    assert not [p for p in Path(path).rglob("*") if p.is_file() and held in p.read_bytes()]
    assert store.count() == 0


def test_a_second_owner_is_told_which_file_is_taken(store: MilvusStore, path: str) -> None:
    with pytest.raises(Conflict, match="another process has it open") as caught:
        MilvusStore(path)
    assert path in str(caught.value)
    script = f"from memory.milvus import MilvusStore; MilvusStore({path!r})"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.returncode != 0
    assert f"memory store {path}: another process has it open" in other.stderr
    store.upsert([row("still mine")])
    assert store.count() == 1


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
        store.count()


def test_an_unreachable_server_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        MilvusStore("http://127.0.0.1:9")


def test_the_collection_names_its_schema_normaliser_and_embedding_space() -> None:
    assert collection_name(SPACE) == "memory_v3w1__minilm384_53aa5117"
    assert collection_name("other") != collection_name(SPACE)


def test_two_spaces_share_a_file_and_the_alias_names_the_one_that_serves(path: str) -> None:
    first = MilvusStore(path)
    other = first.beside(Space("other8_1", 8))
    assert first.beside(MINILM) is first
    for store in (first, other, other, first, other):
        store.serve()
        assert store._serving() == store._name
    other.drop()
    assert other._serving() == other._name
    first.close()
    assert other.count() == 0
    other.discard()
    assert other._serving() is None
    other.close()
    again = MilvusStore(path)
    assert again._open.list_collections() == [again._name]
    again.close()


def test_a_search_while_the_rows_are_dropped_finds_nothing_and_fails_never(path: str) -> None:
    store = MilvusStore(path)
    vector, scope = np.ones(DIMENSION, np.float32), Filter("shop", now=0.0)
    over = threading.Event()
    failures: list[Exception] = []

    def search() -> None:
        while not over.is_set():
            try:
                store.nearest(vector, scope, 5)
            except Unavailable as error:
                failures.append(error)

    searching = threading.Thread(target=search)
    searching.start()
    for _ in range(5):
        store.upsert([Row(Record("shop", "note", "n:1", "text", 0.0), vector)])
        store.drop()
    over.set()
    searching.join()
    store.close()
    assert failures == []
