"""The database behind keys, budgets and the ledger, and its transactions.

Who reserves and who settles take turns, in all processes on one database: SQLite has one writer at
a time anyway, PostgreSQL takes a lock for the length of a transaction. What many requests want at
the same time is one transaction (`agents.commits`), so that turns are few.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, text

from cluster.database import Database
from cluster.errors import MainspringError

MIGRATIONS: Final = (
    """
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY, account TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
        digest TEXT NOT NULL, scopes TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
        expires_at DOUBLE PRECISION, revoked_at DOUBLE PRECISION,
        requests_per_minute BIGINT, tokens_per_minute BIGINT, max_streams BIGINT);
    CREATE TABLE budgets (
        tenant TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, period TEXT NOT NULL,
        limit_nano BIGINT NOT NULL, PRIMARY KEY (tenant, kind, subject, period));
    CREATE TABLE balances (
        tenant TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, period TEXT NOT NULL,
        since BIGINT NOT NULL, spent_nano BIGINT NOT NULL,
        PRIMARY KEY (tenant, kind, subject, period));
    CREATE TABLE reservations (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key_id TEXT NOT NULL, agent TEXT NOT NULL,
        run TEXT NOT NULL, nano BIGINT NOT NULL, tokens BIGINT NOT NULL, slot BIGINT NOT NULL,
        streams INTEGER NOT NULL, until DOUBLE PRECISION NOT NULL);
    CREATE INDEX reservations_tenant ON reservations (tenant);
    CREATE INDEX reservations_until ON reservations (until);
    CREATE TABLE rates (
        key_id TEXT NOT NULL, slot BIGINT NOT NULL, requests BIGINT NOT NULL,
        tokens BIGINT NOT NULL, PRIMARY KEY (key_id, slot));
    CREATE TABLE usage_rows (
        request_id TEXT NOT NULL, at DOUBLE PRECISION NOT NULL, day BIGINT NOT NULL,
        tenant TEXT NOT NULL, key_id TEXT NOT NULL, agent TEXT NOT NULL, run TEXT NOT NULL,
        workflow TEXT NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL,
        tokens_in BIGINT NOT NULL, tokens_out BIGINT NOT NULL, tokens_cached BIGINT NOT NULL,
        estimated INTEGER NOT NULL, gateway_s DOUBLE PRECISION NOT NULL,
        first_s DOUBLE PRECISION NOT NULL, engine_s DOUBLE PRECISION NOT NULL,
        price_nano BIGINT NOT NULL, unbilled_nano BIGINT NOT NULL,
        route TEXT NOT NULL, reason TEXT NOT NULL);
    CREATE INDEX usage_tenant ON usage_rows (tenant, at);
    CREATE INDEX usage_key ON usage_rows (key_id, at);
    CREATE INDEX usage_agent ON usage_rows (tenant, agent, at);
    CREATE INDEX usage_run ON usage_rows (run)
    """,
    "ALTER TABLE usage_rows ADD COLUMN inter_token_s DOUBLE PRECISION NOT NULL DEFAULT 0",
    """
    CREATE TABLE opinions (
        tenant TEXT NOT NULL, request_id TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL,
        verdict TEXT, score DOUBLE PRECISION, at DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (tenant, request_id));
    CREATE INDEX usage_request ON usage_rows (request_id)
    """,
    """
    CREATE TABLE shadows (
        request_id TEXT NOT NULL, tenant TEXT NOT NULL, at DOUBLE PRECISION NOT NULL,
        model TEXT NOT NULL, other TEXT NOT NULL, agreement DOUBLE PRECISION NOT NULL);
    CREATE INDEX shadows_at ON shadows (at)
    """,
    """
    CREATE TABLE questions (
        tenant TEXT NOT NULL, request_id TEXT NOT NULL, at DOUBLE PRECISION NOT NULL,
        question TEXT NOT NULL, PRIMARY KEY (tenant, request_id));
    CREATE INDEX questions_at ON questions (tenant, at)
    """,
)
_LOCK: Final = 7_305_046  # any number, the same in all processes: PostgreSQL's advisory lock


class Flushed(Protocol):
    """Work of a transaction that is written at its end."""

    def flush(self) -> None: ...


S = TypeVar("S", bound=Flushed)


class Accounts:
    """Transactions on the tables above. Safe to use from several threads."""

    def __init__(self, url: str, data_dir: Path) -> None:
        """See `cluster.database.Database`, also for what it raises."""
        self._database = Database(url, "accounts", MIGRATIONS, data_dir)
        self._locks = self._database.url.startswith("postgresql")
        self._mine = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The transaction that this thread's work belongs to, or a new one. Nobody else reserves or
        settles during it."""
        if (open_one := getattr(self._mine, "connection", None)) is not None:
            yield open_one
            return
        with self._database.transaction() as connection:
            if self._locks:
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK})
            self._mine.connection, self._mine.shared = connection, None
            try:
                yield connection
                if self._mine.shared is not None:
                    self._mine.shared.flush()
            finally:
                self._mine.connection = self._mine.shared = None

    @contextmanager
    def sharing(self, make: Callable[[Connection], S]) -> Iterator[S]:
        """What all work of a transaction has in common: made by the first that asks in it, flushed
        before it commits."""
        with self.transaction() as connection:
            if self._mine.shared is None:
                self._mine.shared = make(connection)
            yield self._mine.shared

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Like `transaction`, for looking only: it keeps nobody waiting."""
        if (open_one := getattr(self._mine, "connection", None)) is not None:
            yield open_one
            return
        with self._database.reading() as connection:
            yield connection

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Do all of `work` in one transaction; each one's result, or the error that it raised
        before it wrote anything. What the database raises undoes all of it."""
        with self.transaction():
            return [_answer(call) for call in work]

    def compact(self, tables: Sequence[str]) -> bool:
        """Rewrite the files without what was deleted; see `Database.compact`."""
        return self._database.compact(tables)

    def close(self) -> None:
        self._database.close()


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except MainspringError as error:
        return error
