"""Tables of separated values become passages of whole rows, each value under its column's name.

The first row names the columns unless a cell of it is a number or it is the only one. Rows are
counted as a spreadsheet shows them: the first row of the file is row 1.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final

from cluster.errors import InvalidInput
from memory.passages import LINES_LIMIT, Block, Passage, Section, packed

_DELIMITERS: Final = ",;\t|"
_LONGEST_ROW: Final = LINES_LIMIT // 2  # a longer row is told value by value
_LONGEST_VALUE: Final = 200  # characters under one repetition of the column's name


def table(text: str, name: str = "") -> list[Passage]:
    """Passages of a table, in order; `name` is their title. Raises InvalidInput for a table that
    can't be taken apart."""
    rows = [(n, row) for n, row in enumerate(_rows(text), 1) if any(cell.strip() for cell in row)]
    if not rows:
        return []
    columns = [" ".join(cell.split()) for cell in rows[0][1]]
    if len(rows) == 1 or any(_is_number(cell) for cell in columns):
        columns = []
    else:
        rows = rows[1:]
    blocks = [Block(line, n, n) for n, row in rows for line in _told(row, columns)]
    return packed([Section(name, blocks)], unit="row", lines=True)


def _rows(text: str) -> Iterator[list[str]]:
    head = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error as error:
        raise InvalidInput("table", str(error), "rows of separated values") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _told(row: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    """The row on one line, or on several when it is long."""
    named = [
        (columns[place] if place < len(columns) and columns[place] else f"column {place + 1}", text)
        for place, cell in enumerate(row)
        if (text := " ".join(cell.split()))
    ]
    line = "; ".join(f"{column}: {text}" for column, text in named)
    if len(line) <= _LONGEST_ROW:
        yield line
        return
    for column, text in named:
        for start in range(0, len(text), _LONGEST_VALUE):
            yield f"{column}: {text[start : start + _LONGEST_VALUE]}"
