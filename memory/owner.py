"""One process owns a memory's files, and the next one to ask is told which."""

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from cluster.errors import Conflict


class Owner:
    """Holds a folder's memory until `release` or the end of the process, however it ends.

    Raises Conflict, with the holder's process id, when another one has it.
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "memory.lock"
        self._file: IO[Any] | None = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise Conflict(
                f"memory in {data_dir.resolve()}",
                f"process {holder} has it open; ask that one, or stop it first",
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let go; a second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
