"""What a connector refused, as lines of a file, each chained to the one before by its hash.

The connector has no journal, so that it can't change one; its refusals lie beside its own data.
Covered: a changed, removed or reordered line. Not covered: lines cut off at the end, and what is
refused once the file is full, which is only counted.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agents.digests import canonical
from agents.intents import Call
from cluster.errors import DataError, IntentRefused
from cluster.ids import Clock
from cluster.telemetry import logger

MAX_BYTES: Final = 10_000_000
_GENESIS: Final = "0" * 64

log = logger("refusals")


class Refusals:
    """The file of one connector; from several threads."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """DataError when there is such a file and it is not whole."""
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._last = _GENESIS
        self.count = 0
        for line in read(path):
            self._last = line["hash"]
            self.count += 1

    def record(self, call: Call, refused: IntentRefused) -> None:
        """Write a refusal down: which tool and effect, and why; none of the arguments."""
        log.warning("refused %s under %s: %s", call.tool, call.key, refused)
        said = {
            "at": self._clock.now(), "tool": call.tool, "key": call.key,
            "reason": refused.reason, "detail": refused.detail,
        }  # fmt: skip
        with self._lock:
            self.count += 1
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                return
            self._last = _hash(self._last, said)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**said, "hash": self._last}) + "\n")
                file.flush()
                os.fsync(file.fileno())


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The refusals of a file, none without one. DataError that names the first line that was
    changed or follows a removed one; a last line that was broken off by a crash is left out."""
    if not path.is_file():
        return
    last = _GENESIS
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                said = json.loads(line)
                digest = said.pop("hash")
            except (ValueError, KeyError, AttributeError):
                raise DataError(str(path), f"line {number} is no refusal") from None
            if _hash(last, said) != digest:
                raise DataError(str(path), f"line {number} was changed, or one before it removed")
            last = digest
            yield {**said, "hash": digest}


def _hash(last: str, said: dict[str, Any]) -> str:
    return hashlib.sha256(canonical([last, said]).encode()).hexdigest()
