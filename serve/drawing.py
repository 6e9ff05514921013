"""PURE: a run's timeline for the terminal."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from agents.timeline import Entry

_BAR: Final = 24  # columns
_NARROW: Final = 100  # a terminal of fewer columns gets no bars
_COLOURS: Final = {
    "run": "bold", "wait": "dim", "phase": "cyan", "effect": "green", "retry": "yellow",
    "person": "magenta",
}  # fmt: skip
_BAD: Final = ("denied", "failed", "started", "parked")


def drawn(entries: Sequence[Entry], width: int) -> Table:
    """`entries` as a table of at most `width` columns: when, a bar on the run's own scale, what,
    how it stands, why, and the cost, summed up at the end."""
    end = max((e.at + e.seconds for e in entries), default=0.0)
    bars = width >= _NARROW
    table = Table(box=None, show_footer=True, footer_style="bold")
    table.add_column("at", justify="right", footer=_seconds(end))
    if bars:
        table.add_column("", width=_BAR)
    table.add_column("what", no_wrap=True)
    table.add_column("took", justify="right")
    table.add_column("state")
    table.add_column("note", overflow="fold")
    table.add_column("usd", justify="right", footer=f"{sum(e.usd for e in entries):.6f}")
    for entry in entries:
        colour = "red" if entry.state in _BAD else _COLOURS[entry.kind]
        table.add_row(
            _seconds(entry.at),
            *([Text(_bar(entry, end), colour)] if bars else []),
            Text(entry.name, colour),
            _seconds(entry.seconds) if entry.seconds else "",
            Text(entry.state),
            Text(entry.note),
            f"{entry.usd:.6f}" if entry.usd else "",
        )
    return table


def _bar(entry: Entry, end: float) -> str:
    """Where on the way from 0 to `end` the entry lies; at least one mark."""
    scale = (_BAR - 1) / end if end > 0 else 0.0
    first, last = round(entry.at * scale), round((entry.at + entry.seconds) * scale)
    mark = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" if entry.seconds else "\N{BULLET}"
    return " " * first + mark * (last - first + 1)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"
