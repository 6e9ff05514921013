"""Charts over days as pictures that stand within a page: SVG without names that people chose."""

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

_SIZE: Final = (5.2, 2.1)
_COLORS: Final = ("#2b7bba", "#c4572c", "#3c9152")
_INK: Final = "#808890"
"""To be read on a light ground as well as on a dark one."""

Line = Sequence[float | None]


def chart(days: Sequence[str], lines: Mapping[str, Line], unit: str, top: float | None) -> str:
    """The address (`data:`) of a picture of these lines, a value or None for each day, up to `top`
    or to what there is. Legends are the lines' names, which must be of this program."""
    # Loaded only where somebody wants a picture: it takes a second.
    from matplotlib import rc_context
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 8}):
        drawing = Figure(figsize=_SIZE, layout="constrained")
        axes: Any = drawing.add_subplot()
        at = [date.fromisoformat(day) for day in days]
        for (name, values), color in zip(lines.items(), _COLORS, strict=False):
            known = [(d, v) for d, v in zip(at, values, strict=True) if v is not None]
            axes.plot(
                [d for d, _ in known], [v for _, v in known], color=color, label=name,
                marker="o", markersize=2.5, linewidth=1.4,
            )  # fmt: skip
        axes.set_ylabel(unit, color=_INK)
        axes.set_ylim(0, None if top is None else 1.06 * top)
        locator = AutoDateLocator(minticks=2, maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.tick_params(colors=_INK)
        axes.grid(alpha=0.25)
        for side in axes.spines.values():
            side.set_color(_INK)
        axes.legend(frameon=False, labelcolor=_INK, loc="best")
        drawn = io.BytesIO()
        drawing.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode("ascii")
