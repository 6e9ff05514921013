"""What a Grafana board is made of, as data, and how its expressions are put together.

`cluster/boards.py` has the boards; `cluster/panels.py` draws them.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["line", "number", "table"]

WINDOW: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One picture. `queries` are pairs of an expression and how its lines are called; `unit` is
    one of Grafana's ids. From `warn` on, where there is one, it turns red."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: Kind = "line"
    warn: float | None = None
    about: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """`variable` is a pair of a label and the metric whose values of it can be chosen."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variable: tuple[str, str] | None = None

    @property
    def expressions(self) -> list[str]:
        return [e for row in self.rows for panel in row.panels for e, _ in panel.queries]


def line(title: str, unit: str, *queries: tuple[str, str], about: str = "") -> Panel:
    """Lines over time, each query with how they are called."""
    return Panel(title, unit, queries, about=about)


def number(title: str, unit: str, expression: str, warn: float | None = None) -> Panel:
    """One number, as it is now; red from `warn` on."""
    return Panel(title, unit, ((expression, ""),), "number", warn)


def table(title: str, unit: str, expression: str, legend: str) -> Panel:
    """A row for each series, as it is now."""
    return Panel(title, unit, ((expression, legend),), "table")


def rate(metric: str, by: str, where: str = "") -> str:
    """How fast a counter grows, by labels; `where` chooses its series."""
    return f"sum by ({by}) (rate({metric}{{{where}}}{WINDOW}))"


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """A histogram's quantile of late, by labels."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', labels, where)})"
