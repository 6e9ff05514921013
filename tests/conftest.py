"""What holds for all tests. Property tests get no deadline per example: the machine may be busy.

Temporary folders lie in memory where there is room. Thousands of small transactions that each wait
for a disk say nothing more: what the tests kill are processes, and what a process wrote before its
death is there in either place.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, settings

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 8_000_000_000
"""Free bytes, so that enough is left for Ray's object store, which lies there too."""

if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
    # What pytest makes its folders below, unless somebody chose another place.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
