"""Reads one PDF from standard input and writes its text as JSON; run as a process of its own.

A PDF is a program of strangers: this process has a limit of memory and of computing time, so a
broken or hostile one ends here and nothing else does. It prints `title`, `pages` (each `text` and
the `heading` that the outline gives it), or `problem`.
"""

import io
import json
import logging
import resource
import sys
from typing import Any, Final

_MEMORY_BYTES: Final = 2 << 30
CPU_SECONDS: Final = 60


def main() -> int:
    """Exit status 0 with one JSON object on standard output, whatever the PDF holds."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    logging.disable()
    found: dict[str, Any]
    try:
        found = _read(sys.stdin.buffer.read())
    except Exception as error:  # pypdf raises what its parsers meet: any of Python's own errors
        found = {"problem": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(found))
    return 0


def _read(content: bytes) -> dict[str, Any]:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    if reader.is_encrypted and not reader.decrypt(""):
        return {"problem": "it needs a password"}
    headings = _headings(reader)
    pages = [
        {"text": page.extract_text(), "heading": headings.get(number, "")}
        for number, page in enumerate(reader.pages, 1)
    ]
    return {"title": _title(reader), "pages": pages}


def _title(reader: Any) -> str:
    about = reader.metadata
    return str(about.title) if about is not None and about.title else ""


def _headings(reader: Any) -> dict[int, str]:
    """The last outline entry at or before each page; none when the outline is damaged."""
    marks: dict[int, str] = {}
    try:
        for title, number in _entries(reader, reader.outline):
            marks.setdefault(number, title)
    except Exception:  # an outline is a convenience: the text is read without it
        return {}
    headings, last = {}, ""
    for number in range(1, len(reader.pages) + 1):
        last = marks.get(number, last)
        headings[number] = last
    return headings


def _entries(reader: Any, outline: list[Any]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for entry in outline:
        if isinstance(entry, list):
            found += _entries(reader, entry)
        elif (page := reader.get_destination_page_number(entry)) is not None:
            found.append((str(entry.title), page + 1))
    return found


if __name__ == "__main__":
    sys.exit(main())
