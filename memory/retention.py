"""Forgetting: what has expired, and what somebody asks to be erased, down to the bytes on disk.

What is forgotten is found by nothing as soon as the call has begun to change the log. Its bytes go
with `purge`, which rewrites the log's files and makes the index anew. What is derived from erased
records goes with them, and so do the older versions of an erased one. A receipt says what was
erased, what is pending and what can't be done from here, and is kept in the log; it holds counts
and ids, no text.

Not covered, and said in every receipt: what agents' runs wrote into their own journal, copies that
were carried out of the data folder, backups.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from cluster.errors import InvalidInput
from cluster.ids import Clock
from memory.log import Log, Note, What
from memory.log_rows import Hold
from memory.records import Record
from memory.transfer import Exports
from memory.writer import Writer

_AT_ONCE: Final = 500
ELSEWHERE: Final = (
    "the journal of agents' runs keeps what a run itself was told or answered",
    "exports that were carried out of the data folder, and backups",
    "what agents with ephemeral memory hold in their own process, an hour at most",
)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A receipt. `erased` and `held` are record ids (a held one is under a legal hold and was left
    alone; `holds` say by whom and why); `derived` of the erased ones were only derived from what
    was asked for; `exports` were rewritten; `pending` and `impossible` are sentences."""

    id: str
    tenant: str
    at: float
    erased: tuple[str, ...]
    derived: int
    held: tuple[str, ...]
    holds: tuple[Hold, ...]
    exports: tuple[str, ...]
    pending: tuple[str, ...]
    impossible: tuple[str, ...] = ELSEWHERE

    @property
    def complete(self) -> bool:
        """Whether nothing that can be done from here is left to do."""
        return not self.pending and not self.held


