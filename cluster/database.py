"""A database behind one URL: SQLite (the default) or PostgreSQL, through SQLAlchemy Core.

SQLite runs in WAL mode with full sync: a transaction that returned is on disk. Each component
brings numbered migrations, which are applied once and in order when it opens the database.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from cluster.errors import ConfigError, DataError, Unavailable

_READING = "mainspring_reading"


class Database:
    """One component's tables. Safe to use from several threads; SQLite writers take turns."""

    def __init__(self, url: str, component: str, migrations: Sequence[str], data_dir: Path) -> None:
        """Open `url` and bring `component`'s tables up to date.

        A relative SQLite path lies below `data_dir`. Raises ConfigError for a URL that can't be
        used, Unavailable when the database does not answer, DataError when it was written by a
        newer version or is damaged.
        """
        self.url = _absolute(url, data_dir)
        self._engine = _engine(self.url)
        with self.transaction() as connection:
            _migrate(connection, component, migrations, self._shown)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that commits when the block ends and rolls back when it raises.
        Unavailable when the database does not answer, is full, or stays locked."""
        with self._begun(self._engine) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only looks: it keeps no writer waiting, and waits for none. Raises as
        `transaction` does."""
        with self._begun(self._engine.execution_options(**{_READING: True})) as connection:
            yield connection

    @contextmanager
    def _begun(self, engine: Engine) -> Iterator[Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise Unavailable(f"database {self._shown}", str(error.orig)) from error
        except SQLAlchemyError as error:
            raise Unavailable(f"database {self._shown}", str(error)) from error

    def compact(self, tables: Sequence[str]) -> bool:
        """Rewrite the files so that the tables' deleted rows are in none of them; False where a
        write-ahead log that is not ours to cut (PostgreSQL's, its archive and its replicas) may
        hold them a while longer.

        In PostgreSQL what the planner keeps of the rows' values is made anew too, and the server
        lets go of the old files; it leaves either out where our role may not do it. Takes the time
        of writing the tables once, and keeps writers waiting for as long.
        """
        sqlite = self._engine.dialect.name == "sqlite"
        work = [] if sqlite else _rewriting(tables)
        try:
            raw = self._engine.raw_connection()
        except SQLAlchemyError as error:
            raise Unavailable(f"database {self._shown}", str(error)) from error
        try:
            driver: Any = raw.driver_connection
            if not sqlite:
                driver.autocommit = True
            cursor = driver.cursor()
            for statement in work or ["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]:
                cursor.execute(statement)
            if sqlite:
                return not cursor.fetchone()[0]
            with suppress(self._driver_error):  # a role's right
                cursor.execute("CHECKPOINT")
            return False
        except self._driver_error as error:
            raise Unavailable(f"database {self._shown}", str(error)) from error
        finally:
            raw.invalidate()  # never back to the pool in another mode
            raw.close()

    def close(self) -> None:
        self._engine.dispose()

    @property
    def _driver_error(self) -> type[Exception]:
        driver: Any = self._engine.dialect.dbapi
        error: type[Exception] = driver.Error
        return error

    @property
    def _shown(self) -> str:
        return _shown(self.url)


def schema_version(url: str, component: str, data_dir: Path) -> int:
    """The schema that `component` has in a database now; 0 for none, and where there is no database
    yet. Nothing is changed. Unavailable when the database does not answer."""
    absolute = make_url(_absolute(url, data_dir))
    if absolute.get_backend_name() == "sqlite" and not Path(str(absolute.database)).exists():
        return 0
    engine = create_engine(absolute)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("schema_versions"):
                return 0
            row = connection.execute(
                text("SELECT version FROM schema_versions WHERE component = :c"), {"c": component}
            ).first()
    except DBAPIError as error:
        shown = absolute.render_as_string(hide_password=True)
        raise Unavailable(f"database {shown}", str(error.orig)) from None
    finally:
        engine.dispose()
    return int(row[0]) if row else 0


def rehearse(url: str, component: str, migrations: Sequence[str], data_dir: Path) -> None:
    """Try `component`'s migrations on what its database holds, and take them back; nothing where
    there is no database yet. Raises as opening a `Database` does."""
    absolute = _absolute(url, data_dir)
    if not schema_version(url, component, data_dir):
        return
    engine = _engine(absolute)
    try:
        with engine.connect() as connection, connection.begin() as tried:
            _migrate(connection, component, migrations, _shown(absolute))
            tried.rollback()
    except DBAPIError as error:
        raise Unavailable(f"database {_shown(absolute)}", str(error.orig)) from error
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    sqlite = url.startswith("sqlite")
    try:
        engine = create_engine(url, pool_pre_ping=not sqlite)
    except (ImportError, ArgumentError) as error:
        raise ConfigError("url", _shown(url), f"an installed driver ({error})") from None
    if sqlite:
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def _migrate(connection: Connection, component: str, migrations: Sequence[str], shown: str) -> None:
    connection.execute(
        text(
            "CREATE TABLE IF NOT EXISTS schema_versions"
            " (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )
    )
    row = connection.execute(
        text("SELECT version FROM schema_versions WHERE component = :c"), {"c": component}
    ).first()
    version = int(row[0]) if row else 0
    if version > len(migrations):
        raise DataError(
            shown,
            f"{component} has schema {version}, this Mainspring knows {len(migrations)}: "
            "it was written by a newer version",
        )
    for migration in migrations[version:]:
        for statement in filter(None, (s.strip() for s in migration.split(";"))):
            connection.execute(text(statement))
    connection.execute(
        text(
            "INSERT INTO schema_versions (component, version) VALUES (:c, :v)"
            " ON CONFLICT (component) DO UPDATE SET version = :v"
        ),
        {"c": component, "v": len(migrations)},
    )


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _absolute(url: str, data_dir: Path) -> str:
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise ConfigError("url", url, "sqlite:///FILE or postgresql+psycopg://...") from None
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigError("url", shown, "a sqlite or postgresql URL")
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        path = Path(parsed.database)
        path = path if path.is_absolute() else data_dir / path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "url", url, f"a file in a folder that can be made ({error})"
            ) from None
        parsed = parsed.set(database=str(path.resolve()))
    return parsed.render_as_string(hide_password=False)


def _rewriting(tables: Sequence[str]) -> list[str]:
    """PostgreSQL's statements: the statistics hold samples of the rows' values."""
    return [f"VACUUM (FULL, ANALYZE) {name}" for name in tables] + ["VACUUM FULL pg_statistic"]


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling would commit before DDL; BEGIN is ours instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: a reader that turns writer half-way would otherwise fail instead of waiting.
    reads = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
