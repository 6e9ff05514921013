"""The tables of files and batches, and what both read them by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from cluster.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE files (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,
        bytes BIGINT NOT NULL, sha256 TEXT NOT NULL, created_at DOUBLE PRECISION NOT NULL,
        expires_at DOUBLE PRECISION);
    CREATE INDEX files_tenant ON files (tenant, created_at, id);
    CREATE TABLE batches (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, account TEXT NOT NULL, endpoint TEXT NOT NULL,
        model TEXT NOT NULL, input_file TEXT NOT NULL, window_text TEXT NOT NULL,
        metadata TEXT NOT NULL, status TEXT NOT NULL, errors TEXT NOT NULL,
        output_file TEXT NOT NULL, error_file TEXT NOT NULL, lines BIGINT NOT NULL,
        right_lines BIGINT NOT NULL, wrong_lines BIGINT NOT NULL, times TEXT NOT NULL,
        created_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION NOT NULL);
    CREATE INDEX batches_tenant ON batches (tenant, created_at, id);
    CREATE INDEX batches_status ON batches (status);
    CREATE TABLE batch_lines (
        batch TEXT NOT NULL, line BIGINT NOT NULL, custom_id TEXT NOT NULL, body TEXT NOT NULL,
        answered INTEGER NOT NULL, status INTEGER NOT NULL, request_id TEXT NOT NULL,
        answer TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
        PRIMARY KEY (batch, line));
    CREATE INDEX batch_lines_open ON batch_lines (batch, answered, line)
    """,
    """
    ALTER TABLE batch_lines ADD COLUMN expect TEXT NOT NULL DEFAULT '';
    ALTER TABLE batches ADD COLUMN usd DOUBLE PRECISION NOT NULL DEFAULT 0
    """,
)
OPEN: Final = ("validating", "in_progress", "cancelling", "finalizing")
OPEN_SQL: Final = ", ".join(f"'{status}'" for status in OPEN)


def opened(url: str, data_dir: Path) -> Database:
    """The database of files and batches; see `cluster.database.Database` for what it raises."""
    return Database(url, "batches", MIGRATIONS, data_dir)


def page(
    database: Database, table: str, columns: str, tenant: str, after: str, limit: int,
    purpose: str | None = None, newest: bool = True,
) -> Sequence[Any]:  # fmt: skip
    """Up to `limit` of a tenant's rows behind the row `after`, the newest or the oldest first."""
    sense, order = ("<", "DESC") if newest else (">", "ASC")
    behind = f" AND (created_at, id) {sense} (SELECT created_at, id FROM {table} WHERE id = :after)"
    query = text(
        f"SELECT {columns} FROM {table} WHERE tenant = :t{' AND purpose = :p' if purpose else ''}"
        f"{behind if after else ''} ORDER BY created_at {order}, id {order} LIMIT :k"
    )
    given = {"t": tenant, "k": limit, "after": after, "p": purpose}
    with database.reading() as connection:
        return connection.execute(query, given).all()
