"""The actor that works on the batches of one stack."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cluster.ids import SystemClock
from cluster.settings import BatchesSection
from cluster.telemetry import logger
from serve.bulk.archive import Archive
from serve.bulk.door import Door, Prompts
from serve.bulk.kinds import EVALUATION, INGESTION, PROMPTS, RUNS, SPACE, Known
from serve.bulk.remembering import Ingestion, Reembedding
from serve.bulk.runner import Runner, Watching
from serve.bulk.runs import Runs
from serve.bulk.trials import Trials
from serve.bulk.workers import Workers
from serve.directory import Online, find_directory
from serve.office import Named

log = logger("bulk")

NAME: Final = "bulk"
_DAY_S: Final = 86_400.0
_UNKNOWN: Final = Online(in_work=1)
"""Somebody may be waiting: the pace grows slowly."""


class Bulk:
    """A named actor: works on batches for as long as it lives, through the gateway at `url`."""

    def __init__(
        self, section: BatchesSection, data_dir: Path, url: str, key: str, timeout_s: float,
        known: Known, directory: str, memory: str, packs: Sequence[str] = (),
    ) -> None:  # fmt: skip
        clock = SystemClock()
        archive = Archive(section, data_dir, clock)
        door = Door(url, key, timeout_s, section.concurrency)
        remembered = Named((memory,), "memory")
        workers = Workers({
            **dict.fromkeys(PROMPTS, Prompts(door)), RUNS: Runs(door),
            INGESTION: Ingestion(remembered), SPACE: Reembedding(remembered),
            EVALUATION: Trials(url, key, packs),
        })  # fmt: skip
        self._runner = Runner(
            archive.batches, archive.files, workers, _watching(directory), clock, known,
            section.concurrency, section.online_ttft_s, section.keep_days * _DAY_S,
        )  # fmt: skip
        self._working = asyncio.get_running_loop().create_task(self._runner.run())

    async def state(self) -> dict[str, Any]:
        """See `Runner.state`."""
        if self._working.done():
            self._working.result()
        return self._runner.state()


def _watching(directory: str) -> Watching:
    """What the gateways tell the directory of their clients; _UNKNOWN while it is away."""

    async def online() -> Online:
        from ray.exceptions import RayError

        try:
            told: Online = await find_directory(directory).online.remote()
        except (RayError, ValueError) as error:
            log.warning("the directory does not answer: %s", error)
            return _UNKNOWN
        return told

    return online
