"""Files and batches of one stack: what they are kept in, and the actor that works on batches."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cluster.ids import Clock, SystemClock
from cluster.objects import opened as opened_objects
from cluster.settings import BatchesSection
from serve.bulk.asking import HttpGateway
from serve.bulk.files import Files
from serve.bulk.pacing import NOBODY, Online
from serve.bulk.runner import Runner
from serve.bulk.schema import opened
from serve.bulk.table import Batches

NAME: Final = "bulk"
_DAY_S: Final = 86_400.0


class Archive:
    """Files and batches in one database, the files' bytes beside it."""

    def __init__(self, section: BatchesSection, data_dir: Path, clock: Clock) -> None:
        """See `cluster.database.Database` and `cluster.objects.opened` for what they raise."""
        self._database = opened(section.url, data_dir)
        place = section.objects if "://" in section.objects else str(data_dir / section.objects)
        self.files = Files(self._database, opened_objects(place), clock)
        self.batches = Batches(self._database)

    def close(self) -> None:
        self._database.close()


class Bulk:
    """A named actor: works on batches for as long as it lives, through the gateway at `url`."""

    def __init__(
        self, section: BatchesSection, data_dir: Path, url: str, key: str, timeout_s: float,
        models: Sequence[str],
    ) -> None:  # fmt: skip
        clock = SystemClock()
        self._archive = archive = Archive(section, data_dir, clock)
        gateway = HttpGateway(url, key, timeout_s, section.concurrency)
        self._runner = Runner(
            archive.batches, archive.files, gateway, _online, clock, models, section.concurrency,
            section.online_ttft_s, section.keep_days * _DAY_S,
        )  # fmt: skip
        self._working = asyncio.get_running_loop().create_task(self._runner.run())

    async def state(self) -> dict[str, Any]:
        """See `Runner.state`."""
        if self._working.done():
            self._working.result()
        return self._runner.state()


async def _online() -> Online:
    return NOBODY
