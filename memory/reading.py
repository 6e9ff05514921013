"""A file's bytes become records, with their source, their place in the file and their time.

Passages get sources such as `policy:returns.md#2`; meta says under which heading and on which
lines, page or rows. Each line of a `.jsonl` file is one record: `text`, and if given `id` or
`source`, `event_at` or `closed` (seconds or ISO 8601), `meta`; other plain values go into meta.
Text is UTF-8, or UTF-16 with its mark; a page may declare another encoding, as messages do.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

from cluster.errors import InvalidInput
from cluster.objects import Entry
from memory.chunking import markdown, plain
from memory.formats import code as sources
from memory.formats.code import code
from memory.formats.html import html
from memory.formats.mail import eml, mbox
from memory.formats.pdf import pdf
from memory.formats.tables import table
from memory.passages import Passage, valid
from memory.records import FURTHEST, Record, Trust

CUT: Final = "cut1"
"""Names the way in which files are cut: files read under another name are read again."""
_MAX_PROBLEMS: Final = 100
_LINES: Final = (".jsonl", ".ndjson")
_BOMS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
                (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_DECLARED: Final = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9._-]{2,40})""")
_HEAD: Final = 2048  # bytes in which a page declares its encoding

Cut = Callable[[bytes, str], list[Passage]]


@dataclass(slots=True)
class Reading:
    """What was found in files: records, and what could not be read, by place."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unsaid: int = 0

    def complain(self, where: str, reason: object) -> None:
        """Note a problem; after the first hundred only their number grows."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(valid(f"{where}: {reason}"))
        else:
            self.unsaid += 1

    def add(self, other: "Reading") -> None:
        """Take in the problems of another reading."""
        for problem in other.problems:
            where, _, reason = problem.partition(": ")
            self.complain(where, reason)
        self.unsaid += other.unsaid


@dataclass(frozen=True, slots=True)
class Shelf:
    """Whose records they become, of which kind, and how far what they say is trusted."""

    tenant: str
    kind: str
    trust: Trust = "tenant"


def readable(name: str) -> bool:
    """Whether a file of this name can be read, going by its suffix."""
    return _suffix(name) in _CUTS or _suffix(name) in _LINES


def document_of(kind: str, name: str) -> str:
    """The source that the passages of a file share; a "#" is left to the passages' numbers."""
    return f"{kind}:{name.replace('#', '_')}"


def read(content: bytes, entry: Entry, shelf: Shelf) -> Reading:
    """The records of one file.

    Raises InvalidInput, DataError or DeadlineExceeded when the file as a whole can't be read; a
    line of a `.jsonl` file that can't becomes a problem.
    """
    suffix = _suffix(entry.name)
    document = document_of(shelf.kind, entry.name)
    if suffix in _LINES:
        return _read_lines(text_of(content), document, entry, shelf)
    if suffix not in _CUTS:
        known = ", ".join(sorted([*_CUTS, *_LINES]))
        raise InvalidInput("file", entry.name, f"a name that ends in one of {known}")
    # what strangers send is no word of the tenant's
    trust: Trust = "untrusted" if suffix in _LETTERS else shelf.trust
    passages = _CUTS[suffix](content, PurePosixPath(entry.name).name)
    return Reading([_record(p, document, entry.modified, shelf, trust) for p in passages])


def text_of(content: bytes, page: bool = False) -> str:
    """The text of a file. Raises InvalidInput for what is no text or of an unknown encoding."""
    encoding = next((name for bom, name in _BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        declared = _DECLARED.search(content[:_HEAD]) if page else None
        if declared is None:
            shown = content[error.start : error.start + 8]
            raise InvalidInput("text", f"{shown!r} at byte {error.start}", "UTF-8") from None
        text = _declared(content, declared[1].decode("ascii"))
    if "\x00" in text:
        raise InvalidInput("text", f"a NUL at character {text.index(chr(0))}", "a text file")
    return text


def _declared(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise InvalidInput("encoding", encoding, f"the page's own ({error})") from None


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _record(passage: Passage, document: str, written: float, shelf: Shelf, trust: Trust) -> Record:
    event_at = written if passage.event_at is None else passage.event_at
    meta = {**passage.meta, "heading": passage.heading, "span": passage.span}
    return Record(
        shelf.tenant,
        shelf.kind,
        f"{document}#{passage.number}",
        passage.text,
        event_at if abs(event_at) <= FURTHEST else written,
        {key: value for key, value in meta.items() if value},
        trust=trust,
    )


def _read_lines(text: str, document: str, entry: Entry, shelf: Shelf) -> Reading:
    reading = Reading()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{document}#{number}"
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InvalidInput("line", line, "a JSON object")
            reading.records.append(_from_row(row, place, entry.modified, shelf))
        except (ValueError, RecursionError, InvalidInput) as error:
            reading.complain(place, error)
    return reading


def _from_row(row: dict[str, Any], place: str, written: float, shelf: Shelf) -> Record:
    named = row.get("source") or (f"{shelf.kind}:{row['id']}" if row.get("id") else place)
    nested = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    known = {"text", "id", "source", "event_at", "meta"}
    flat = {**{k: v for k, v in row.items() if k not in known}, **(nested or {})}
    meta = {k: str(v) for k, v in flat.items() if isinstance(v, str | int | float | bool)}
    event_at = _moment(row.get("event_at", row.get("closed")), written)
    return Record(
        shelf.tenant, shelf.kind, str(named), row.get("text", ""), event_at, meta,
        trust=shelf.trust,
    )  # fmt: skip


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


def _text_cut(cut: Callable[[str], list[Passage]]) -> Cut:
    return lambda content, _: cut(text_of(content))


_LETTERS: Final[Mapping[str, Cut]] = {
    ".eml": lambda content, _: eml(content),
    ".mbox": lambda content, _: mbox(content),
}
_CUTS: Final[Mapping[str, Cut]] = {
    **dict.fromkeys((".md", ".markdown"), _text_cut(markdown)),
    **dict.fromkeys((".txt", ".text", ".log", ".rst"), _text_cut(plain)),
    **dict.fromkeys((".html", ".htm", ".xhtml"), lambda c, _: html(text_of(c, page=True))),
    **dict.fromkeys((".csv", ".tsv"), lambda c, name: table(text_of(c), PurePosixPath(name).stem)),
    **dict.fromkeys(sources.SUFFIXES, lambda content, name: code(text_of(content), name)),
    ".pdf": lambda content, _: pdf(content),
    **_LETTERS,
}
