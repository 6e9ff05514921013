"""PDF becomes passages, cut at pages' paragraphs, under the document's title and its outline.

pypdf extracts the text, because it is pure Python, small, and kept up. It works in a process of its
own with a deadline. Lines that most pages repeat at their top or bottom are left out. A scanned
page has no text: there is no OCR.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cluster.errors import DataError, DeadlineExceeded
from memory.chunking import titled
from memory.formats import pdf_text
from memory.passages import Block, Passage, Section, packed, valid

DEADLINE_S: Final = 90.0
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_EDGE: Final = 2  # lines at a page's top and bottom that may be repeated ones
_NUMBERING: Final = 20  # characters of a line that only numbers the page
_REPEATED: Final = 0.6  # of all pages, from three pages on
_DIGITS: Final = re.compile(r"\d+")
_HYPHEN: Final = re.compile(r"(?<=[a-z])-$")


def pdf(content: bytes, deadline_s: float = DEADLINE_S) -> list[Passage]:
    """Passages of a PDF, in order, with the page they stand on.

    Raises DataError for a PDF that is damaged, needs a password or holds no text,
    DeadlineExceeded for one that takes too long.
    """
    found = _extracted(content, deadline_s)
    title = " ".join(valid(str(found["title"])).split())
    pages = [_lines(page["text"]) for page in found["pages"]]
    repeated = _repeated(pages)
    sections = [
        Section(
            titled([title, " ".join(valid(page["heading"]).split())]),
            list(_paragraphs(_body(lines, repeated), number)),
        )
        for number, (page, lines) in enumerate(zip(found["pages"], pages, strict=True), 1)
    ]
    passages = packed(sections, unit="page")
    if not passages:
        raise DataError("PDF", f"no text in its {len(pages)} pages (are they scanned?)")
    return passages


def _extracted(content: bytes, deadline_s: float) -> dict[str, Any]:
    paths = [_ROOT, os.environ.get("PYTHONPATH", "")]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", pdf_text.__name__],
            input=content,
            capture_output=True,
            timeout=deadline_s,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded("reading the PDF", deadline_s) from None
    if ended.returncode != 0:
        raise DataError("PDF", f"its reader ended with status {ended.returncode}")
    found: dict[str, Any] = json.loads(ended.stdout)
    if "problem" in found:
        raise DataError("PDF", str(found["problem"]))
    return found


def _lines(text: str) -> list[str]:
    """The lines without the empty ones at the start and the end."""
    return [" ".join(line.split()) for line in valid(text).strip().split("\n")]


def _shape(line: str) -> str:
    """A short line with its numbers alike: "Page 3 of 9" is repeated on page 4."""
    return _DIGITS.sub("0", line) if len(line) <= _NUMBERING else line


def _repeated(pages: Sequence[Sequence[str]]) -> set[str]:
    if len(pages) < 3:
        return set()
    seen: Counter[str] = Counter()
    for page in pages:
        seen.update({_shape(line) for line in (*page[:_EDGE], *page[-_EDGE:]) if line})
    return {shape for shape, times in seen.items() if times >= _REPEATED * len(pages)}


def _body(lines: list[str], repeated: set[str]) -> list[str]:
    """The lines between those that the other pages have too."""
    start, end = 0, len(lines)
    while start < min(_EDGE, end) and _shape(lines[start]) in repeated:
        start += 1
    while end > max(start, len(lines) - _EDGE) and _shape(lines[end - 1]) in repeated:
        end -= 1
    return lines[start:end]


def _paragraphs(lines: Sequence[str], page: int) -> Iterator[Block]:
    """Lines run on until an empty one; a word that a hyphen divides is whole again."""
    held: list[str] = []
    for line in [*lines, ""]:
        if not line and held:
            yield Block(" ".join(held), page, page)
            held = []
        elif held and _HYPHEN.search(held[-1]) and line[:1].islower():
            held[-1] = held[-1][:-1] + line
        elif line:
            held.append(line)