class Retention:
    """Erases and expires. `renew` makes the index's files anew and says whether none of their old
    bytes are left; `wait_s` bounds how long an erasure waits for the bytes."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        exports: Exports,
        clock: Clock,
        renew: Callable[[], Awaitable[bool]],
        wait_s: float,
    ) -> None:
        self._log, self._writer, self._exports, self._clock = log, writer, exports, clock
        self._renew, self._wait_s = renew, wait_s
        self._purges: list[asyncio.Task[tuple[str, ...]]] = []
        self._one_purge = asyncio.Lock()
        self.unpurged = 0

    async def erase(
        self, tenant: str, ids: Sequence[str], subject: str, note: Note
    ) -> tuple[Erasure, list[Record]]:
        """Forget records, or everything about a subject, with what is derived from them. Returns
        the receipt and what was erased."""
        if bool(ids) == bool(subject):
            raise InvalidInput("subject", subject, "either a subject or ids of records")
        asked = await self._asked(tenant, ids, subject)
        derived = await asyncio.to_thread(self._log.descendants, [r.id for r in asked])
        going, held = await self._unheld(tenant, [*asked, *derived])
        await self._remove(going, "forgotten", note)
        gone = frozenset(record.id for record in going)
        # lines about the subject that the log has no record of go as well
        about = "" if held else subject
        exports = await asyncio.to_thread(self._exports.forget, tenant, gone, about)
        pending = await self._purged_in_time()
        receipt = Erasure(
            id=f"erasure_{await asyncio.to_thread(self._log.end)}",
            tenant=tenant,
            at=round(self._clock.now(), 3),
            erased=tuple(sorted(gone)),
            derived=len(gone - {r.id for r in asked}),
            held=tuple(sorted(record.id for record in held)),
            holds=await self._named(tenant, held),
            exports=exports,
            pending=pending,
        )
        await self._kept(receipt)
        return receipt, going

    async def sweep(self) -> list[Record]:
        """Take out everything whose time is over, but for what is held. Their bytes go with the
        next purge."""
        swept: list[Record] = []
        async with asyncio.timeout(600):
            while found := await asyncio.to_thread(self._log.expired, self._clock.now(), _AT_ONCE):
                going = []
                for tenant in sorted({record.tenant for record in found}):
                    mine = [r for r in found if r.tenant == tenant]
                    going += (await self._unheld(tenant, mine))[0]
                await self._remove(going, "expired", Note("retention", "its time is over"))
                swept += going
                if len(found) < _AT_ONCE or not going:
                    break
        return swept

    async def drop(self, records: list[Record], note: Note) -> None:
        """Take records out that are no longer said; their bytes go with the next purge."""
        for tenant in sorted({record.tenant for record in records}):
            mine = [record for record in records if record.tenant == tenant]
            await self._remove((await self._unheld(tenant, mine))[0], "forgotten", note)

    async def purge(self) -> tuple[str, ...]:
        """Rewrite the files so that the bytes of what was taken out are gone. Returns what is
        still pending."""
        async with self._one_purge:
            before = self.unpurged
            pending: list[str] = []
            if not await self._writer.alone(lambda: asyncio.to_thread(self._log.scrub)):
                pending.append(_WAL_HOLDS)
            if not await self._renew():
                pending.append("the index: vectors (no text) until the server compacts")
            self.unpurged -= before
        return tuple(pending)

    async def hold(self, tenant: str, subject: str, note: Note) -> None:
        """Keep everything about the subject from being erased until the hold is lifted."""
        _require(subject, note)
        await self._writer.alone(lambda: asyncio.to_thread(self._log.hold, tenant, subject, note))

    async def release(self, tenant: str, subject: str, note: Note) -> None:
        """Lift a hold. NotFound when there is none."""
        _require(subject, note)
        await self._writer.alone(
            lambda: asyncio.to_thread(self._log.release, tenant, subject, note)
        )

    async def _asked(self, tenant: str, ids: Sequence[str], subject: str) -> list[Record]:
        if subject:
            return await asyncio.to_thread(self._log.about, tenant, subject)
        found = await asyncio.to_thread(self._log.get, tenant, ids)
        step = list(found.values())
        while step:
            parents = [p for record in step for p in record.parents if p not in found]
            older = await asyncio.to_thread(self._log.get, tenant, parents)
            step = [r for r in older.values() if r.superseded_at is not None]
            found |= {record.id: record for record in step}
        return list(found.values())

    async def _named(self, tenant: str, held: Sequence[Record]) -> tuple[Hold, ...]:
        subjects = {record.subject for record in held}
        holds = await asyncio.to_thread(self._log.held, tenant)
        return tuple(hold for hold in holds if hold.subject in subjects)

    async def _unheld(
        self, tenant: str, records: Sequence[Record]
    ) -> tuple[list[Record], list[Record]]:
        holds = {hold.subject for hold in await asyncio.to_thread(self._log.held, tenant)}
        going = [record for record in records if record.subject not in holds]
        return going, [record for record in records if record.subject in holds]

    async def _remove(self, records: list[Record], what: What, note: Note) -> None:
        for start in range(0, len(records), _AT_ONCE):
            part = records[start : start + _AT_ONCE]
            await self._writer.remove(part, what, note)
        self.unpurged += len(records)

    async def _purged_in_time(self) -> tuple[str, ...]:
        if not self.unpurged:
            return ()
        self._purges = [task for task in self._purges if not task.done()]
        self._purges.append(task := asyncio.create_task(self.purge()))
        try:
            return await asyncio.wait_for(asyncio.shield(task), self._wait_s)
        except TimeoutError:
            return (f"the files: still being rewritten after {self._wait_s:g} s",)

    async def _kept(self, receipt: Erasure) -> None:
        body = json.dumps(
            asdict(receipt) | {"erased": len(receipt.erased), "holds": len(receipt.holds)}
        )
        await self._writer.alone(
            lambda: asyncio.to_thread(self._log.receipt, receipt.tenant, receipt.id, body)
        )

    async def close(self) -> None:
        """Wait for a purge that is under way."""
        await asyncio.gather(*self._purges, return_exceptions=True)


_WAL_HOLDS: Final = (
    "the database: its write-ahead log holds old pages until it is cut (PostgreSQL: pg_wal until"
    " its files are used again, and what was archived or replicated of it)"
)


def _require(subject: str, note: Note) -> None:
    for name, value in (("subject", subject), ("by", note.by), ("why", note.why)):
        if not value.strip():
            raise InvalidInput(name, value, "a text with a visible character")
