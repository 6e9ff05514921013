"""Works on batches: reads their files, asks for every line, writes the files of answers.

One at a time works on the batches of a database. All that it has done is in the database: a new
one, after a kill, goes on where it was, and a line that was on its way is asked again. `pacing.py`
says how many lines may be on their way beside what somebody waits for; batches take turns.
"""

import asyncio
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cluster.errors import Conflict, MainspringError, NotFound
from cluster.ids import Clock
from cluster.telemetry import logger
from serve.bulk.asking import Worker, ask
from serve.bulk.files import Files
from serve.bulk.kinds import Known
from serve.bulk.lines import Answered, Fault, Line, Reader, split, written
from serve.bulk.pacing import NOBODY, STEP_S, Pace, next_pace
from serve.bulk.table import Batch, Batches
from serve.directory import Online

log = logger("bulk")

LOOK_S: Final = 0.5
SWEEP_S: Final = 600.0
MAX_FAULTS: Final = 100
START: Final = 4.0
WRITE_S: Final = 0.1
_GROUP: Final = 500
_SPOOLED: Final = 8_000_000

Watching = Callable[[], Awaitable[Online]]


@dataclass
class _Work:
    """A batch that is worked on: lines that were read, up to number `after`, and not yet asked;
    `drained` when there are none behind those. `asking` are those on their way."""

    batch: Batch
    lines: deque[Line] = field(default_factory=deque)
    after: int = 0
    drained: bool = False
    asking: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def wants(self) -> bool:
        return bool(self.lines) or not self.drained


@dataclass
class _Duty:
    """What is done every so many seconds."""

    every_s: float
    work: Callable[[], Awaitable[None]]
    at: float = float("-inf")

    async def do(self, now: float) -> None:
        if now - self.at >= self.every_s:
            self.at = now
            await self.work()


