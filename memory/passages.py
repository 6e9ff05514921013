"""Blocks of a document become passages: short enough to embed whole, and to show as evidence.

A format's own module finds the sections (a title and its paragraphs, list items, rows or lines);
here they are packed. A passage starts with its section's title, holds whole blocks where they fit,
is cut between sentences, then between words, and never has more tokens than the embedder reads.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from memory import tokens
from memory.embed import MAX_TOKENS

LIMIT: Final = 300
"""Characters in a passage of prose, its title included."""
LINES_LIMIT: Final = 700
"""Characters in a passage of code or of rows, its title included."""
_MIN_BODY: Final = 120  # a long title never squeezes a passage below this
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\[\"'(])")
_JOINER: Final = "\u200d"  # ties emoji to one picture
_CLUSTER: Final = 16  # characters that one picture or accented letter may have


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document.

    number counts from 1 in the document, so that the neighbours are number - 1 and number + 1;
    heading is the title it stands under, context what its two neighbours say (for keyword search
    only), span its place in the file, as "lines 3-9", "page 2" or "rows 5-8". event_at is None
    where the file's own time is as good.
    """

    number: int
    text: str
    heading: str = ""
    context: str = ""
    span: str = ""
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    event_at: float | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list item, row or line of code, and its first and last place in the file."""

    text: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under one title; blocks of different sections never share a passage."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class _Draft:
    title: str
    prefix: str
    body: str
    first: int
    last: int


def packed(sections: Iterable[Section], unit: str = "line", lines: bool = False) -> list[Passage]:
    """Passages of the sections, in order. `unit` is what the blocks' places count.

    `lines` keeps one block a line, as code and rows want it; else blocks run on as prose.
    """
    drafts = [
        fitting
        for section in sections
        for draft in _filled(section, lines)
        for fitting in _bounded(draft)
    ]
    return [
        Passage(
            number=place + 1,
            text=draft.prefix + draft.body,
            heading=draft.title,
            context=_context(drafts, place),
            span=_span(unit, draft.first, draft.last),
        )
        for place, draft in enumerate(drafts)
    ]


def _context(drafts: list[_Draft], place: int) -> str:
    beside = drafts[max(0, place - 1) : place] + drafts[place + 1 : place + 2]
    return " ".join(draft.body for draft in beside)


def renumbered(passages: Iterable[Passage]) -> list[Passage]:
    """The passages of several parts as those of one document."""
    return [replace(passage, number=number) for number, passage in enumerate(passages, 1)]


def valid(text: str) -> str:
    """The text without what no record may hold: NUL characters and lone surrogates."""
    return text.replace("\x00", " ").encode("utf-8", "replace").decode("utf-8")


def _span(unit: str, first: int, last: int) -> str:
    return f"{unit} {first}" if first == last else f"{unit}s {first}-{last}"


def _filled(section: Section, lines: bool) -> Iterator[_Draft]:
    """As many whole blocks and sentences in a passage as fit, under the title."""
    limit = LINES_LIMIT if lines else LIMIT
    prefix = _prefix(section.title, limit, lines)
    room = limit - len(prefix)
    held, first, last = "", 0, 0
    for block in section.blocks:
        for piece in _pieces(block.text, room, lines):
            if held and len(held) + 1 + len(piece) > room:
                yield _Draft(section.title, prefix, held, first, last)
                held = ""
            first = first if held else block.first
            held, last = _joined(held, piece, lines), block.last
    if held.strip():
        yield _Draft(section.title, prefix, held, first, last)


def _prefix(title: str, limit: int, lines: bool) -> str:
    return f"{title[: limit - _MIN_BODY - 2]}:{chr(10) if lines else ' '}" if title else ""


def _joined(held: str, piece: str, lines: bool) -> str:
    if not lines:
        return f"{held} {piece}".strip()
    return f"{held}\n{piece}" if held else piece if piece.strip() else ""


def _pieces(block: str, room: int, lines: bool) -> Iterator[str]:
    if len(block) <= room:
        yield block
        return
    for sentence in [block] if lines else _SENTENCE_END.split(block):
        rest, start = sentence.strip(), 0
        while len(rest) - start > room:
            cut = _cut(rest, start, room)
            yield rest[start:cut].rstrip()
            start = cut
            while start < len(rest) and rest[start].isspace():
                start += 1
        if start < len(rest):
            yield rest[start:]


def _cut(text: str, start: int, room: int) -> int:
    """Where to end a piece that starts at `start`: at a word's end in its second half, else at
    `room` characters, but in the middle of no emoji and no accented letter."""
    cut = text.rfind(" ", start + room // 2, start + room)
    if cut > start:
        return cut
    cut = start + room
    for place in range(cut, max(start, cut - _CLUSTER), -1):
        if not _continues(text, place):
            return place
    return cut


def _continues(text: str, place: int) -> bool:
    """Whether the character at `place` belongs to the one before it."""
    if text[place - 1] == _JOINER or text[place] == _JOINER:
        return True
    return unicodedata.category(text[place]) in {"Mn", "Me", "Mc"} or (
        "\U0001f3fb" <= text[place] <= "\U0001f3ff"
    )


def _bounded(draft: _Draft) -> Iterator[_Draft]:
    """The draft, in as many parts as it takes for the embedder to read every word."""
    if tokens.fits(draft.prefix + draft.body) or len(draft.body) < 2:
        yield draft
        return
    if tokens.count(draft.prefix) > MAX_TOKENS // 2:
        title = draft.prefix[:-2]
        shorter = title[: len(title) // 2] + draft.prefix[-2:]
        yield from _bounded(replace(draft, prefix=shorter))
        return
    for part in _halved(draft.body):
        if part.strip():
            yield from _bounded(replace(draft, body=part))


def _halved(body: str) -> tuple[str, str]:
    """At the end of a line where there are lines, else of a word."""
    middle = len(body) // 2
    line = body.rfind("\n", 1, middle + 1)
    line = line if line > 0 else body.find("\n", middle, len(body) - 1)
    if line > 0:
        return body[:line], body[line + 1 :]
    cut = min(_cut(body, 0, middle + 1), len(body) - 1)
    return body[:cut].rstrip(), body[cut:].strip()
