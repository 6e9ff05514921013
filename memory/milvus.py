"""Vectors in Milvus: a Milvus Lite file of this process, or a cluster by its URI.

Only what both understand in the same way is used: explicit text keys, full-row upserts, FLAT or
AUTOINDEX with cosine, comparisons with our own literals. A filter never holds a caller's text: ids
and documents are hex hashes, tenants and kinds are names of a fixed alphabet, and `_literal`
refuses anything else. The collection's name carries the schema version and the embedding space, so
vectors of another model are never searched.

Not covered: a Lite file's damage (a corrupt manifest opens as an empty collection), and power loss
between a flush and the disk's own write.
"""

import fcntl
import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster.errors import Conflict, DataError, InvalidInput, Unavailable
from memory.embed import DIMENSION, SPACE, Vectors
from memory.records import MAX_META_BYTES, MAX_SOURCE_BYTES, MAX_TEXT_BYTES, Record, Scored

SCHEMA: Final = 1
_LITERAL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FIELDS: Final = ["tenant", "kind", "source", "text", "event_ms", "meta"]
_ROWS: Final = 500  # in one write; a row can hold 64 KB and gRPC takes 64 MB
_NAMES: Final = 2000  # in one filter
_LONGEST_META: Final = 4 * MAX_META_BYTES - 1


def collection_name(space: str = SPACE) -> str:
    """One collection per schema version and embedding space."""
    return f"memory_v{SCHEMA}__{space}"


def checked(vectors: Vectors, count: int) -> Vectors:
    """The vectors as float32. Raises InvalidInput unless each is finite, not zero and fits."""
    rows = np.asarray(vectors, dtype=np.float32)
    if rows.shape != (count, DIMENSION):
        raise InvalidInput("vectors", rows.shape, f"the shape ({count}, {DIMENSION})")
    lengths = np.linalg.norm(rows, axis=1) if count else np.ones(1)
    if not np.isfinite(lengths).all():
        raise InvalidInput("vectors", "NaN or infinity", "finite numbers")
    if lengths.min() < 1e-6:
        raise InvalidInput("vectors", "a zero vector", "vectors with a direction")
    return rows


