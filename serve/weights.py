"""Weights of models between a folder and where files lie: `mainspring models push` and `pull`.

A manifest with each file's size and SHA-256 is written last, and taken away before the first file
under it changes, so that a place without one holds no whole model. What lies there already with the
right checksum is not sent again; what comes is checked before the folder gets its name. Either way
goes on where it was broken off: the files that a push has sent stand in a list beside the manifest,
those that a pull has brought in a hidden folder beside the one it makes.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from cluster.errors import Conflict, DataError, InvalidInput, NotFound, Unavailable
from cluster.objects import Objects

MANIFEST: Final = "mainspring-weights.json"
SENT: Final = "mainspring-weights.sent.json"
FORMAT: Final = 1
HUB: Final = "hub:"
_MOST_MANIFEST: Final = 16_000_000

Tell = Callable[[str, int], None]
"""Hears of bytes that are done, by the file's name."""


@dataclass(frozen=True)
class File:
    """A file of a model: its name below the model's place, its size in bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Moved:
    """What a push or pull came to, in files: `sent` over the wire, `known` already there."""

    files: tuple[File, ...]
    sent: int
    known: int

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def listed(folder: Path) -> list[Path]:
    """The files of a model's folder. InvalidInput when it is none: without a config.json no engine
    loads it."""
    if not (folder / "config.json").is_file():
        raise InvalidInput("source", str(folder), "a model's folder, with a config.json")
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        path for path in names
        if not _is_hidden(path.relative_to(folder)) and path.name not in (MANIFEST, SENT)
    ]  # fmt: skip


def push(folder: Path, to: Objects, tell: Tell) -> Moved:
    """Bring a model's files to `to`. Raises InvalidInput for a folder that is no model, and what
    `Objects.write` raises; without its manifest nobody takes what is there for whole then."""
    files = [_file(folder, path) for path in listed(folder)]
    there = _there(to)
    right = [file for file in files if there.get(file.name) == file]
    wrong = [file for file in files if there.get(file.name) != file]
    if wrong:
        _keep(to, SENT, right)
        to.delete(MANIFEST)
    for file in right:
        tell(file.name, file.bytes)
    for file in wrong:
        with (folder / file.name).open("rb") as content:
            if to.write(file.name, content) != file.sha256:
                raise DataError(str(folder / file.name), "it was changed while it was read")
        right.append(file)
        _keep(to, SENT, right)
        tell(file.name, file.bytes)
    _keep(to, MANIFEST, files)
    to.delete(SENT)
    return Moved(tuple(files), len(wrong), len(files) - len(wrong))


def pull(place: Objects, folder: Path, tell: Tell) -> Moved:
    """Bring a model's files to `folder`, which appears whole or not at all.

    Raises NotFound where no whole model lies, Conflict when the folder holds something else,
    DataError for a file that is not what the manifest says, Unavailable without room."""
    files = required(place)
    if folder.exists():
        if any(not _is(folder, file) for file in files):
            raise Conflict(f"folder {folder}", "it holds something else: take another one")
        return Moved(tuple(files), 0, len(files))
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        missing = [file for file in files if not _is(partial, file)]
        _require_room(partial, sum(file.bytes for file in missing))
        for file in files:
            if file in missing:
                _fetch(place, file, partial, tell)
            else:
                tell(file.name, file.bytes)
        partial.replace(folder)
    except OSError as error:
        raise Unavailable(str(folder), error.strerror or str(error)) from error
    return Moved(tuple(files), len(missing), len(files) - len(missing))


def required(place: Objects) -> list[File]:
    """The files of the model that lies at `place`. NotFound where there is no whole one, DataError
    for a manifest that says nothing, or names what is no model's."""
    files = _read(place, MANIFEST)
    if not files:
        raise NotFound("whole model", f"{place.place} (it has no {MANIFEST})")
    for file in files:
        parts = Path(file.name).parts
        if Path(file.name).is_absolute() or ".." in parts or not parts:
            raise DataError(f"{place.place}/{MANIFEST}", f"{file.name!r} leads out of the model")
    return files


def source_of(source: str) -> Path:
    """The folder of a model: `source` itself, or what `hub:ORG/NAME` is fetched to.

    Raises InvalidInput without the hub's library, Unavailable when the hub says no."""
    if not source.startswith(HUB):
        return Path(source)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise InvalidInput("source", source, "a folder, or huggingface_hub installed") from None
    try:
        return Path(snapshot_download(source.removeprefix(HUB)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise Unavailable("the hub", f"{source}: {error}") from None


def _fetch(place: Objects, file: File, folder: Path, tell: Tell) -> None:
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = sha256()
    with path.open("wb") as out:
        for chunk in place.chunks(file.name):
            out.write(chunk)
            digest.update(chunk)
            tell(file.name, len(chunk))
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != file.sha256:
        path.unlink()
        raise DataError(f"{place.place}/{file.name}", "not what its manifest says")


def _require_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        told = f"{wanted / 1e9:.1f} GB are to come, {free / 1e9:.1f} GB are free"
        raise Unavailable(str(folder.parent), told)


def _file(folder: Path, path: Path) -> File:
    with path.open("rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    return File(path.relative_to(folder).as_posix(), path.stat().st_size, digest)


def _is(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes and _file(folder, path) == file


def _there(place: Objects) -> dict[str, File]:
    """What lies at the place, as far as a list and a look at it say the same."""
    try:
        sizes = {entry.name: entry.size for entry in place.entries()}
    except NotFound:
        return {}
    told = [file for name in (MANIFEST, SENT) if name in sizes for file in _read(place, name)]
    return {file.name: file for file in told if sizes.get(file.name) == file.bytes}


def _read(place: Objects, name: str) -> list[File]:
    """The files that a list at the place names; none without one."""
    try:
        raw = place.read(name, _MOST_MANIFEST)
    except NotFound:
        return []
    try:
        told: dict[str, Any] = json.loads(raw)
        files = [File(**file) for file in told["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place.place}/{name}", f"no manifest ({error!r})") from None
    if told.get("format") != FORMAT:
        found = told.get("format")
        raise DataError(f"{place.place}/{name}", f"format {found}; this reads {FORMAT}")
    return files


def _keep(place: Objects, name: str, files: list[File]) -> None:
    told = {"format": FORMAT, "files": [asdict(file) for file in files]}
    place.write(name, BytesIO(json.dumps(told, indent=1).encode()))


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
