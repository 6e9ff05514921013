"""What earlier versions wrote is read by this one: the log's tables from each migration on, and the
records that the first version kept in Milvus alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from sqlalchemy import text

from cluster.errors import DataError
from cluster.settings import MemorySection
from memory.embed import DIMENSION, SPACE
from memory.log import Batch, Log
from memory.log_tables import MIGRATIONS
from memory.milvus import collection_name, outdated
from memory.records import Query, Record
from tests.memories import Desk, Ticking, Words, said

pytestmark = pytest.mark.enable_socket
SECRET = "Wilhelmina Quarzbrunn"


@pytest.mark.parametrize("schema", range(1, len(MIGRATIONS)))
def test_a_log_of_each_earlier_schema_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    record = said("a line from long ago")
    vector = np.ones((1, DIMENSION), np.float32)
    with monkeypatch.context() as earlier:
        earlier.setattr("memory.log.MIGRATIONS", MIGRATIONS[:schema])
        old = Log("sqlite:///log.db", tmp_path, Ticking())
        old.add([Batch([record], vector)])
        old.mark(SPACE, 1)
        old.close()
    log = Log("sqlite:///log.db", tmp_path, Ticking())
    (logged,) = log.logged([record.id], SPACE)
    assert (logged.record.text, log.marked(SPACE), log.verify()) == (record.text, 1, 1)
    assert log.spaces.all() == []
    assert log.probes.frozen("shop") is None
    log.close()


def test_a_log_of_a_later_schema_is_not_touched(tmp_path: Path) -> None:
    log = Log("sqlite:///log.db", tmp_path, Ticking())
    with log._database.transaction() as connection:
        connection.execute(text("UPDATE schema_versions SET version = 99"))
    log.close()
    with pytest.raises(DataError, match="newer version"):
        Log("sqlite:///log.db", tmp_path, Ticking())


class FirstVersion:
    """A Lite file as the first version wrote it."""

    def __init__(self, path: Path, space: str = SPACE) -> None:
        self.client, self.name = MilvusClient(uri=str(path)), f"memory_v1__{space}"
        self.path = path
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        for column, length in (
            ("tenant", 64), ("kind", 64), ("document", 64), ("source", 1_000), ("text", 64_000),
            ("meta", 63_999),
        ):  # fmt: skip
            schema.add_field(column, DataType.VARCHAR, max_length=length)
        schema.add_field("event_ms", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        self.client.create_collection(self.name, schema=schema, index_params=index)

    def keep(self, record: Record, vector: Any, **wrong: Any) -> None:
        row = {
            "id": record.id, "tenant": record.tenant, "kind": record.kind, "document": "0" * 32,
            "source": record.source, "text": record.text, "meta": json.dumps(dict(record.meta)),
            "event_ms": round(record.event_at * 1000), "vector": [float(x) for x in vector],
        }  # fmt: skip
        self.client.upsert(self.name, [row | wrong])

    def close(self) -> None:
        from milvus_lite.server_manager import (  # type: ignore[import-untyped]
            server_manager_instance,
        )

        self.client.flush(self.name)
        self.client.close()
        server_manager_instance.release_server(str(self.path))


def ticket(number: int) -> Record:
    words = f"ticket {number} of {SECRET} about lamp {number}"
    return Record("shop", "ticket", f"ticket:{number}", words, 1_700_000_000.5, {"queue": "a"})


@pytest.mark.parametrize("space", [SPACE, "older384_00000000"])
async def test_what_the_first_version_kept_is_taken_over_and_can_be_forgotten(
    tmp_path: Path, space: str
) -> None:
    first = FirstVersion(tmp_path / "memory.db", space)
    for number, vector in enumerate(await Words().embed([ticket(n).text for n in range(30)])):
        first.keep(ticket(number), vector)
    first.keep(ticket(99), np.ones(DIMENSION), text=f"{SECRET}, but not as it was written")
    first.close()
    desk = Desk(tmp_path, MemorySection(), None)
    hits = await desk.memory.recall(Query("shop", ticket(7).text, k=1))
    kept = hits[0].record
    assert (kept.text, kept.event_at, dict(kept.meta)) == (
        ticket(7).text, 1_700_000_000.5, {"queue": "a"},
    )  # fmt: skip
    assert (kept.trust, kept.tier) == ("tenant", "long_term")
    assert await desk.memory.count("shop") == 30
    again = [] if space == SPACE else [ticket(n).text for n in range(30)]
    assert sorted(desk.words.embedded[:-1]) == sorted(again)
    (event,) = await desk.memory.history("shop", kept.id)
    assert (event["by"], event["why"]) == ("an earlier version", f"taken over from {first.name}")
    (reported,) = await desk.memory.history("shop", ticket(99).id)
    assert reported["what"] == "erased"
    assert SECRET not in reported["why"]
    assert (await desk.memory.health("shop")).good
    receipt = await desk.memory.forget("shop", [ticket(n).id for n in range(30)], by="a", why="b")
    assert receipt.complete
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"Quarzbrunn" not in path.read_bytes(), path
    assert await desk.memory.recall(Query("shop", ticket(7).text)) == []
    await desk.memory.close()


def test_only_what_is_older_than_what_serves_goes() -> None:
    current = collection_name(SPACE)
    older = current.replace("memory_v3", "memory_v2")
    names = [
        current, older, f"memory_v1__{SPACE}", "memory_v1__another", f"memory_v99w1__{SPACE}",
        "memory_v3w1__another", "somebodys_own", "memory",
    ]  # fmt: skip
    assert outdated(names, [current]) == [older, f"memory_v1__{SPACE}", "memory_v1__another"]
