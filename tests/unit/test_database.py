"""A database behind one URL: migrated once, whole transactions, errors of ours."""

from pathlib import Path

import pytest
from sqlalchemy import text

from cluster.database import Database
from cluster.errors import ConfigError, DataError, Unavailable

ONE = "CREATE TABLE notes (id BIGINT PRIMARY KEY, words TEXT NOT NULL)"
TWO = "ALTER TABLE notes ADD COLUMN at BIGINT; CREATE INDEX notes_at ON notes (at)"


def _open(folder: Path, *migrations: str, component: str = "notes") -> Database:
    return Database("sqlite:///notes.db", component, migrations, folder)


def _words(database: Database) -> list[str]:
    with database.transaction() as connection:
        return [str(w) for (w,) in connection.execute(text("SELECT words FROM notes ORDER BY id"))]


def test_a_relative_file_lies_below_the_data_folder(tmp_path: Path) -> None:
    _open(tmp_path / "deep" / "er", ONE).close()
    assert (tmp_path / "deep" / "er" / "notes.db").is_file()


def test_each_migration_is_applied_once_and_in_order(tmp_path: Path) -> None:
    first = _open(tmp_path, ONE)
    with first.transaction() as connection:
        connection.execute(text("INSERT INTO notes VALUES (1, 'kept')"))
    first.close()
    for _ in range(2):
        later = _open(tmp_path, ONE, TWO)
        with later.transaction() as connection:
            row = connection.execute(text("SELECT id, words, at FROM notes")).one()
            assert tuple(row) == (1, "kept", None)
        later.close()


def test_a_failed_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        _open(tmp_path, f"{ONE}; CREATE NONSENSE")
    database = _open(tmp_path, ONE)
    assert _words(database) == []
    database.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    _open(tmp_path, ONE, TWO).close()
    with pytest.raises(DataError, match="notes has schema 2, this Mainspring knows 1"):
        _open(tmp_path, ONE)


def test_two_components_share_a_file_without_mixing_versions(tmp_path: Path) -> None:
    _open(tmp_path, ONE, TWO).close()
    other = _open(tmp_path, "CREATE TABLE others (id BIGINT)", component="others")
    with other.transaction() as connection:
        query = text("SELECT component, version FROM schema_versions ORDER BY component")
        assert list(connection.execute(query)) == [("notes", 2), ("others", 1)]
    other.close()
    _open(tmp_path, ONE, TWO).close()


def test_a_transaction_that_raises_changes_nothing(tmp_path: Path) -> None:
    database = _open(tmp_path, ONE)
    with pytest.raises(RuntimeError), database.transaction() as connection:
        connection.execute(text("INSERT INTO notes VALUES (1, 'half')"))
        raise RuntimeError
    assert _words(database) == []
    database.close()


def test_a_statement_that_the_database_refuses_is_unavailable_and_rolled_back(
    tmp_path: Path,
) -> None:
    database = _open(tmp_path, ONE)
    with pytest.raises(Unavailable), database.transaction() as connection:
        connection.execute(text("INSERT INTO notes VALUES (1, 'once')"))
        connection.execute(text("INSERT INTO notes VALUES (1, 'twice')"))
    assert _words(database) == []
    database.close()


def test_sqlite_writes_ahead_and_syncs_fully(tmp_path: Path) -> None:
    database = _open(tmp_path, ONE)
    with database.transaction() as connection:
        modes = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert modes == ["wal", 2, 1]
    database.close()


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://u@h/x", "postgresql+nodriver://u@h/x", "sqlite:////proc/no/x.db"]
)
def test_a_url_that_cannot_be_used_stops_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Database(url, "notes", (ONE,), tmp_path)
    assert caught.value.field == "url"


def test_a_damaged_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"notes\.db"):
        _open(tmp_path, ONE)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Database("postgresql+nodriver://u:sesame@h/x", "notes", (ONE,), tmp_path)
    assert "sesame" not in str(caught.value)


def test_who_only_reads_waits_for_no_writer(tmp_path: Path) -> None:
    database = Database("sqlite:///a.db", "a", ["CREATE TABLE t (x INTEGER)"], tmp_path)
    with database.transaction() as writer:
        writer.execute(text("INSERT INTO t VALUES (1)"))
        with database.reading() as reader:
            assert reader.execute(text("SELECT COUNT(*) FROM t")).scalar() == 0
    with database.reading() as reader:
        assert reader.execute(text("SELECT COUNT(*) FROM t")).scalar() == 1
    database.close()
