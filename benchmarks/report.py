"""What every benchmark writes: a table last on the screen, one JSON file, one plot."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """A measured value. `target` is what was promised, `sense` on which side of it is good. A
    share has the `count` of what it is a share of, and the 95 % `interval` that follows."""

    name: str
    value: float
    target: float | None = None
    sense: Literal["at least", "at most"] = "at most"
    count: int | None = None
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.sense == "at least" else self.value <= self.target


def write(
    name: str,
    figures: list[Figure],
    *,
    load: str,
    peers: dict[str, Any] | None = None,
    details: dict[str, Any] | None = None,
    folder: Path | None = None,
) -> int:
    """Print the table, write NAME.json and NAME.png into `folder`; the command's exit status: 1
    when STRICT=1 is set and a target is missed, else 0."""
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    document = {
        "name": name,
        "commit": _commit(),
        "machine": _machine(),
        "load": load,
        "figures": [asdict(f) | {"met": f.met} for f in figures],
        "targets": {f.name: [f.sense, f.target] for f in figures if f.target is not None},
        "peers": peers or {},
        "details": details or {},
    }
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    _plot(name, figures, folder)
    _print(figures)
    missed = any(f.met is False for f in figures)
    return 1 if missed and os.environ.get("STRICT") == "1" else 0


def _print(figures: list[Figure]) -> None:
    width = max(len(f.name) for f in figures)
    shares = any(f.count is not None for f in figures)
    more = f"  {'count':>6}  {'95 % interval':>15}" if shares else ""
    print(f"\n{'figure':<{width}}  {'value':>10}  {'target':>18}  met{more}")
    for figure in figures:
        target = f"{figure.sense} {figure.target:g}" if figure.target is not None else "-"
        met = {True: "yes", False: "no", None: "-"}[figure.met]
        line = f"{figure.name:<{width}}  {figure.value:>10.4g}  {target:>18}  {met}"
        if figure.count is not None and figure.interval is not None:
            low, high = figure.interval
            line = f"{line:<{width + 37}}  {figure.count:>6}  {low:>7.4f}-{high:.4f}"
        print(line)


def _plot(name: str, figures: list[Figure], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Shares on a scale of their own: beside tokens a second they would be too small to see.
    parts = [[f for f in figures if (f.count is None) is bare] for bare in (True, False)]
    parts = [p for p in parts if p]
    drawing, panels = plt.subplots(
        len(parts), figsize=(8, 0.4 * len(figures) + 1.2), squeeze=False,
        height_ratios=[len(p) for p in parts],
    )  # fmt: skip
    for axes, part in zip(panels[:, 0], parts, strict=True):
        axes.barh([f.name for f in part], [f.value for f in part], color="#4477aa")
        for row, figure in enumerate(part):
            if figure.target is not None:
                axes.plot([figure.target] * 2, [row - 0.4, row + 0.4], color="#cc3311")
            if figure.interval is not None:
                axes.plot(figure.interval, [row] * 2, color="#222222")
        axes.invert_yaxis()
    panels[0, 0].set_title(name)
    drawing.tight_layout()
    drawing.savefig(folder / f"{name}.png", dpi=110)
    plt.close(drawing)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
