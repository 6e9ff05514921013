"""The index in Milvus: a Milvus Lite file of this process, or a cluster by its URI.

Only what both understand in the same way is used: explicit text keys, rows that are written whole
and without dynamic fields, FLAT or AUTOINDEX over unit vectors, sparse vectors of our own, both by
their inner product, comparisons with our own literals. The keyword leg is no BM25 function of
Milvus: Lite counts a word's rarity in each of its files for itself, a cluster over all tenants
together, and both would need the text. A row holds no text and no name that a caller chose:
subjects, agents and sessions are hashes there.

The collection's name carries the schema version, the normaliser's and the embedding space, so
weights or vectors of another make are never searched. The alias `memory` names the one that serves,
for people and other programs; we ask collections by their own names, since a question's vector and
the collection must be of one space at every moment, and which that is says the log (spaces.py).

Not covered: a Lite file's damage (a corrupt manifest opens as an empty collection) and power loss
between a flush and the disk's own write. The log knows better, and the index is made anew.
"""

import fcntl
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster.errors import Conflict, InvalidInput, Unavailable
from memory import columns
from memory.columns import expression
from memory.embed import MINILM, Space, Vectors
from memory.scope import Filter
from memory.store import Keywords, Match, Old, Row, checked
from memory.words import VERSION

_ROWS: Final = 500  # in one write; a row with its vectors is some 10 KB and gRPC takes 64 MB
_NAMES: Final = 2000  # in one filter
_LISTED: Final = 10_000  # ids in one page; Milvus gives at most 16,384
_NO_KEYWORDS: Final = {2**32 - 2: 1e-9}  # a term that no text has; an empty row is not portable


ALIAS: Final = "memory"
"""Another name of the collection that serves."""


_V1: Final = re.compile(r"memory_v1__.+")
_OURS: Final = re.compile(r"memory_v(?P<schema>\d+)w(?P<words>\d+)__(?P<space>.+)")


def collection_name(space: str) -> str:
    """One collection per schema version, normaliser and embedding space."""
    return f"memory_v{columns.SCHEMA}w{VERSION}__{space}"


class _Connection:
    """A client, shared by the stores of several spaces and closed with the last of them. It keeps a
    Lite file's lock."""

    def __init__(self, uri: str, token: str) -> None:
        self.where, self.local = uri, "://" not in uri
        self.writing = threading.Lock()
        self.users = 1
        if self.local:
            _require_free(Path(uri))
        from pymilvus import MilvusClient

        # errors arrive here as exceptions; client and embedded server would print tracebacks too,
        # and importing the client sets its own level
        for noisy in ("pymilvus", "grpc._server"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        with self.translated():
            self.client: Any = MilvusClient(uri=uri, token=token)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Milvus' errors as ours."""
        import grpc  # type: ignore[import-untyped]
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, grpc.RpcError) as error:
            reason = getattr(error, "message", "") or str(error)
            raise Unavailable(f"memory store {self.where}", reason) from error

    def release(self) -> None:
        """One store less."""
        self.users -= 1
        if self.users:
            return
        with self.translated():
            self.client.close()
        if self.local:
            from milvus_lite.server_manager import (  # type: ignore[import-untyped]
                server_manager_instance,
            )

            # the client leaves the embedded server, and with it the file's lock, behind
            server_manager_instance.release_server(self.where)


def outdated(names: Sequence[str], current: Sequence[str]) -> list[str]:
    """PURE: those of the names that an earlier version made: all of the first one, and of later
    ones those whose space has a collection of the `current` names."""
    spaces = {found["space"]: found for name in current if (found := _OURS.fullmatch(name))}
    return [name for name in names if _V1.fullmatch(name) or _older(name, spaces)]


def _older(name: str, spaces: dict[str, re.Match[str]]) -> bool:
    found = _OURS.fullmatch(name)
    newer = spaces.get(found["space"]) if found else None
    return bool(found and newer and _version(found) < _version(newer))


def _version(found: re.Match[str]) -> tuple[int, int]:
    return int(found["schema"]), int(found["words"])


class _Collection:
    """`store.Old` in Milvus."""

    def __init__(self, connection: _Connection, name: str) -> None:
        self._connection, self.name = connection, name

    def pages(self) -> Iterator[list[dict[str, Any]]]:
        client = self._connection.client
        with self._connection.translated():
            client.load_collection(self.name)
            pages = client.query_iterator(
                self.name, batch_size=_ROWS, filter='id != ""', output_fields=["*"]
            )
            while page := pages.next():
                yield [dict(row) for row in page]
            pages.close()

    def drop(self) -> None:
        with self._connection.writing, self._connection.translated():
            self._connection.client.drop_collection(self.name)


