"""What holds for all tests. Property tests get no deadline per example: the machine may be busy.

Temporary folders lie in memory where there is room. Thousands of small transactions that each wait
for a disk say nothing more: what the tests kill are processes, and what a process wrote before its
death is there in either place.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

TESTS: Final = Path(__file__).parent
_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 8_000_000_000
"""Free bytes, so that enough is left for Ray's object store, which lies there too."""
STACK: Final = "stack"
NICENESS: Final = 10

# A width that a test asks for counts only where none was there when the console was made.
os.environ.pop("COLUMNS", None)
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
    # What pytest makes its folders below, unless somebody chose another place.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


class Divided(LoadScopeScheduling):  # type: ignore[misc]
    """What is kept together when two processes share the tests: all that use the stack, of which a
    machine holds one, and the tests of a file, which share what its fixtures start."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return STACK if f"/{STACK}/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Divided:
    """Asked by pytest-xdist, whose groups need the node ids of an older pytest."""
    return Divided(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The stack's tests hold deadlines: the process beside them steps back."""
    if os.environ.get("PYTEST_XDIST_WORKER") and not _on_stack(item) and os.nice(0) < NICENESS:
        os.nice(NICENESS)


def _on_stack(item: pytest.Item) -> bool:
    return item.path.is_relative_to(TESTS / STACK)
