"""Weights of models between a folder and where files lie: `mainspring models push` and `pull`.

A manifest with each file's size and SHA-256 is written last, so that a place without one holds no
whole model. What lies there already with the right checksum is not sent again; what comes is
checked before the folder gets its name, and a pull that was broken off goes on where it stopped.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import file_digest
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from cluster.errors import Conflict, DataError, InvalidInput, NotFound, Unavailable
from cluster.objects import Objects

MANIFEST: Final = "mainspring-weights.json"
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
    return [p for p in names if not _is_hidden(p.relative_to(folder)) and p.name != MANIFEST]


def push(folder: Path, to: Objects, tell: Tell) -> Moved:
    """Bring a model's files to `to`. Raises InvalidInput for a folder that is no model, and what
    `Objects.write` raises; without its manifest nobody takes what is there for whole then."""
    there = {file.name: file for file in _known(to)}
    files: list[File] = []
    sent = 0
    for path in listed(folder):
        with path.open("rb") as content:
            name = path.relative_to(folder).as_posix()
            file = File(name, path.stat().st_size, file_digest(content, "sha256").hexdigest())
            if there.get(name) != file:
                content.seek(0)
                wrote = to.write(name, content)
                if wrote != file.sha256:
                    raise DataError(str(path), "it was changed while it was read")
                sent += 1
        files.append(file)
        tell(name, file.bytes)
    with _manifest(files) as content:
        to.write(MANIFEST, content)
    return Moved(tuple(files), sent, len(files) - sent)


def pull(place: Objects, folder: Path, tell: Tell) -> Moved:
    """Bring a model's files to `folder`, which appears whole or not at all.

    Raises NotFound where no whole model lies, Conflict when the folder holds something else,
    DataError for a file that is not what the manifest says, Unavailable without room."""
    files = _required(place)
    if folder.exists():
        if any(not _is(folder, file) for file in files):
            raise Conflict(f"folder {folder}", "it holds something else: take another one")
        return Moved(tuple(files), 0, len(files))
    partial = folder.with_name(f".{folder.name}.partial")
    sent = 0
    try:
        for file in files:
            if not _is(partial, file):
                _fetch(place, file, partial)
                sent += 1
            tell(file.name, file.bytes)
        partial.replace(folder)
    except OSError as error:
        raise Unavailable(str(folder), error.strerror or str(error)) from error
    return Moved(tuple(files), sent, len(files) - sent)


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


def _fetch(place: Objects, file: File, folder: Path) -> None:
    path = folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        for chunk in place.chunks(file.name):
            out.write(chunk)
    if not _is(folder, file):
        path.unlink()
        raise DataError(f"{place.place}/{file.name}", "not what its manifest says")


def _is(folder: Path, file: File) -> bool:
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest() == file.sha256


def _required(place: Objects) -> list[File]:
    files = list(_known(place))
    if not files:
        raise NotFound("whole model", f"{place.place} (it has no {MANIFEST})")
    for file in files:
        parts = Path(file.name).parts
        if Path(file.name).is_absolute() or ".." in parts or not parts:
            raise DataError(f"{place.place}/{MANIFEST}", f"{file.name!r} leads out of the model")
    return files


def _known(place: Objects) -> Iterator[File]:
    """The files that the place's manifest names; none without one."""
    try:
        raw = place.read(MANIFEST, _MOST_MANIFEST)
    except NotFound:
        return
    try:
        told: dict[str, Any] = json.loads(raw)
        files = [File(**file) for file in told["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place.place}/{MANIFEST}", f"no manifest ({error!r})") from None
    if told.get("format") != FORMAT:
        found = told.get("format")
        raise DataError(f"{place.place}/{MANIFEST}", f"format {found}; this reads {FORMAT}")
    yield from files


def _manifest(files: list[File]) -> BytesIO:
    told = {"format": FORMAT, "files": [asdict(file) for file in files]}
    return BytesIO(json.dumps(told, indent=1).encode())


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)
