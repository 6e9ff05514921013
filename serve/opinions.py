"""What clients say of answers: one opinion a request, beside its row in the ledger.

Kept are the verdict and the score, and which request of which model they are about. No text is kept
here, neither of the request nor of the answer: an opinion must not become a store of personal data.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import text

from agents.journal import VERDICTS, Verdict
from cluster.errors import InvalidInput, NotFound
from cluster.ids import Clock
from serve.accounts import Accounts

MAX_ROWS: Final = 10_000
_ROW: Final = text(
    "SELECT model FROM usage_rows WHERE request_id = :request_id AND tenant = :tenant"
    " ORDER BY at DESC LIMIT 1"
)
_SAY: Final = text(
    "INSERT INTO opinions (tenant, request_id, key_id, model, verdict, score, at)"
    " VALUES (:tenant, :request_id, :key, :model, :verdict, :score, :at)"
    " ON CONFLICT (tenant, request_id) DO UPDATE SET key_id = :key, model = :model,"
    " verdict = :verdict, score = :score, at = :at"
)
_ALL: Final = text(
    "SELECT o.request_id, o.at, o.model, o.verdict, o.score, u.route, u.tokens_in, u.tokens_out"
    " FROM opinions o JOIN usage_rows u ON u.request_id = o.request_id AND u.tenant = o.tenant"
    " AND u.model = o.model WHERE o.tenant = :tenant AND o.at >= :since"
    " ORDER BY o.at, o.request_id LIMIT :limit"
)


@dataclass(frozen=True)
class Opinion:
    """Whether an answer was right, in the words of `mainspring feedback`, and how good it was from
    0 to 1. InvalidInput when it says neither."""

    verdict: Verdict | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if self.verdict is None and self.score is None:
            raise InvalidInput("verdict", None, f"one of {list(VERDICTS)}, or a score")


@dataclass(frozen=True)
class Judged:
    """An opinion and what it is about: which model answered, what was asked for (`route`), tokens,
    and when it was said, seconds since the epoch."""

    request_id: str
    at: float
    model: str
    verdict: Verdict | None
    score: float | None
    route: str = ""
    tokens_in: int = 0
    tokens_out: int = 0

    def body(self) -> dict[str, Any]:
        """As clients see it."""
        return {"object": "feedback", **asdict(self)}


class Opinions:
    """One a request and tenant: the last one counts."""

    def __init__(self, accounts: Accounts, clock: Clock) -> None:
        self._accounts, self._clock = accounts, clock

    def say(self, tenant: str, key: str, request_id: str, opinion: Opinion) -> Judged:
        """Keep an opinion on a request of the tenant's own, in place of an earlier one.

        Raises NotFound for a request that the ledger does not have of this tenant."""
        now = self._clock.now()
        with self._accounts.transaction() as connection:
            given = {"tenant": tenant, "request_id": request_id}
            if (row := connection.execute(_ROW, given).first()) is None:
                raise NotFound("request", request_id)
            said = {**given, **vars(opinion), "key": key, "model": row[0], "at": now}
            connection.execute(_SAY, said)
        return Judged(request_id, now, row[0], opinion.verdict, opinion.score)

    def all(self, tenant: str, since: float = 0.0, limit: int = MAX_ROWS) -> list[Judged]:
        """The tenant's, from `since` on, the oldest first: what a router learns from."""
        given = {"tenant": tenant, "since": since, "limit": limit}
        with self._accounts.reading() as connection:
            return [Judged(*row) for row in connection.execute(_ALL, given).all()]
