"""The log of memory on SQLite and PostgreSQL: appended, checked, all or nothing."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from cluster.errors import DataError, InvalidInput, Unavailable
from memory.embed import DIMENSION, SPACE, Vectors
from memory.log import Batch, Log, Note
from memory.records import Origin, Record
from tests.databases import server as server
from tests.databases import url as url
from tests.memories import START, Ticking, said

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def log(url: str, tmp_path: Path) -> Iterator[Log]:
    log = Log(url, tmp_path, Ticking())
    yield log
    log.close()


def vectors(count: int) -> Vectors:
    return np.arange(1, count * DIMENSION + 1, dtype=np.float32).reshape(count, DIMENSION)


def batch(*records: Record) -> Batch:
    return Batch(records, vectors(len(records)), Note("ann", "why"))


def test_a_record_comes_back_whole_with_its_vector(log: Log) -> None:
    record = said(
        "grüße 🦊 'quoted' \u202ertl", meta={"a": "b"}, subject="ann", agent="helper",
        expires_at=START + 5, importance=0.9, trust="tenant", labels=("pii", "legal"),
        origin=Origin("tool", "crm", "run_1"), pinned=True, parents=("0" * 32,),
    )  # fmt: skip
    ((kept,),) = log.add([batch(record)])
    (back,) = log.logged([record.id], SPACE)
    assert back.record == kept == record
    assert back.record.recorded_at == START
    assert (back.vector == vectors(1)[0]).all()
    assert back.seq == log.end() == 1


def test_the_same_record_is_kept_once_and_says_nothing_the_second_time(log: Log) -> None:
    one = said("one")
    assert [len(part) for part in log.add([batch(one, one), batch(one)])] == [1, 0]
    assert log.add([batch(one)]) == [[]]
    assert log.verify() == 1


def test_a_batch_is_kept_whole_or_not_at_all(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.log._VECTOR", text("INSERT INTO no_such_table VALUES (:id)"))
    with pytest.raises(Unavailable):
        log.add([batch(said("one"), said("two"))])
    assert (log.count(), log.end(), log.verify()) == (0, 0, 0)


def test_every_change_is_an_event_in_one_chain(log: Log) -> None:
    first, second = said("one"), said("two")
    ((kept, _),) = log.add([batch(first, second)])
    log.promote(kept, Note("ann", "useful"))
    log.remove([second], "forgotten", Note("ann", "asked"))
    log.hold("shop", "ann", Note("legal", "case"))
    log.release("shop", "ann", Note("legal", "closed"))
    assert log.verify() == 6
    assert [e["what"] for e in log.history("shop", second.id)] == ["remembered", "forgotten"]
    assert log.get("shop", [first.id])[first.id].tier == "long_term"
    assert list(log.seqs().values()) == [3]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE memory_events SET why = 'another reason' WHERE seq = 2",
        "DELETE FROM memory_events WHERE seq = 2",
        "UPDATE memory_events SET tenant = 'other' WHERE seq = 1",
    ],
)
def test_a_changed_or_missing_event_shows(log: Log, change: str) -> None:
    log.add([batch(said("one"), said("two"), said("three"))])
    with log._database.transaction() as connection:
        connection.execute(text(change))
    with pytest.raises(DataError, match="not as it was written"):
        log.verify()


@pytest.mark.parametrize(
    ("change", "tenant"),
    [
        ("body = replace(body, '10', '99')", "shop"),
        ("digest = 'another'", "shop"),
        ("tenant = 'other'", "other"),
    ],
)
def test_a_changed_record_is_not_returned(log: Log, change: str, tenant: str) -> None:
    record = said("pay 10 euros")
    log.add([batch(record)])
    with log._database.transaction() as connection:
        connection.execute(text(f"UPDATE memory_records SET {change}"))
    with pytest.raises(DataError, match="memory record"):
        log.get(tenant, [record.id])


def test_a_damaged_end_stops_the_opening(tmp_path: Path) -> None:
    log = Log("sqlite:///log.db", tmp_path, Ticking())
    log.add([batch(said("one"), said("two"))])
    log.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("UPDATE memory_events SET id = 'x' WHERE seq = 2")
    with pytest.raises(DataError, match="event 2"):
        Log("sqlite:///log.db", tmp_path, Ticking())


def test_a_version_follows_another_in_one_step(log: Log) -> None:
    ((old,),) = log.add([batch(said("old"))])
    past, new = log.supersede(old, batch(said("new", parents=(old.id,))))
    assert past.superseded_at == new.recorded_at == START
    assert [r.text for r in log.page("shop", START)] == ["new"]
    with pytest.raises(InvalidInput, match="another text"):
        log.supersede(new, batch(said("old")))
    assert log.verify() == 3


def test_passages_are_found_by_their_place_in_the_document(log: Log) -> None:
    parts = [Record("shop", "policy", f"policy:a.md#{n}", f"part {n}", 0.0) for n in range(1, 8)]
    log.add([batch(*parts)])
    assert [r.number for r in log.passages("shop", "policy:a.md", 3, 5)] == [3, 4, 5]
    assert log.passages("other", "policy:a.md", 3, 5) == []
    assert log.members("shop", ["policy:a.md"]) == {part.id for part in parts}


def test_files_are_rewritten_without_what_was_removed(log: Log) -> None:
    record = said("Quarzbrunn")
    log.add([batch(record)])
    log.remove([record], "forgotten", Note())
    rewritten = log.scrub()
    assert rewritten is (log._database._engine.dialect.name == "sqlite")
    assert log.count() == 0
