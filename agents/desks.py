"""A desk in one SQLite file: where a connector does effects, each once for its key.

The same key again returns the stored receipt with `"repeated": True`; the same key with other
arguments is a Conflict. An effect is made in one transaction with its receipt, and a commit is on
disk before the call returns (WAL, synchronous=FULL). Times are seconds since the epoch (UTC).
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cluster.errors import Conflict, InvalidInput
from cluster.ids import Clock

Row = dict[str, Any]
Receipt = dict[str, Any]

EFFECTS: Final = """
create table if not exists effects(
  key text primary key, kind text not null, subject text not null, payload text not null,
  receipt text not null, done_at real not null);
"""


class SqliteDesk:
    """One file, one connection, one lock: safe to share between threads of one process."""

    def __init__(self, path: Path, clock: Clock, schema: str) -> None:
        """`schema` makes the tables that are not there yet, `effects` among them."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=wal", "synchronous=full", "foreign_keys=on"):
            self._db.execute(f"pragma {pragma}")
        self._db.executescript(schema)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def find(self, key: str) -> Receipt | None:
        """The receipt of an effect that was done, or None. Answers an effect left open."""
        found = self.one("select receipt from effects where key = ?", key)
        return None if found is None else json.loads(found["receipt"])

    def effects(self, subject: str | None = None) -> list[Receipt]:
        """The receipts of the effects on a subject, or of all, in the order they were done."""
        rows = self.all("select * from effects order by rowid")
        return [json.loads(r["receipt"]) for r in rows if subject in (None, tuple(r.values())[2])]

    def one(self, query: str, *values: Any) -> Row | None:
        """The first row, or None."""
        with self._lock:
            found = self._db.execute(query, values).fetchone()
        return None if found is None else dict(found)

    def all(self, query: str, *values: Any) -> list[Row]:
        """The rows."""
        with self._lock:
            return [dict(row) for row in self._db.execute(query, values).fetchall()]

    def once(
        self, key: str, kind: str, subject: str, payload: Row, act: Callable[[], Receipt]
    ) -> Receipt:
        """Do `act`, once for this key, and keep what it returns as the receipt. What it raises
        takes back all that it wrote."""
        if not key:
            raise InvalidInput("key", key, "the effect's idempotency key")
        said = json.dumps(payload, sort_keys=True, ensure_ascii=False)
        with self.transaction():
            done = self._db.execute("select * from effects where key = ?", (key,)).fetchone()
            if done is not None:
                if tuple(done)[1:4] != (kind, subject, said):
                    raise Conflict(f"key {key!r}", "was used for another effect")
                return {**json.loads(done["receipt"]), "repeated": True}
            now = self._clock.now()
            # The effect's row comes first: the rows that act writes may refer to it.
            self._db.execute(
                "insert into effects values (?,?,?,?,'',?)", (key, kind, subject, said, now)
            )
            receipt = {"key": key, "kind": kind, "done_at": now, **act(), "repeated": False}
            stored = json.dumps(receipt, ensure_ascii=False)
            self._db.execute("update effects set receipt = ? where key = ?", (stored, key))
        return receipt

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written within stands, or nothing of it."""
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
