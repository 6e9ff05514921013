"""What was asked, kept for the router to learn from: masked, bounded, and only of tenants that
consent.

A label is what somebody said of the one answer that they saw. So each model learns from the
requests that it answered itself. What a shadow answered teaches nothing: that two models agree is
likelier when both are right, and labels taken from it would flatter whichever is asked less.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from agents.journal import Verdict
from agents.pii import Detector, masked
from cluster.errors import MainspringError
from cluster.ids import Clock
from cluster.settings import QuestionsSection
from cluster.telemetry import logger
from serve.accounts import Accounts
from serve.calls import Call, drawn

log = logger("questions")

MAX_CHARS: Final = 2_000
"""Kept of a question; the encoder reads less."""
MAX_WAITING: Final = 1_000
MAX_ROWS: Final = 50_000
_DAY_S: Final = 86_400.0
_GROUP: Final = 200
_KEEP: Final = text(
    "INSERT INTO questions (tenant, request_id, at, question)"
    " VALUES (:tenant, :request_id, :at, :question) ON CONFLICT (tenant, request_id) DO NOTHING"
)
_TOO_OLD: Final = text("DELETE FROM questions WHERE tenant = :tenant AND at < :before")
_TOO_MANY: Final = text(
    "DELETE FROM questions WHERE tenant = :tenant AND at <= (SELECT at FROM questions"
    " WHERE tenant = :tenant ORDER BY at DESC LIMIT 1 OFFSET :most)"
)
_FORGET: Final = text(
    "DELETE FROM questions WHERE tenant = :tenant AND (:all = 1 OR request_id = :request_id)"
)
_JUDGED: Final = text(
    "SELECT o.tenant, o.request_id, q.question, o.model, o.verdict, o.score FROM opinions o"
    " JOIN questions q ON q.tenant = o.tenant AND q.request_id = o.request_id"
    " ORDER BY o.at DESC, o.tenant, o.request_id LIMIT :limit"
)


@dataclass(frozen=True)
class Asked:
    """A question of a tenant, as it came."""

    tenant: str
    request_id: str
    at: float
    question: str


@dataclass(frozen=True)
class JudgedQuestion:
    """A masked question, which model answered it and what somebody said of that."""

    tenant: str
    request_id: str
    question: str
    model: str
    verdict: Verdict | None
    score: float | None


class Questions:
    """The rows."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts, self._clock = accounts, clock

    def keep(
        self, asked: Sequence[Asked], days: float, most: int, more: Sequence[Detector] = ()
    ) -> None:
        """Keep them masked, by our patterns and `more`; of each of their tenants none older than
        `days`, and `most` in all."""
        rows = [{**vars(one), "question": masked(one.question, more)} for one in asked]
        before = self._clock.now() - days * _DAY_S
        with self._accounts.transaction() as connection:
            connection.execute(_KEEP, rows)
            for tenant in {one.tenant for one in asked}:
                connection.execute(_TOO_OLD, {"tenant": tenant, "before": before})
                connection.execute(_TOO_MANY, {"tenant": tenant, "most": most})

    def forget(self, tenant: str, request_id: str | None = None) -> tuple[int, bool]:
        """Take away one question of a tenant, or all: how many there were, and whether they are in
        none of the database's files any more (see `Database.compact`)."""
        given = {"tenant": tenant, "all": int(request_id is None), "request_id": request_id or ""}
        with self._accounts.transaction() as connection:
            gone = connection.execute(_FORGET, given).rowcount
        return gone, self._accounts.compact(["questions"])

    def judged(self, limit: int = MAX_ROWS) -> list[JudgedQuestion]:
        """Those of all tenants that somebody has judged, the latest first."""
        with self._accounts.reading() as connection:
            rows = connection.execute(_JUDGED, {"limit": limit}).all()
        return [JudgedQuestion(*row) for row in rows]


class Keeper:
    """Keeps questions behind the answers: nobody waits for it; what does not fit is left out."""

    def __init__(
        self, questions: Questions, section: QuestionsSection, clock: Clock,
        more: Sequence[Detector] = (),
    ) -> None:  # fmt: skip
        self._questions, self._section, self._clock, self._more = questions, section, clock, more
        self._waiting: deque[Asked] = deque()
        self._writing: asyncio.Task[None] | None = None

    def offer(self, call: Call, question: str) -> None:
        """Keep what this call asked, where its tenant consents, its header does not say `no-store`
        and it is of the share."""
        section, question = self._section, question.strip()
        if call.tenant not in section.tenants or "no-store" in call.cache_control.lower():
            return
        if not question or call.batch or not drawn(call.request_id, section.share, "question"):
            return
        if len(self._waiting) >= MAX_WAITING:
            return
        now = self._clock.now()
        self._waiting.append(Asked(call.tenant, call.request_id, now, question[:MAX_CHARS]))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Once what was offered is kept."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        section = self._section
        try:
            while self._waiting:
                size = min(len(self._waiting), _GROUP)
                group = [self._waiting.popleft() for _ in range(size)]
                await asyncio.to_thread(
                    self._questions.keep, group, section.days, section.most, self._more
                )
        except MainspringError as error:
            log.warning("questions are not kept: %s", error)
        finally:
            self._writing = None
