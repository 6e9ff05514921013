"""Works on lines that are cases of a workflow's evaluation, see `agents/evaluation.py`.

A case is one run in a folder of its own, where nothing is done to the stack's desks; only its
models are the stack's, asked as work that nobody waits for.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agents.chat import HttpChat, on_behalf
from agents.evaluation import cases, tried_by
from agents.packs import Pack, Packs, load
from cluster.errors import MainspringError, NotFound
from serve.bulk.asking import Told
from serve.bulk.kinds import EVALUATION
from serve.bulk.lines import Line
from serve.bulk.remembering import line_of, refused
from serve.bulk.table import Batch

WRONG: Final = "wrong"
BROKEN: Final = "evaluation_broken"
AT_ONCE: Final = 4


class Trials:
    """See `Worker`. The models are asked at `url`, with the stack's own `key`; `names` are the
    settings' packs."""

    def __init__(self, url: str, key: str, names: Sequence[str]) -> None:
        self._url, self._key, self._names = url, key, tuple(names)
        self._packs: Packs | None = None
        self._places = asyncio.Semaphore(AT_ONCE)

    async def post(self, batch: Batch, line: Line) -> Told:
        asked = json.loads(line.body)
        try:
            if self._packs is None:
                self._packs = await asyncio.to_thread(load, self._names)
            if (pack := self._packs.get(batch.model)) is None:
                raise NotFound("workflow with an evaluation", batch.model)
            async with self._places:
                # A run's rules and its desk take their time: not in this loop.
                return await asyncio.to_thread(self._tried, batch, pack, asked.get("case", {}))
        except MainspringError as error:
            return refused(error)

    async def withdraw(self, batch: Batch) -> None:
        """A case that has begun ends by itself, and soon."""

    def _tried(self, batch: Batch, pack: Pack, case: dict[str, Any]) -> Told:
        on_behalf.set({
            "tenant": batch.tenant, "key": batch.account, "run": batch.id, "workflow": "batch",
        })  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="case-") as folder:
            try:
                told: Any = asyncio.run(self._verdict(pack, case, Path(folder)))
            except MainspringError:
                raise
            except Exception as error:
                # A pack is its user's code: what breaks in it breaks its line alone.
                why = f"{type(error).__name__}: {error}"
                return Told(200, code=BROKEN, message=why, body=b"null")
        body = json.dumps({"object": "evaluation", **asdict(told)}, default=str).encode()
        return Told(200, body=body, code=WRONG if told.wrong else "", message=told.wrong)

    async def _verdict(self, pack: Pack, case: dict[str, Any], folder: Path) -> Any:
        chat = HttpChat(f"{self._url}/v1", self._key, options={"class": "batch"})
        try:
            return await tried_by(pack)(case, folder, chat)
        finally:
            await chat.close()


def evaluation_lines(pack: Pack) -> Iterator[bytes]:
    """A line for each case of a pack's evaluation."""
    for number, case in enumerate(cases(pack), 1):
        yield line_of(f"case-{number}", EVALUATION, {"workflow": pack.name, "case": case})
