"""Batches in a folder, worked on beside a gateway that is made up, for tests."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from cluster.ids import Clock, SystemClock
from cluster.settings import BatchesSection
from serve.bulk.archive import Archive
from serve.bulk.asking import Told
from serve.bulk.lines import Line
from serve.bulk.pacing import NOBODY
from serve.bulk.runner import Runner
from serve.bulk.table import Batch
from serve.directory import Online

CHAT = "/v1/chat/completions"


def request(custom_id: str, model: str = "auto", **more: Any) -> dict[str, Any]:
    """A line of an input file."""
    body = {"model": model, "messages": [{"role": "user", "content": f"say {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **more}


def jsonl(rows: Sequence[Any]) -> bytes:
    """Rows as lines of JSON; texts are taken as they are."""
    return b"".join((r if isinstance(r, str) else json.dumps(r)).encode() + b"\n" for r in rows)


class Answers:
    """A gateway that says `ok` to everything; `behave` may be replaced. Counts what it is asked by
    custom id, and how many wait at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.withdrawn: list[str] = []
        self.waiting = self.most = 0
        self.pause_s = 0.0
        self.behave: Callable[[Line], Awaitable[Told]] | None = None

    async def post(self, batch: Batch, line: Line) -> Told:
        self.asked.append(line.custom_id)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(self.pause_s)
            if self.behave is not None:
                return await self.behave(line)
            return Told(200, f"req-{line.number}", b'{"said": "ok"}')
        finally:
            self.waiting -= 1

    async def withdraw(self, batch: Batch) -> None:
        self.withdrawn.append(batch.id)


class Office:
    """Files and batches in `folder`, and who works on them."""

    def __init__(self, folder: Path, clock: Clock | None = None, ceiling: int = 8) -> None:
        self.clock = clock or SystemClock()
        self.archive = Archive(BatchesSection(), folder, self.clock)
        self.gateway = Answers()
        self.online = NOBODY
        self.ceiling = ceiling
        self.runner = self.worker()
        self._working: asyncio.Task[None] | None = None

    def worker(self) -> Runner:
        """Another one who works on the same batches."""
        return Runner(
            self.archive.batches, self.archive.files, self.gateway, self._online, self.clock,
            {"model": ("auto", "planner", "routine")}, self.ceiling, 0.5, 86_400.0,
        )  # fmt: skip

    async def _online(self) -> Online:
        return self.online

    def submit(self, rows: Sequence[Any], seconds: float = 600.0, id: str = "batch_1") -> Batch:
        """A batch over these lines."""
        content = BytesIO(jsonl(rows))
        file = self.archive.files.add("t", "in.jsonl", "batch", content)
        now = self.clock.now()
        batch = Batch(
            id=id, tenant="t", account="k", endpoint=CHAT, model="", input_file=file.id,
            window="10m", metadata={}, status="validating", errors=[], output_file="",
            error_file="", lines=0, right_lines=0, wrong_lines=0, times={}, created_at=now,
            expires_at=now + seconds,
        )  # fmt: skip
        self.archive.batches.add(batch)
        return batch

    def start(self) -> None:
        self._working = asyncio.ensure_future(self.runner.run())

    async def kill(self) -> None:
        """Whoever works on batches is gone, with all that it only had in mind."""
        assert self._working is not None
        self._working.cancel()
        asking = [task for work in self.runner._works.values() for task in work.asking]
        for task in asking:
            task.cancel()
        await asyncio.gather(self._working, *asking, return_exceptions=True)

    async def ended(self, batch: Batch, seconds: float = 15.0) -> Batch:
        """The batch once nobody works on it any more."""
        return await self.until(batch, lambda b: "finalizing" not in b.status and b.status not in {
            "validating", "in_progress", "cancelling"}, seconds)  # fmt: skip

    async def until(
        self, batch: Batch, good: Callable[[Batch], bool], seconds: float = 15.0
    ) -> Batch:
        """The batch once it is `good`."""
        async with asyncio.timeout(seconds):
            while not good(found := self.archive.batches.batch("t", batch.id)):
                await asyncio.sleep(0.02)
        return found

    def rows(self, file: str) -> list[dict[str, Any]]:
        """The lines of a file of answers; none without one."""
        if not file:
            return []
        text = b"".join(self.archive.files.chunks("t", file)).decode()
        return [json.loads(line) for line in text.splitlines()]
