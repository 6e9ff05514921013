"""The quality heads of a stack: a folder with numbered versions, and which of them is in use."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from serve.quality import QualityHead
from serve.quality_metrics import better
from serve.quality_training import Examples

LEAST_JUDGED: Final = 30  # examples; fewer say nothing of which head is better
_CURRENT: Final = "current"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a head was taken into use, as which version, and by how much its squared error was
    below the incumbent's, with the 95 % interval; zeros when there was no incumbent."""

    promoted: bool
    version: int
    gain: float
    low: float
    high: float


class Versions:
    """The versions in `folder`. A version that was once written is never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def current(self) -> int | None:
        """The version in use. Raises DataError when what is noted is no number."""
        try:
            text = (self._folder / _CURRENT).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        if not text.strip().isdecimal():
            raise DataError(str(self._folder / _CURRENT), f"{text!r:.40}, expected a version")
        return int(text)

    def all(self) -> list[int]:
        """The versions that there are: each was better than the one before when it was taken."""
        return sorted(int(p.name) for p in self._folder.glob("*") if p.name.isdecimal())

    def use(self, version: int) -> None:
        """Take one of them into use again. InvalidInput for another."""
        if version not in self.all():
            raise InvalidInput("version", version, f"one of {self.all()}")
        self._use(version)

    def metrics(self, version: int) -> dict[str, Any]:
        """What was measured of a version when it was trained."""
        return dict(QualityHead.load(self._of(version)).metrics)

    def head(self) -> QualityHead | None:
        """The head in use."""
        version = self.current()
        return None if version is None else QualityHead.load(self._of(version))

    def promote(
        self, candidate: Path, judged: Examples, embeddings: NDArray[np.float32]
    ) -> Verdict:
        """Take a head into use when it predicts the judged examples better than the one in use: the
        whole interval of the difference must be above zero."""
        found, before = QualityHead.load(candidate), self.head()
        if len(judged.texts) < LEAST_JUDGED:
            raise InvalidInput("examples", len(judged.texts), f"at least {LEAST_JUDGED}")
        order = columns(found, judged)
        gain = low = high = 0.0
        if before is not None:
            chances = found.chances(embeddings, judged.texts)[:, order]
            earlier = before.chances(embeddings, judged.texts)[:, columns(before, judged)]
            gain, low, high = better(chances, earlier, judged.right, judged.labelled)
            if low <= 0:
                return Verdict(False, self.current() or 0, gain, low, high)
        return Verdict(True, self._taken(candidate), gain, low, high)

    def rollback(self) -> int:
        """Back to the version before the one in use. Raises InvalidInput when there is none."""
        version = self.current() or 0
        if version < 2 or not self._of(version - 1).is_dir():
            raise InvalidInput("version", version, "one with a version before it")
        self._use(version - 1)
        return version - 1

    def _taken(self, candidate: Path) -> int:
        version = max(self.all(), default=0) + 1
        shutil.copytree(candidate, self._of(version))
        self._use(version)
        return version

    def _use(self, version: int) -> None:
        temporary = self._folder / f"{_CURRENT}.part"
        temporary.write_text(f"{version}\n", encoding="utf-8")
        os.replace(temporary, self._folder / _CURRENT)

    def _of(self, version: int) -> Path:
        return self._folder / str(version)


def columns(head: QualityHead, judged: Examples) -> list[int]:
    """Where the head has the examples' models. Raises InvalidInput for one it does not know."""
    for name in judged.models:
        if name not in head.models:
            raise InvalidInput("model", name, f"one of {', '.join(head.models)}")
    return [head.models.index(name) for name in judged.models]
