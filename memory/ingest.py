"""Files become records, with their source and their time.

`.md` and `.txt` files are cut into passages with sources such as `policy:returns.md#2`. Each line
of a `.jsonl` file is one record: `text`, and if given `id` or `source`, `event_at` or `closed`
(seconds or ISO 8601), `meta`; other plain values go into meta. A file or line
that can't be read becomes a problem in the report and stops nothing else.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cluster.errors import InvalidInput, NotFound
from memory import chunking
from memory.records import Record

SUFFIXES: Final = (".md", ".txt", ".jsonl")
MAX_FILE_BYTES: Final = 32_000_000
_MAX_PROBLEMS: Final = 100


@dataclass(slots=True)
class Reading:
    """What was found: the records, the documents they are all of, how many files were read, and
    what could not be read, by place."""

    records: list[Record] = field(default_factory=list)
    documents: set[str] = field(default_factory=set)
    files: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take a record in, with its document."""
        self.records.append(record)
        self.documents.add(record.document)

    def complain(self, where: str, reason: object) -> None:
        """Note a problem; after the first hundred only their number would grow."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(f"{where}: {reason}")


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did. `added` were new, `known` were there, `removed` were older passages of
    the same documents that their files no longer hold."""

    files: int
    added: int
    known: int
    removed: int
    problems: tuple[str, ...]


def read(path: Path, tenant: str, kind: str) -> Reading:
    """Every record below a folder, or of one file. Raises NotFound when there is no such path."""
    if not path.exists():
        raise NotFound("file or folder", str(path))
    reading = Reading()
    for file, name in _files(path):
        try:
            _read_file(file, name, tenant, kind, reading)
            reading.files += 1
        except (OSError, UnicodeDecodeError, InvalidInput) as error:
            reading.complain(name, error)
    return reading


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files to read and their names; hidden ones and links out of the folder are left out."""
    if path.is_file():
        yield path, path.name
        return
    root = path.resolve()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        inside = file.resolve().is_relative_to(root)
        if file.suffix in SUFFIXES and file.is_file() and inside and not hidden:
            yield file, name.as_posix()


def _read_file(file: Path, name: str, tenant: str, kind: str, reading: Reading) -> None:
    if file.suffix not in SUFFIXES:
        raise InvalidInput("file", name, f"a name that ends in one of {', '.join(SUFFIXES)}")
    about = file.stat()
    if about.st_size > MAX_FILE_BYTES:
        raise InvalidInput("file", f"{name} ({about.st_size} bytes)", f"<= {MAX_FILE_BYTES} bytes")
    text = file.read_text(encoding="utf-8")
    # a passage number would not be told from a "#" in the name
    source = f"{kind}:{name.replace('#', '_')}"
    if file.suffix == ".jsonl":
        _read_lines(text, source, tenant, kind, about.st_mtime, reading)
        return
    cut = chunking.markdown if file.suffix == ".md" else chunking.plain
    for passage in cut(text):
        numbered = f"{source}#{passage.number}"
        reading.add(Record(tenant, kind, numbered, passage.text, about.st_mtime))
    reading.documents.add(source)


def _read_lines(
    text: str, source: str, tenant: str, kind: str, written_at: float, reading: Reading
) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InvalidInput("line", line, "a JSON object")
            reading.add(_from_row(row, f"{source}#{number}", tenant, kind, written_at))
        except (ValueError, InvalidInput) as error:
            reading.complain(f"{source}#{number}", error)


def _from_row(row: dict[str, Any], place: str, tenant: str, kind: str, written: float) -> Record:
    named = row.get("source") or (f"{kind}:{row['id']}" if row.get("id") else place)
    nested = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    known = {"text", "id", "source", "event_at", "meta"}
    flat = {**{k: v for k, v in row.items() if k not in known}, **(nested or {})}
    meta = {k: str(v) for k, v in flat.items() if isinstance(v, str | int | float | bool)}
    event_at = _moment(row.get("event_at", row.get("closed")), written)
    return Record(tenant, kind, str(named), row.get("text", ""), event_at, meta)


def _moment(value: object, otherwise: float) -> float:
    """Seconds since the epoch of a number or an ISO 8601 text. Raises InvalidInput."""
    if value is None:
        return otherwise
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise InvalidInput("event_at", value, "seconds or an ISO 8601 time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