class MilvusStore:
    """VectorStore in Milvus. Owns a Lite file until `close`.

    `uri` with a scheme is a server's address, anything else a Lite file's path (ending in .db).
    Raises Conflict, naming the path, when a Lite file is open elsewhere; Unavailable when Milvus
    can't be reached.
    """

    def __init__(
        self,
        uri: str,
        token: str = "",
        space: Space = MINILM,
        connection: _Connection | None = None,
    ) -> None:
        self._connection = connection or _Connection(uri, token)
        self._where, self._local = uri, self._connection.local
        self._space = space
        self._name = collection_name(space.name)
        self._dimension = space.dimension
        self._writing = self._connection.writing
        self._translated = self._connection.translated
        self._closed = False
        self._drops = 0
        try:
            self._ready()
        except BaseException:
            self.close()
            raise

    def _ready(self) -> None:
        with self._translated():
            if not self._open.has_collection(self._name):
                columns.create(self._open, self._name, self._dimension, exact=self._local)
            self._open.load_collection(self._name)

    def beside(self, space: Space) -> "MilvusStore":
        """See VectorStore."""
        if space == self._space:
            return self
        self._connection.users += 1
        return MilvusStore(self._where, "", space, self._connection)

    def left_behind(self, spaces: Sequence[Space]) -> Sequence[Old]:
        """See VectorStore."""
        with self._translated():
            there = [str(name) for name in self._connection.client.list_collections()]
        current = [collection_name(space.name) for space in spaces]
        return [_Collection(self._connection, name) for name in outdated(there, current)]

    def serve(self) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            serving = self._serving()
            if serving is None:
                self._open.create_alias(self._name, ALIAS)
            elif serving != self._name:
                self._open.alter_alias(self._name, ALIAS)

    def _serving(self) -> str | None:
        """The collection that the alias names."""
        for name in self._open.list_collections():
            if ALIAS in self._open.list_aliases(name)["aliases"]:
                return str(name)
        return None

    def _dropped(self) -> bool:
        """Drop the collection; says whether it was the one that serves. A cluster keeps one that
        has an alias."""
        serves = ALIAS in self._open.list_aliases(self._name)["aliases"]
        if serves:
            self._open.drop_alias(ALIAS)
        self._open.drop_collection(self._name)
        return serves

    def upsert(self, rows: Sequence[Row]) -> None:
        """See VectorStore."""
        if not rows:
            return
        for row in rows:
            checked(row.vector.reshape(1, -1), 1, self._dimension)
        data = [_stored(row) for row in rows]
        with self._writing, self._translated():
            for part in _parts(data, _ROWS):
                self._open.upsert(self._name, part)

    def delete(self, ids: Sequence[str]) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            for part in _parts(list(ids), _NAMES):
                self._open.delete(self._name, filter=columns.among("id", part))

    def nearest(self, vector: Vectors, scope: Filter, limit: int) -> list[Match]:
        """See VectorStore."""
        row = checked(vector.reshape(1, -1), 1, self._dimension)
        return self._search("vector", _direction(row[0]), columns.DENSE, scope, limit)

    def matching(self, keywords: Keywords, scope: Filter, limit: int) -> list[Match]:
        """See VectorStore."""
        asked = {term: weight for term, weight in keywords.items() if weight > 0}
        if not asked:
            return []
        return [m for m in self._search("keywords", asked, "IP", scope, limit) if m.score > 0]

    def _search(self, leg: str, asked: Any, metric: str, scope: Filter, limit: int) -> list[Match]:
        drops = self._drops
        try:
            found = self._found(leg, asked, metric, scope, limit)
        except Unavailable:
            if drops == self._drops and not drops % 2:
                raise
            found = []  # it was dropped meanwhile, and is empty
        matches = [Match(hit["id"], float(hit["distance"])) for hit in found]
        return sorted(matches, key=lambda match: (-match.score, match.id))

    def _found(self, leg: str, asked: Any, metric: str, scope: Filter, limit: int) -> list[Any]:
        with self._translated():
            (found,) = self._open.search(
                self._name,
                data=[asked],
                anns_field=leg,
                search_params={"metric_type": metric},
                filter=expression(scope),
                limit=limit,
                output_fields=["id"],  # with none named, Lite sends every column, vectors and all
            )
        return list(found)

    def ids(self) -> set[str]:
        """See VectorStore."""
        with self._translated():
            pages = self._open.query_iterator(
                self._name, batch_size=_LISTED, filter='id != ""', output_fields=["id"]
            )
            found: set[str] = set()
            while page := pages.next():
                found.update(row["id"] for row in page)
            pages.close()
        return found

    def count(self) -> int:
        """See VectorStore."""
        with self._translated():
            (row,) = self._open.query(self._name, filter="", output_fields=["count(*)"])
        return int(row["count(*)"])

    def flush(self) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            self._open.flush(self._name)

    def drop(self) -> None:
        """See VectorStore."""
        self._drops += 1  # odd while there is no collection
        try:
            with self._writing, self._translated():
                serves = self._dropped()
            self._ready()
        finally:
            self._drops += 1
        if serves:
            self.serve()

    def discard(self) -> None:
        """See VectorStore."""
        with self._writing, self._translated():
            if self._open.has_collection(self._name):
                self._dropped()

    def close(self) -> None:
        """See VectorStore."""
        if not self._closed:
            self._closed = True
            self._connection.release()

    @property
    def _open(self) -> Any:
        if self._closed:
            raise Unavailable(f"memory store {self._where}", "it is closed")
        return self._connection.client


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


def _stored(row: Row) -> dict[str, Any]:
    return columns.scalars(row.record) | {
        "vector": _direction(row.vector),
        "keywords": dict(row.keywords) or _NO_KEYWORDS,
    }


def _direction(vector: Vectors) -> list[float]:
    """The vector at length 1."""
    unit: list[float] = (np.asarray(vector, np.float32) / np.linalg.norm(vector)).tolist()
    return unit
