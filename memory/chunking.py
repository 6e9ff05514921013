"""PURE: documents become passages short enough to embed and to show as evidence.

Markdown is cut at headings, then at list items and paragraphs, then between sentences. A passage
starts with the title of its document and, below a second heading, with that heading.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LIMIT: Final = 300
"""Characters in a passage, its title included."""
_MIN_BODY: Final = 120  # a long title never squeezes a passage below this
_HEADING: Final = re.compile(r"\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_ITEM: Final = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\[\"'(])")
_MARKS: Final = re.compile(r"(\*\*|__|`)(.+?)\1")
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document; number counts from 1 in the document."""

    number: int
    text: str


def markdown(text: str) -> list[Passage]:
    """Passages of a Markdown document, in order."""
    passages: list[str] = []
    for title, blocks in _sections(_body(text)):
        passages += _packed(title, blocks)
    return _numbered(passages)


def plain(text: str) -> list[Passage]:
    """Passages of a plain text: its paragraphs, cut between sentences when long."""
    paragraphs = [p for p in re.split(r"\n\s*\n", text) if p.strip()]
    return _numbered([part for p in paragraphs for part in _packed("", [" ".join(p.split())])])


def _numbered(texts: list[str]) -> list[Passage]:
    return [Passage(number, text) for number, text in enumerate(texts, 1)]


def _body(text: str) -> str:
    """The text without the front matter that some tools put between two lines of dashes."""
    match = re.match(r"---\s*\n.*?\n---\s*(?:\n|$)", text, re.DOTALL)
    return text[match.end() :] if match else text


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each section's title and its blocks (paragraphs and list items, on one line each)."""
    titles: list[str] = []
    blocks: list[str] = []
    joins = False
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            yield _title(titles), blocks
            titles = [*titles[: len(heading[1]) - 1], _clean(heading[2])]
            blocks, joins = [], False
        elif not line.strip():
            joins = False
        elif joins and not _ITEM.match(line):
            blocks[-1] += " " + _clean(line)
        else:
            blocks.append(_clean(_ITEM.sub("", line, count=1)))
            joins = True
    yield _title(titles), blocks


def _title(titles: list[str]) -> str:
    named = [title for title in titles if title]
    return " - ".join([named[0], named[-1]] if len(named) > 1 else named)


def _clean(line: str) -> str:
    return _MARKS.sub(r"\2", _LINK.sub(r"\1", " ".join(line.split())))


def _packed(title: str, blocks: list[str]) -> Iterator[str]:
    """As many whole blocks and sentences in a passage as fit, under the title."""
    prefix = f"{title[: LIMIT - _MIN_BODY - 2]}: " if title else ""
    room = LIMIT - len(prefix)
    held = ""
    for piece in (p for block in blocks for p in _pieces(block, room)):
        if held and len(held) + 1 + len(piece) > room:
            yield prefix + held
            held = ""
        held = f"{held} {piece}".strip()
    if held:
        yield prefix + held


def _pieces(block: str, room: int) -> Iterator[str]:
    if len(block) <= room:
        yield block
        return
    for sentence in _SENTENCE_END.split(block):
        rest = sentence.strip()
        while len(rest) > room:
            cut = rest.rfind(" ", room // 2, room)
            cut = cut if cut > 0 else room
            yield rest[:cut].rstrip()
            rest = rest[cut:].lstrip()
        if rest:
            yield rest
