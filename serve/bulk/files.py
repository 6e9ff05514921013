"""Files of tenants: a row for each, its bytes as an object.

The bytes are kept before the row: a file that is listed is whole. Bytes without a row, which a
crash between the two leaves, are swept away.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from sqlalchemy import text

from cluster.database import Database
from cluster.errors import Conflict, InvalidInput, NotFound
from cluster.ids import Clock, Ids
from cluster.objects import Objects
from serve.bulk.schema import OPEN_SQL, page

PURPOSES: Final = ("batch", "batch_output", "user_data")
UPLOADED: Final = ("batch", "user_data")
MAX_FILENAME: Final = 255
ORPHAN_S: Final = 86_400.0
_COLUMNS: Final = "id, tenant, filename, purpose, bytes, sha256, created_at, expires_at"
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]|[/\\]")


@dataclass(frozen=True)
class File:
    """A file's row. Times are seconds since the epoch; without `expires_at` it is kept."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float | None = None


class Files:
    """Safe to use from several threads and processes."""

    def __init__(self, database: Database, objects: Objects, clock: Clock, ids: Ids) -> None:
        self._database, self._objects, self._clock, self._ids = database, objects, clock, ids

    def add(
        self, tenant: str, filename: str, purpose: str, content: IO[bytes],
        expires_at: float | None = None, id: str = "",
    ) -> File:  # fmt: skip
        """Keep a file; its row. A second time with one `id` and the same content changes nothing;
        without one it gets a new one."""
        id = id or self._ids.new("file").replace("_", "-")
        start = content.tell()
        size = content.seek(0, 2) - start
        content.seek(start)
        digest = self._objects.write(_object(tenant, id), content)
        now = self._clock.now()
        file = File(id, tenant, _name(filename), purpose, size, digest, now, expires_at)
        with self._database.transaction() as connection:
            connection.execute(
                text(f"INSERT INTO files ({_COLUMNS}) VALUES (:id, :tenant, :filename, :purpose,"
                     " :bytes, :sha256, :created_at, :expires_at) ON CONFLICT (id) DO NOTHING"),
                vars(file),
            )  # fmt: skip
        return self.one(tenant, id)

    def one(self, tenant: str, id: str) -> File:
        """NotFound when the tenant has no such file, or its time is over."""
        query = text(f"SELECT {_COLUMNS} FROM files WHERE tenant = :t AND id = :i")
        with self._database.reading() as connection:
            row = connection.execute(query, {"t": tenant, "i": id}).first()
        file = None if row is None else File(*row)
        if file is None or self._over(file):
            raise NotFound("file", id)
        return file

    def listed(
        self, tenant: str, purpose: str | None, after: str, limit: int, newest: bool = True
    ) -> list[File]:
        """Up to `limit` of a tenant's files behind the file `after`."""
        rows = page(self._database, "files", _COLUMNS, tenant, after, limit, purpose, newest=newest)
        return [file for file in (File(*row) for row in rows) if not self._over(file)]

    def chunks(self, tenant: str, id: str) -> Iterator[bytes]:
        """A file's bytes, a part at a time. NotFound when the tenant has no such file."""
        return self._objects.chunks(_object(tenant, self.one(tenant, id).id))

    def remove(self, tenant: str, id: str) -> None:
        """A file is gone, its bytes too. Conflict while an open batch reads it, NotFound when there
        is none."""
        with self._database.transaction() as connection:
            self.one(tenant, id)
            query = text(f"SELECT id FROM batches WHERE input_file = :i AND status IN ({OPEN_SQL})")
            if row := connection.execute(query, {"i": id}).first():
                raise Conflict(f"file {id}", f"batch {row[0]} works on it; cancel that first")
            connection.execute(text("DELETE FROM files WHERE id = :i"), {"i": id})
        self._objects.delete(_object(tenant, id))

    def sweep(self) -> int:
        """Take away files whose time is over, and bytes that no row knows; how many."""
        swept = 0
        for file in self._expired():
            try:
                self._forget(file)
                swept += 1
            except Conflict:
                continue
        return swept + self._sweep_orphans()

    def _forget(self, file: File) -> None:
        with self._database.transaction() as connection:
            query = text(
                "DELETE FROM files WHERE id = :i AND NOT EXISTS (SELECT 1 FROM batches"
                f" WHERE input_file = :i AND status IN ({OPEN_SQL}))"
            )
            if not connection.execute(query, {"i": file.id}).rowcount:
                raise Conflict(f"file {file.id}", "an open batch works on it")
        self._objects.delete(_object(file.tenant, file.id))

    def _expired(self) -> Sequence[File]:
        query = text(f"SELECT {_COLUMNS} FROM files WHERE expires_at <= :now")
        with self._database.reading() as connection:
            return [File(*row) for row in connection.execute(query, {"now": self._clock.now()})]

    def _sweep_orphans(self) -> int:
        before = self._clock.now() - ORPHAN_S
        try:
            old = [e.name for e in self._objects.entries() if e.modified < before]
        except NotFound:
            return 0
        orphans = [name for name in old if not self._known(name.rpartition("/")[2])]
        for name in orphans:
            self._objects.delete(name)
        return len(orphans)

    def _known(self, id: str) -> bool:
        query = text("SELECT 1 FROM files WHERE id = :i")
        with self._database.reading() as connection:
            return connection.execute(query, {"i": id}).first() is not None

    def _over(self, file: File) -> bool:
        return file.expires_at is not None and file.expires_at <= self._clock.now()


def _object(tenant: str, id: str) -> str:
    return f"{tenant}/{id}"


def _name(given: str) -> str:
    """The file's name as it is shown: no path, nothing unprintable."""
    name = _UNPRINTABLE.sub("_", given.rpartition("/")[2])
    if not 0 < len(name) <= MAX_FILENAME:
        raise InvalidInput("file", given, f"a name of 1 to {MAX_FILENAME} characters")
    return name
