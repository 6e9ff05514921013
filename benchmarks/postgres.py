"""A PostgreSQL server of one's own in a temporary folder, where its binaries and driver exist."""

import atexit
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import parse_qs, urlsplit

_TRIES = 3


def reason_not_to() -> str | None:
    """Why no server can be started here, or None."""
    if _binaries() is None:
        return "no PostgreSQL server is installed (initdb below /usr/lib/postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if os.getuid() == 0 and _owner() is None:
        return "PostgreSQL refuses root, and there is no user postgres or nobody"
    return None if _empty() else f"PostgreSQL's own initdb crashes here, {_TRIES} times in a row"


@contextmanager
def server(*, sync: bool = False) -> Iterator[str]:
    """The URL of a fresh server that listens on a socket file only; with `sync` a commit is on disk
    when it returns."""
    binaries = _binaries()
    assert binaries is not None, reason_not_to()
    folder = Path(mkdtemp(prefix="pg-"))
    owner = _owner() if os.getuid() == 0 else None
    try:
        data = folder / "data"
        empty = _empty()
        assert empty is not None, reason_not_to()
        # As root, a copy keeps the owner and the rights that the server insists on.
        subprocess.run(["cp", "-a", str(empty), str(data)], check=True, timeout=60)
        _give(folder, owner)
        fsync = "on" if sync else "off"
        options = f"-k {folder} -c listen_addresses='' -c fsync={fsync} -c shared_buffers=16MB"
        _run(
            owner,
            binaries / "pg_ctl",
            "-D",
            data,
            "-w",
            "-l",
            folder / "log",
            "-o",
            options,
            "start",
        )
        try:
            yield f"postgresql+psycopg://mainspring@/postgres?host={folder}"
        finally:
            _run(owner, binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restart(url: str) -> None:
    """Stop the server of this URL at once, as a crash would, and start it again."""
    binaries, folder = _binaries(), Path(parse_qs(urlsplit(url).query)["host"][0])
    assert binaries is not None, reason_not_to()
    owner = _owner() if os.getuid() == 0 else None
    # `restart` begins with the options that it was started with.
    words = ("-w", "-m", "immediate", "-l", folder / "log", "restart")
    _run(owner, binaries / "pg_ctl", "-D", folder / "data", *words)


@cache
def _empty() -> Path | None:
    """An empty cluster to copy from, made once a process; None where initdb itself crashes."""
    binaries = _binaries()
    assert binaries is not None
    folder = Path(mkdtemp(prefix="pg-empty-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    owner = _owner() if os.getuid() == 0 else None
    _give(folder, owner)
    words = ("-U", "mainspring", "--auth=trust", "-N")
    for attempt in range(_TRIES):
        data = folder / str(attempt)
        try:
            _run(owner, binaries / "initdb", "-D", data, *words)
        except subprocess.CalledProcessError as error:
            # What it says of bad options is ours to mend; a crash is the machine's.
            if error.returncode > 0:
                raise
        else:
            return data
    return None


def _give(folder: Path, owner: str | None) -> None:
    if owner is not None:
        os.chown(folder, pwd.getpwnam(owner).pw_uid, -1)


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _owner() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _run(owner: str | None, *words: str | Path) -> None:
    subprocess.run(
        [str(w) for w in words], user=owner, check=True, cwd="/", timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