class MilvusStore:
    """VectorStore in Milvus. Owns a Lite file until `close`.

    `uri` with a scheme is a server's address, anything else a Lite file's path (ending in .db).
    Raises Conflict, naming the path, when a Lite file is open elsewhere; Unavailable when Milvus
    can't be reached.
    """

    def __init__(self, uri: str, token: str = "", space: str = SPACE) -> None:
        # errors arrive here as exceptions; the client would also print a traceback for each
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._where = uri
        self._local = "://" not in uri
        self._name = collection_name(space)
        self._writing = threading.Lock()
        self._client: Any = None
        if self._local:
            _require_free(Path(uri))
        from pymilvus import MilvusClient

        with self._translated():
            self._client = MilvusClient(uri=uri, token=token)
            if not self._client.has_collection(self._name):
                self._create()
            self._client.load_collection(self._name)

    def _create(self) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("tenant", DataType.VARCHAR, max_length=64)
        schema.add_field("kind", DataType.VARCHAR, max_length=64)
        schema.add_field("document", DataType.VARCHAR, max_length=64)
        schema.add_field("source", DataType.VARCHAR, max_length=MAX_SOURCE_BYTES)
        schema.add_field("text", DataType.VARCHAR, max_length=MAX_TEXT_BYTES)
        schema.add_field("event_ms", DataType.INT64)
        schema.add_field("meta", DataType.VARCHAR, max_length=_LONGEST_META)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        index = self._client.prepare_index_params()
        # on Lite AUTOINDEX is a graph that costs seconds to build and saves nothing below 100,000
        kind = "FLAT" if self._local else "AUTOINDEX"
        index.add_index("vector", index_type=kind, metric_type="COSINE")
        for column in ("tenant", "kind", "document"):
            index.add_index(column, index_type="INVERTED")
        self._client.create_collection(
            self._name, schema=schema, index_params=index, consistency_level="Strong"
        )

    def upsert(self, records: Sequence[Record], vectors: Vectors) -> None:
        """See VectorStore."""
        rows = checked(vectors, len(records))
        data = [_row(record, row) for record, row in zip(records, rows, strict=True)]
        with self._writing, self._translated():
            for part in _parts(data, _ROWS):
                self._open.upsert(self._name, part)

    def known(self, tenant: str, ids: Sequence[str]) -> set[str]:
        """See VectorStore."""
        return self._ids(tenant, "id", ids)

    def members(self, tenant: str, documents: Sequence[str]) -> set[str]:
        """See VectorStore."""
        return self._ids(tenant, "document", [_document(d) for d in documents])

    def _ids(self, tenant: str, column: str, values: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._translated():
            for part in _parts(list(values), _NAMES):
                rows = self._open.query(
                    self._name, filter=_scope(tenant, column, part), output_fields=["id"]
                )
                found.update(row["id"] for row in rows)
        return found

    def search(
        self, vector: Vectors, tenant: str, kinds: Sequence[str], limit: int
    ) -> list[Scored]:
        """See VectorStore."""
        rows = checked(vector.reshape(1, -1), 1)
        with self._translated():
            (found,) = self._open.search(
                self._name,
                data=rows.tolist(),
                filter=_scope(tenant, "kind", kinds),
                limit=limit,
                output_fields=_FIELDS,
            )
        return [Scored(_record(hit["id"], hit["entity"]), float(hit["distance"])) for hit in found]

    def delete(self, tenant: str, ids: Sequence[str]) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            for part in _parts(list(ids), _NAMES):
                self._open.delete(self._name, filter=_scope(tenant, "id", part))

    def count(self, tenant: str) -> int:
        """See VectorStore."""
        with self._translated():
            (row,) = self._open.query(self._name, filter=_scope(tenant), output_fields=["count(*)"])
        return int(row["count(*)"])

    def flush(self) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            self._open.flush(self._name)

    def close(self) -> None:
        """See VectorStore."""
        client, self._client = self._client, None
        if client is None:
            return
        with self._translated():
            client.close()
        if self._local:
            from milvus_lite.server_manager import (  # type: ignore[import-untyped]
                server_manager_instance,
            )

            # the client leaves the embedded server, and with it the file's lock, behind
            server_manager_instance.release_server(self._where)

    @property
    def _open(self) -> Any:
        if self._client is None:
            raise Unavailable(f"memory store {self._where}", "it is closed")
        return self._client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import grpc  # type: ignore[import-untyped]
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            reason = getattr(error, "message", "") or str(error)
            raise Unavailable(f"memory store {self._where}", reason) from error


def _require_free(path: Path) -> None:
    """Raises Conflict when another owner holds a Lite file."""
    if path.suffix != ".db":
        raise InvalidInput("memory.uri", str(path), "a path that ends in .db, or a URI")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_dir():
        raise Conflict(f"memory store {path}", "a file of another format lies there")
    # Milvus Lite locks this file itself, but says only in its log what went wrong
    with (path / "LOCK").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(f"memory store {path}", "another process has it open") from error


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _literal(value: str) -> str:
    if not _LITERAL.fullmatch(value):
        raise InvalidInput("filter value", value, f"a name that matches {_LITERAL.pattern}")
    return f'"{value}"'


def _scope(tenant: str, column: str = "", values: Sequence[str] = ()) -> str:
    """The one place where a filter is made: always one tenant, perhaps one column's values."""
    owned = f"tenant == {_literal(tenant)}"
    if not values:
        return owned
    return f"{owned} and {column} in [{', '.join(map(_literal, values))}]"


def _document(name: str) -> str:
    return hashlib.blake2b(name.encode("utf-8"), digest_size=16).hexdigest()


def _row(record: Record, vector: Vectors) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant": record.tenant,
        "kind": record.kind,
        "document": _document(record.document),
        "source": record.source,
        "text": record.text,
        "event_ms": round(record.event_at * 1000),
        "meta": json.dumps(dict(record.meta), ensure_ascii=False),
        "vector": vector.tolist(),
    }


def _record(id: str, row: dict[str, Any]) -> Record:
    """The row as a record. Raises DataError when its content does not match its id."""
    record = Record(
        tenant=row["tenant"],
        kind=row["kind"],
        source=row["source"],
        text=row["text"],
        event_at=row["event_ms"] / 1000,
        meta=json.loads(row["meta"]),
    )
    if record.id != id:
        raise DataError(f"memory record {id}", "its content does not match its id")
    return record