class Runner:
    """`known` are the names that lines may ask for; `ceiling` is the most lines that may be on
    their way; `target_s` the time to the first token that online requests are promised."""

    def __init__(
        self, batches: Batches, files: Files, worker: Worker, online: Watching, clock: Clock,
        known: Known, ceiling: int, target_s: float, keep_s: float,
    ) -> None:  # fmt: skip
        self._batches, self._files, self._worker = batches, files, worker
        self._online, self._clock, self._known = online, clock, known
        self._ceiling, self._target_s, self._keep_s = ceiling, target_s, keep_s
        self.pace = Pace(min(START, ceiling), clock.monotonic() - STEP_S)
        self._refused = False
        self._works: dict[str, _Work] = {}
        self._answers: list[tuple[str, int, Answered]] = []
        self._seen = NOBODY
        self._answered = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. What the database or the objects refuse is tried again."""
        duties = [
            _Duty(SWEEP_S, self._sweep), _Duty(LOOK_S, self._look), _Duty(STEP_S, self._set_pace),
            _Duty(WRITE_S, self._write), _Duty(0.0, self._fill),
        ]  # fmt: skip
        while True:
            try:
                for duty in duties:
                    await duty.do(self._clock.monotonic())
            except MainspringError as error:
                log.warning("batches wait: %s", error)
                await asyncio.sleep(LOOK_S)
            await self._something()

    async def _something(self) -> None:
        """Wait until a line is answered, but no longer than until the next duty."""
        self._answered.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), WRITE_S)

    async def stop(self) -> None:
        """Ask no more; what was answered is written."""
        asking = [task for work in self._works.values() for task in work.asking]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._write()

    def state(self) -> dict[str, Any]:
        """How it goes now: lines on their way, the pace and why, what online requests see."""
        return {
            "under_way": self._under_way, "limit": self.pace.allowed,
            "why": self.pace.why, "online_ttft_s": self._seen.ttft_s, "batches": len(self._works),
        }  # fmt: skip

    # --- what each batch needs next

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._files.sweep)

    async def _look(self) -> None:
        for batch in await asyncio.to_thread(self._batches.open_batches):
            with suppress(Conflict):  # somebody moved it on meanwhile; looked at again soon
                await self._advance(batch)

    async def _advance(self, batch: Batch) -> None:
        if batch.status == "validating":
            await asyncio.to_thread(self._validate, batch)
            return
        work = self._works.setdefault(batch.id, _Work(batch))
        work.batch = batch
        over = self._clock.now() >= batch.expires_at
        if batch.status == "in_progress" and batch.left and not over:
            self._begin_again(work)
            return
        work.lines.clear()
        work.drained = True
        for task in work.asking:
            task.cancel()  # closes the connection, so that the engine stops
        if not self._busy(work):
            if batch.left:
                await self._worker.withdraw(batch)
            await asyncio.to_thread(self._finish, batch)
            del self._works[batch.id]

    def _begin_again(self, work: _Work) -> None:
        """From the first line that is left, when nothing is on its way and some were lost."""
        if not work.wants and not self._busy(work):
            work.after, work.drained = 0, False

    def _busy(self, work: _Work) -> bool:
        return bool(work.asking) or any(id == work.batch.id for id, _, _ in self._answers)

    @property
    def _under_way(self) -> int:
        return sum(len(work.asking) for work in self._works.values())

    def _validate(self, batch: Batch) -> None:
        """Read the file of a batch: its lines are worked on, or what is wrong is told."""
        self._batches.clear(batch)
        lines: list[Line] = []
        faults: list[Fault] = []
        for found in self._read(batch):
            if isinstance(found, Fault):
                faults.append(found)
            else:
                lines.append(found)
            if len(faults) >= MAX_FAULTS:
                break
        if not lines and not faults:
            faults = [Fault(0, "empty_file", "the file has no requests", "input_file_id")]
        now = self._clock.now()
        if faults:
            self._batches.move(batch, "failed", now, [fault.shown() for fault in faults])
            return
        for start in range(0, len(lines), _GROUP):
            self._batches.add_lines(batch, lines[start : start + _GROUP])
        self._batches.begin(batch, lines[0].model, len(lines), now)

    def _read(self, batch: Batch) -> Iterator[Line | Fault]:
        reader = Reader(batch.endpoint, self._known)
        try:
            chunks = self._files.chunks(batch.tenant, batch.input_file)
            for number, raw in enumerate(split(chunks), start=1):
                if (found := reader.read(number, raw)) is not None:
                    yield found
        except NotFound as error:
            yield Fault(0, "file_not_found", str(error), "input_file_id")

    # --- lines

    async def _set_pace(self) -> None:
        self._seen = await self._online()
        now = self._clock.monotonic()
        self.pace = next_pace(
            self.pace, self._seen, self._refused, self._target_s, self._ceiling, now
        )
        self._refused = False

    async def _fill(self) -> None:
        free = self.pace.allowed - self._under_way
        while free > 0 and (wanting := [w for w in self._works.values() if w.wants]):
            for work in wanting[:free]:
                if (line := await self._next(work)) is not None:
                    free -= 1
                    self._send(work, line)

    async def _next(self, work: _Work) -> Line | None:
        if not work.lines:
            more = await asyncio.to_thread(self._batches.unanswered, work.batch.id, work.after)
            work.lines.extend(more)
            work.drained = not more
            work.after = more[-1].number if more else work.after
        return work.lines.popleft() if work.lines else None

    def _send(self, work: _Work, line: Line) -> None:
        task = asyncio.ensure_future(self._ask(work.batch, line))
        work.asking.add(task)
        task.add_done_callback(work.asking.discard)

    async def _ask(self, batch: Batch, line: Line) -> None:
        answer = await ask(self._worker, batch, line, self._clock, self._full)
        if answer is not None:
            self._answers.append((batch.id, line.number, answer))
        self._answered.set()

    def _full(self) -> None:
        self._refused = True

    async def _write(self) -> None:
        """Keep the answers that came; they stay in hand until the database has them."""
        answers = self._answers[:_GROUP]
        if answers:
            await asyncio.to_thread(self._batches.answer, answers)
            del self._answers[: len(answers)]

    # --- the end

    def _finish(self, batch: Batch) -> None:
        """Write the files of answers and end the batch. Done twice, it comes to the same."""
        now = self._clock.now()
        if batch.status == "in_progress":
            end = "completed" if not batch.left else "expired"
            batch = self._batches.move(batch, "finalizing", now)
        elif batch.status == "cancelling":
            end = "cancelled"
        else:
            end = "completed" if not batch.left else "expired"
        names = {right: self._file_of(batch, right, end) for right in (True, False)}
        self._batches.move(batch, end, now, output_file=names[True], error_file=names[False])
        self._batches.clear(batch)

    def _file_of(self, batch: Batch, right: bool, end: str) -> str:
        """The id of the file with the right answers, or with all others; empty without any."""
        kind = "output" if right else "error"
        id = f"file-{batch.id.removeprefix('batch_')}-{kind}"
        with tempfile.SpooledTemporaryFile(max_size=_SPOOLED) as out:
            for data in self._told(batch, right, end):
                out.write(data)
            if not out.tell():
                return ""
            out.seek(0)
            expires = self._clock.now() + self._keep_s
            name = f"{batch.id}_{kind}.jsonl"
            self._files.add(batch.tenant, name, "batch_output", out, expires, id)
        return id

    def _told(self, batch: Batch, right: bool, end: str) -> Iterator[bytes]:
        for row in self._batches.rows(batch.id):
            answer = row.answer or Answered(
                code=f"batch_{end}", message=f"the batch {_ENDS[end]} before this line was answered"
            )
            if answer.right == right:
                yield written(batch.id, row.line, row.custom_id, answer)


_ENDS: Final = {"expired": "expired", "cancelled": "was cancelled", "completed": "ended"}
