"""Where files lie: a folder of this machine, or a prefix of an S3 bucket (`cluster.s3`).

A file is written whole or not at all, and read as a stream, so that its size is no matter of
memory.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol
from urllib.parse import urlsplit

from cluster.errors import Conflict, InvalidInput, NotFound, Unavailable
from cluster.ids import new_secret

SCHEME: Final = "s3"
CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path below the place it is listed from (parts divided by "/"), its size in
    bytes, and when it was last written, seconds since the Unix epoch. etag changes when the content
    does; it is empty where only reading can tell."""

    name: str
    size: int
    modified: float
    etag: str = ""


class Objects(Protocol):
    """Files below one place. All calls block; Unavailable when the place does not answer."""

    place: str
    """What names the place, the same for the same files: an absolute path or an S3 address."""

    def entries(self) -> Iterator[Entry]:
        """Every file, in order of its name; hidden files and folders (".name") are left out.
        Raises NotFound when the place does not exist."""

    def read(self, name: str, most: int) -> bytes:
        """The file's bytes. Raises NotFound when it is gone, InvalidInput when it has more than
        `most` bytes or can't be opened."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file's bytes, a part at a time; raises as `read` does, at the first part."""

    def write(self, name: str, content: IO[bytes], *, new: bool = False) -> str:
        """Keep what is left of `content`, which must be seekable, under `name`; the SHA-256 of it
        as 64 hex digits. It is there whole and on disk once this returns; before, what was there.

        Raises Conflict when `new` is asked for and there is such a file, Unavailable when there is
        no room, InvalidInput for a name that leads out of the place."""

    def delete(self, name: str) -> None:
        """The file is gone; quietly when there was none."""


def opened(place: str) -> Objects:
    """The files at `s3://BUCKET/PREFIX`, below a folder, or a single file.

    Raises InvalidInput for an address of another form, ConfigError when boto3 is not installed.
    """
    if "://" not in place:
        return Folder(Path(place))
    parts = urlsplit(place)
    if parts.scheme != SCHEME or not parts.netloc:
        raise InvalidInput("path", place, "a folder, a file or s3://BUCKET/PREFIX")
    from cluster.s3 import S3  # boto3 is needed only here

    return S3(parts.netloc, parts.path.lstrip("/"))


class Folder:
    """A folder's files, those of its folders included; a path to a file is that file alone.

    Links that lead out of the folder are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path.resolve())

    def entries(self) -> Iterator[Entry]:
        if not self._path.exists():
            raise NotFound("file or folder", str(self._path))
        root = Path(self.place)
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        for file in files:
            name = file.relative_to(root) if file != root else Path(self._path.name)
            hidden = file != root and any(part.startswith(".") for part in name.parts)
            if not hidden and (entry := _entry(file, root, name.as_posix())):
                yield entry

    def read(self, name: str, most: int) -> bytes:
        with self._reading(name) as file:
            return bounded(file.read(most + 1), name, most)

    def chunks(self, name: str) -> Iterator[bytes]:
        with self._reading(name) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def write(self, name: str, content: IO[bytes], *, new: bool = False) -> str:
        file = self._file(name)
        # Hidden, so that nobody lists it; in the same folder, so that moving it is one step.
        made = file.with_name(f".{file.name[:64]}.{new_secret()[:16]}")
        digest = hashed(content)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with made.open("xb") as out:
                shutil.copyfileobj(content, out, CHUNK)
                out.flush()
                os.fsync(out.fileno())
            if new:
                os.link(made, file)  # unlike a move, it refuses to replace
            else:
                made.replace(file)
            _sync(file.parent)
        except FileExistsError:
            raise Conflict(f"file {name}", "there is one of this name") from None
        except OSError as error:
            raise Unavailable(self.place, f"{name}: {error.strerror}") from error
        finally:
            made.unlink(missing_ok=True)
        return digest

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._file(name).unlink()

    def _file(self, name: str) -> Path:
        root = Path(self.place)
        file = root if root.is_file() else root / name
        if not name or not file.resolve().is_relative_to(root):
            raise InvalidInput("file", name, "a name below the folder")
        return file

    def _reading(self, name: str) -> IO[bytes]:
        try:
            return self._file(name).open("rb")
        except FileNotFoundError:
            raise NotFound("file", name) from None
        except OSError as error:
            raise InvalidInput("file", name, f"a readable file ({error.strerror})") from error


def _entry(file: Path, root: Path, name: str) -> Entry | None:
    """None for what is no file, is gone, or is a link out of the folder."""
    try:
        about = file.stat()
        inside = file.resolve().is_relative_to(root)
    except OSError:
        return None
    if not inside or not stat.S_ISREG(about.st_mode):
        return None
    return Entry(name, about.st_size, about.st_mtime)


def bounded(content: bytes, name: str, most: int) -> bytes:
    """`content`; InvalidInput when it has more than `most` bytes."""
    if len(content) > most:
        raise InvalidInput("file", f"{name} (over {most} bytes)", f"at most {most} bytes")
    return content


def hashed(content: IO[bytes]) -> str:
    """The SHA-256 of what is left of a seekable file, which is then where it was."""
    start = content.tell()
    digest = hashlib.sha256()
    while chunk := content.read(CHUNK):
        digest.update(chunk)
    content.seek(start)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """A new name is on disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
