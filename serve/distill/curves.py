"""The curves of a training: `curves.jsonl`, a line each, and `curves.png`."""

import json
from pathlib import Path
from typing import Any, Final

NAME: Final = "curves"


class Curves:
    """What a training tells of itself, kept beside its checkpoint."""

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{NAME}.jsonl"
        if fresh:
            self._path.unlink(missing_ok=True)

    def trained(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Mean training loss since the last line."""
        self._add({"step": step, "loss": round(loss, 5), "tokens_per_s": round(tokens_per_s)})

    def checked(self, step: int, loss: float, right: dict[str, float]) -> None:
        """Validation loss, and by kind the share of answers that are right to the letter."""
        shares = {kind: round(share, 4) for kind, share in right.items()}
        self._add({"step": step, "validation_loss": round(loss, 5), "right": shares})

    def plot(self) -> None:
        """Draw loss, and the shares of right answers by kind, over steps."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        drawing, (losses, shares) = plt.subplots(1, 2, figsize=(11, 4))
        for key in ("loss", "validation_loss"):
            points = [(line["step"], line[key]) for line in lines if key in line]
            losses.plot(*zip(*points, strict=True), label=key.replace("_", " ")) if points else None
        losses.set(xlabel="step", ylabel="loss of answers", yscale="log")
        checks = [line for line in lines if "right" in line]
        for kind in sorted({k for line in checks for k in line["right"]}):
            points = [(c["step"], c["right"][kind]) for c in checks if kind in c["right"]]
            shares.plot(*zip(*points, strict=True), label=kind)
        shares.set(xlabel="step", ylabel="validation answers right to the letter", ylim=(0, 1.02))
        for axes in (losses, shares):
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        drawing.tight_layout()
        drawing.savefig(self._path.with_suffix(".png"), dpi=100)
        plt.close(drawing)

    def _add(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
