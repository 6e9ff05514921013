"""A whole stack in a process of its own, for the length of a measurement."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from serve.running import Running, read

LIMIT_S: Final = 600.0


@contextmanager
def stack(folder: Path, profile: str = "local", **variables: str) -> Iterator[Running]:
    """`mainspring up` with its data in `folder`, from when it is ready until the block ends.

    Raises RuntimeError with what it said when it ends before, or is not ready after LIMIT_S."""
    environment = {**os.environ, "MAINSPRING_DATA_DIR": str(folder), **variables}
    began = time.monotonic()
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "up", "--profile", profile],
            env=environment, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        try:
            while not (running := read(folder)) or not running.url:
                if process.poll() is not None or time.monotonic() - began > LIMIT_S:
                    errors.seek(0)
                    raise RuntimeError(f"the stack is not ready: {errors.read()[-2000:]}")
                time.sleep(0.05)
            httpx.get(f"{running.url}/readyz", timeout=60).raise_for_status()
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)
