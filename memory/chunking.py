"""Markdown and plain text become passages.

Markdown is cut at headings, then at list items and paragraphs, then between sentences. A passage
starts with the title of its document and, below a second heading, with that heading. Lines are
counted as `str.splitlines` does.
"""

import re
from collections.abc import Iterator
from typing import Final

from memory.passages import LIMIT, Block, Passage, Section, packed

__all__ = ["LIMIT", "Passage", "markdown", "plain", "titled"]

_HEADING: Final = re.compile(r"\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_LONGEST_HEADING: Final = 1000  # characters; a longer line is text, whatever it starts with
_ITEM: Final = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+")
_MARKS: Final = re.compile(r"(\*\*|__|`)(.+?)\1")
# no part can run over an opening bracket: time stays in proportion to the text's length
_LINK: Final = re.compile(r"!?\[([^\[\]]*)\]\((?:[^()]|\([^()]*\))*\)")


def markdown(text: str) -> list[Passage]:
    """Passages of a Markdown document, in order."""
    return packed(_sections(text))


def plain(text: str) -> list[Passage]:
    """Passages of a plain text: its paragraphs, cut between sentences when long."""
    return packed(Section("", [block]) for block in paragraphs(text))


def paragraphs(text: str, first: int = 1) -> Iterator[Block]:
    """What stands between empty lines, each on one line; `first` is the number of the first."""
    held: list[str] = []
    number = first
    for number, line in enumerate(text.split("\n"), first):
        if line.strip():
            held.append(line)
        elif held:
            yield Block(" ".join(" ".join(held).split()), number - len(held), number - 1)
            held = []
    if held:
        yield Block(" ".join(" ".join(held).split()), number - len(held) + 1, number)


def titled(titles: list[str]) -> str:
    """The first and the last of the titles that a place stands under."""
    named = [title for title in titles if title]
    return " - ".join([named[0], named[-1]] if len(named) > 1 else named)


def _front_matter(lines: list[str]) -> int:
    """How many lines at the start some tools put between two lines of dashes."""
    if not lines or lines[0].rstrip() != "---":
        return 0
    ends = (n for n, line in enumerate(lines[2:], 3) if line.rstrip() == "---")
    return next(ends, 0)


def _sections(text: str) -> Iterator[Section]:
    """Each section's title and its blocks (paragraphs and list items, on one line each)."""
    lines = text.splitlines()
    skipped = _front_matter(lines)
    titles: list[str] = []
    blocks: list[list[str]] = []
    places: list[int] = []
    joins = False
    for number, line in enumerate(lines[skipped:], skipped + 1):
        heading = _HEADING.match(line) if len(line) <= _LONGEST_HEADING else None
        if heading:
            yield Section(titled(titles), _closed(blocks, places))
            titles = [*titles[: len(heading[1]) - 1], _clean(heading[2])]
            blocks, places, joins = [], [], False
        elif not line.strip():
            joins = False
        elif not (item := _ITEM.match(line)) and joins:
            blocks[-1].append(_clean(line))
        else:
            blocks.append([_clean(line[item.end() :] if item else line)])
            places.append(number)
            joins = True
    yield Section(titled(titles), _closed(blocks, places))


def _closed(blocks: list[list[str]], places: list[int]) -> list[Block]:
    return [
        Block(" ".join(parts), place, place + len(parts) - 1)
        for parts, place in zip(blocks, places, strict=True)
    ]


def _clean(line: str) -> str:
    return _MARKS.sub(r"\2", _LINK.sub(r"\1", " ".join(line.split())))
