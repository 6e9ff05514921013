"""HTML becomes passages, cut at its headings, paragraphs, list items and table rows.

lxml parses, because it takes broken pages as browsers do and knows each element's line. What a
reader does not see is left out: scripts, navigation, footers, and elements hidden by an attribute
or an inline style. A style sheet can hide more than this module knows.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final

from lxml import etree

from cluster.errors import InvalidInput
from memory.chunking import titled
from memory.passages import Block, Passage, Section, packed

_UNSEEN: Final = frozenset(
    "script style noscript template svg math nav footer aside iframe object canvas button select"
    " textarea option head dialog".split()
)
_INLINE: Final = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp"
    " small span strike strong sub sup time tt u var wbr".split()
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_CELLS: Final = frozenset({"td", "th"})
_IN_CELLS: Final = frozenset({"table", "tr", *_CELLS, *_HEADINGS})  # what ends a cell's paragraph
_HIDING: Final = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_TOO_DEEP: Final = "ERR_RESOURCE_LIMIT"


def html(text: str) -> list[Passage]:
    """Passages of a page, in order; lines beyond 65,535 are all counted as that one.

    Raises InvalidInput for a page nested deeper than 2,048 elements.
    """
    parser = etree.HTMLParser(
        encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True, no_network=True
    )
    root = etree.fromstring(text.encode("utf-8"), parser) if text.strip() else None
    if any(entry.type_name == _TOO_DEEP for entry in parser.error_log):
        raise InvalidInput("page", "its nesting", "at most 2048 elements inside each other")
    if root is None:
        return []
    page = _Page(" ".join((root.findtext(".//title") or "").split()))
    page.walk(root)
    return packed(page.sections)


@dataclass(slots=True)
class _Page:
    """The page as far as it was walked: sections, and the open paragraph."""

    title: str
    sections: list[Section] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    first: int = 1
    columns: list[str] = field(default_factory=list)
    row: list[tuple[str, bool]] = field(default_factory=list)
    cells: int = 0  # how many the place is inside of

    def walk(self, root: Any) -> None:
        """Take in every element's text, in the order in which it is read."""
        steps = etree.iterwalk(root, events=("start", "end"))
        line = 1
        for event, element in steps:
            line = element.sourceline or line
            if event == "start" and _unseen(element):
                steps.skip_subtree()
            elif event == "start":
                self._open(element, line)
            else:
                if not _unseen(element):
                    self._close(element, line)
                self._say(element.tail, line)
        self._paragraph(line)
        self._section()

    def _say(self, text: str | None, line: int) -> None:
        if text and (self.held or text.strip()):
            if not self.held:
                self.first = line
            self.held.append(text)

    def _open(self, element: Any, line: int) -> None:
        tag = element.tag
        self._part(tag, line)
        if tag == "tr":
            self.row = []
        elif tag == "table":
            self.columns = []
        elif tag in _CELLS:
            self.cells += 1
        self._say(element.text, line)

    def _part(self, tag: str, line: int) -> None:
        """An inline element's edge parts nothing, a block's in a cell words, else blocks."""
        if tag in _INLINE:
            return
        if tag == "br" or (self.cells and tag not in _IN_CELLS):
            self._say(" ", line)
        else:
            self._paragraph(line)

    def _close(self, element: Any, line: int) -> None:
        tag = element.tag
        if tag in _HEADINGS:
            self._heading(_HEADINGS[tag])
        elif tag in _CELLS:
            self.cells = max(0, self.cells - 1)
            self.row.append((self._taken(), tag == "th"))
        elif tag == "tr":
            self._table_row(line)
        else:
            self._part(tag, line)

    def _taken(self) -> str:
        text = " ".join("".join(self.held).split())
        self.held = []
        return text

    def _paragraph(self, line: int) -> None:
        if text := self._taken():
            self.blocks.append(Block(text, self.first, max(self.first, line)))

    def _heading(self, level: int) -> None:
        title = self._taken()
        self._section()
        self.titles = [*self.titles[: level - 1], title]

    def _section(self) -> None:
        title = titled([self.title, *self.titles] if not self._named() else self.titles)
        self.sections.append(Section(title, self.blocks))
        self.blocks = []

    def _named(self) -> bool:
        """Whether a heading of the first level says already what the page is about."""
        return bool(self.titles and self.titles[0])

    def _table_row(self, line: int) -> None:
        cells, self.row = self.row, []
        if cells and all(heads for _, heads in cells):
            self.columns = [text for text, _ in cells]
            return
        named = [
            f"{self.columns[place]}: {text}"
            if place < len(self.columns) and self.columns[place]
            else text
            for place, (text, _) in enumerate(cells)
            if text
        ]
        if named:
            self.blocks.append(Block("; ".join(named) + ".", line, line))


def _unseen(element: Any) -> bool:
    about = element.attrib
    return (
        element.tag in _UNSEEN
        or "hidden" in about
        or about.get("aria-hidden", "").strip().lower() == "true"
        or bool(_HIDING.search(about.get("style", "")))
    )
