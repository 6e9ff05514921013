"""A backup of all that lasts, and its way back onto an empty machine.

The stack may run meanwhile. All databases are read as they were at one moment each, within
milliseconds: the journal first, what it points at after it. So a step that the backup's journal
holds as begun may be done in what follows, which a restored stack finds by looking it up; nothing
is held as done that is missing. The memory's index is not in it: it is made anew from the log.

Covered: SQLite files, PostgreSQL through its own pg_dump and pg_restore, what else lasts in the
data folder, the signing keys among it. Not covered: objects and checkpoints in S3, which stay where
they are, and a help-desk or another system beyond a connector.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url

from agents.guarding import AUDIT, KEYS, refusals_of
from agents.packs import DESK_FILE, FILES, PACKS
from agents.pseudonyms import KEYS as PSEUDONYM_KEYS
from cluster.errors import ConfigError, Conflict, DataError, InvalidInput, NotFound, Unavailable
from cluster.settings import Settings

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_KEPT: Final = (
    "checkpoints", "heads", "router", "memory-exports", KEYS, AUDIT, "servers", PSEUDONYM_KEYS,
)  # fmt: skip
DUMP_LIMIT_S: Final = 3_600.0
_CHUNK: Final = 1 << 20
_DESK: Final = "desk.db"


@dataclass(frozen=True)
class Part:
    """A file of a backup: `name` within it, its size in bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds, and when it was made, seconds since the epoch."""

    format: int
    profile: str
    made_at: float
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def databases(settings: Settings) -> dict[str, str]:
    """The databases by name, in the order in which a backup reads them; one that several share by
    the first of their names."""
    urls = {
        "journal": settings.journal.url,
        "memory-log": settings.memory.log,
        "accounts": settings.accounts.url,
        "batches": settings.batches.url,
        "pseudonyms": settings.agents.pseudonyms,
        "desk": f"sqlite:///{_DESK}",
        **{
            f"pack-{p}": f"sqlite:///{PACKS}/{p}/{DESK_FILE}" for p in settings.agents.packs_by_name
        },
    }
    first = {url: name for name, url in reversed(urls.items())}
    return {name: url for name, url in urls.items() if first[url] == name}


def backup(settings: Settings, out: Path, now: float) -> Manifest:
    """Write a backup to the file `out`; what it holds. `out` appears whole or not at all.

    Raises Conflict when there is such a file, NotFound when there is nothing to back up,
    Unavailable when a database can't be read or there is no room."""
    if out.exists():
        raise Conflict(f"file {out}", "there is one of this name")
    data_dir = settings.data_dir.resolve()
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".backup-") as folder:
            parts = Path(folder)
            _dump(settings, parts / "databases")
            for name in kept(settings):
                _copied(data_dir / name, parts / name)
            manifest = Manifest(FORMAT, settings.profile, now, tuple(_listed(parts)))
            if not manifest.parts:
                raise NotFound("state to back up in", str(data_dir))
            (parts / MANIFEST).write_text(json.dumps(asdict(manifest)), encoding="utf-8")
            packed = parts / "packed"
            _pack(parts, manifest, packed)
            packed.replace(out)
            return manifest
    except OSError as error:
        raise Unavailable(str(out), f"{error.strerror or error}") from error


def restore(settings: Settings, file: Path) -> Manifest:
    """Put what a backup holds into an empty data folder, or into empty databases.

    Everything is checked before anything is put in its place. Raises DataError for a file that is
    no whole backup, Conflict when there is state already, NotFound when there is no such file."""
    data_dir = settings.data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    if taken := [name for name in _places(settings) if (data_dir / name).exists()]:
        raise Conflict(f"data folder {data_dir}", f"it holds {taken[0]} already: take another one")
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".restore-") as folder:
        parts = Path(folder)
        manifest = _unpack(file, parts)
        # Those that can refuse come first: moving files into an empty folder can't.
        for name, url in sorted(databases(settings).items(), key=lambda d: _is_file(d[1])):
            _put_database(name, url, parts / "databases", data_dir)
        for name in kept(settings):
            if (parts / name).exists():
                (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
                (parts / name).replace(data_dir / name)
    return manifest


def _copied(what: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if what.is_dir():
        shutil.copytree(what, to)
    elif what.is_file():
        shutil.copy2(what, to)


def _dump(settings: Settings, to: Path) -> None:
    to.mkdir()
    data_dir = settings.data_dir.resolve()
    with ExitStack() as stack:
        held: dict[str, sqlite3.Connection] = {}
        for name, url in databases(settings).items():
            file = _sqlite_file(url, data_dir)
            if file is None:
                _pg_dump(url, to / f"{name}.pgdump")
            elif file.exists():
                held[name] = stack.enter_context(_as_of_now(file))
        for name, connection in held.items():
            with closing(sqlite3.connect(to / f"{name}.db")) as copy:
                connection.backup(copy)


@contextmanager
def _as_of_now(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees the database as it is now, whatever is written meanwhile."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN")
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            yield connection
    except sqlite3.Error as error:
        raise Unavailable(f"database {file}", str(error)) from error


def _put_database(name: str, url: str, parts: Path, data_dir: Path) -> None:
    file = _sqlite_file(url, data_dir)
    kept, dumped = parts / f"{name}.db", parts / f"{name}.pgdump"
    if file is not None and kept.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        kept.replace(file)
    elif file is None and dumped.exists():
        _run(
            url, "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", str(dumped)
        )
    elif kept.exists() or dumped.exists():
        kinds = ("PostgreSQL", "SQLite") if file is not None else ("SQLite", "PostgreSQL")
        right = f"a {kinds[0]} URL: the backup's {name} was one; move between them by other means"
        raise ConfigError(name, make_url(url).render_as_string(hide_password=True), right)


def _pg_dump(url: str, to: Path) -> None:
    _run(url, "pg_dump", "--format=custom", "--no-owner", "--file", str(to))


def _run(url: str, tool: str, *words: str) -> None:
    """One of PostgreSQL's own tools. The password goes by the environment: whoever lists processes
    sees their words."""
    parsed = make_url(url).set(drivername="postgresql")
    shown = parsed._replace(password=None).render_as_string(hide_password=False)
    environment = {**os.environ, "PGPASSWORD": str(parsed.password or "")}
    try:
        done = subprocess.run(
            [tool, *words, "--dbname", shown], env=environment, capture_output=True, text=True,
            timeout=DUMP_LIMIT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable(tool, "it is not installed; PostgreSQL's client tools bring it") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(tool, f"not done after {DUMP_LIMIT_S:g} s") from None
    if done.returncode:
        raise Unavailable(tool, done.stderr.strip()[-500:])


def _pack(parts: Path, manifest: Manifest, to: Path) -> None:
    to.touch(mode=0o600)  # the keys that sign and seal are in it
    with tarfile.open(to, "w:gz", compresslevel=1) as tar:
        tar.add(parts / MANIFEST, MANIFEST)
        for part in manifest.parts:
            tar.add(parts / part.name, part.name)


def _unpack(file: Path, to: Path) -> Manifest:
    """A backup's files below `to`, each of them what the manifest says."""
    try:
        with tarfile.open(file, "r:gz") as tar:
            tar.extractall(to, filter="data")
        manifest = _read(json.loads((to / MANIFEST).read_text("utf-8")))
    except FileNotFoundError as error:
        if not file.exists():
            raise NotFound("backup", str(file)) from None
        raise DataError(str(file), f"no backup: it has no {MANIFEST}") from error
    except (tarfile.TarError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(str(file), f"no whole backup ({error})") from None
    if manifest.format != FORMAT:
        raise DataError(str(file), f"format {manifest.format}; this Mainspring reads {FORMAT}")
    found = {part.name: part for part in _listed(to)}
    for part in manifest.parts:
        if found.get(part.name) != part:
            raise DataError(str(file), f"{part.name} is not what was backed up")
    return manifest


def _read(given: dict[str, Any]) -> Manifest:
    parts = tuple(Part(**part) for part in given.pop("parts"))
    return Manifest(**given, parts=parts)


def _listed(folder: Path) -> Iterator[Part]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield Part(name, path.stat().st_size, digest)


def _places(settings: Settings) -> list[str]:
    """What a restore puts into the data folder."""
    data_dir = settings.data_dir.resolve()
    files = (_sqlite_file(url, data_dir) for url in databases(settings).values())
    return [*(str(file) for file in files if file), *kept(settings)]


def kept(settings: Settings) -> list[str]:
    """Folders and files of the data folder that are kept beside the databases."""
    packs = settings.agents.packs_by_name
    objects = [] if "://" in settings.batches.objects else [settings.batches.objects]
    return [*_KEPT, *refusals_of(packs), *_of_packs(packs), *objects]


def _of_packs(packs: Iterable[str]) -> Iterator[str]:
    for pack in packs:
        yield f"{PACKS}/{pack}/{FILES}"
        yield f"{PACKS}/{pack}/{pack}.yaml"  # where its desk reaches; no credential stands in it


def _sqlite_file(url: str, data_dir: Path) -> Path | None:
    """The file of a SQLite database; None for another one."""
    parsed = make_url(url)
    if not _is_file(url):
        return None
    if not parsed.database:
        raise InvalidInput("url", url, "a SQLite file")
    return data_dir / parsed.database


def _is_file(url: str) -> bool:
    return make_url(url).get_backend_name() == "sqlite"


def name_of(now: float) -> str:
    """A backup's usual file name."""
    return f"mainspring-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}.tar.gz"
