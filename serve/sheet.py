"""What one transaction knows of budgets: each row is read once, whoever asks for it, and what has
changed is written in a few statements before the commit.

So a group of a hundred reservations and settlements costs hardly more round trips than one. Nobody
else reserves or settles meanwhile (`accounts.py`), so what was read stays true.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, text

from serve.budgets import (
    EVERY,
    MINUTE_S,
    Balance,
    Caller,
    Kind,
    Period,
    Slot,
    window_start,
)
from serve.ledger import Used, record, row_of

_BUDGETS: Final = text(
    "SELECT kind, subject, period, limit_nano FROM budgets WHERE tenant = :tenant AND ("
    " kind = 'tenant' OR (kind = 'key' AND subject IN (:key, :every))"
    " OR (kind = 'agent' AND subject IN (:agent, :every))"
    " OR (kind = 'run' AND subject IN (:run, :every)))"
)
_SPENT: Final = text(
    "SELECT since, spent_nano FROM balances WHERE tenant = :tenant AND kind = :kind"
    " AND subject = :subject AND period = :period"
)
_SPEND: Final = text(
    "INSERT INTO balances (tenant, kind, subject, period, since, spent_nano)"
    " VALUES (:tenant, :kind, :subject, :period, :since, :spent)"
    " ON CONFLICT (tenant, kind, subject, period)"
    " DO UPDATE SET since = :since, spent_nano = :spent"
)
_HELD: Final = text(
    "SELECT id, tenant, key_id, agent, run, nano, tokens, slot, streams, until FROM reservations"
    " WHERE tenant = :tenant"
)
_HOLD: Final = text(
    "INSERT INTO reservations (id, tenant, key_id, agent, run, nano, tokens, slot, streams, until)"
    " VALUES (:id, :tenant, :key, :agent, :run, :nano, :tokens, :slot, :streams, :until)"
)
_END: Final = text("DELETE FROM reservations WHERE id = :id")
_RATES: Final = text(
    "SELECT slot, requests, tokens FROM rates WHERE key_id = :key AND slot >= :first"
)
_RATE: Final = text(
    "INSERT INTO rates (key_id, slot, requests, tokens) VALUES (:key, :at, :requests, :tokens)"
    " ON CONFLICT (key_id, slot) DO UPDATE SET requests = :requests, tokens = :tokens"
)
_COLUMN_OF: Final[dict[Kind, str]] = {
    "key": "key_id", "tenant": "tenant", "agent": "agent", "run": "run",
}  # fmt: skip


@dataclass(frozen=True)
class Held:
    """A reservation: nano-dollars, tokens of a minute from the second `slot`, until when."""

    id: str
    tenant: str
    key: str
    agent: str
    run: str
    nano: int
    tokens: int
    slot: int
    streams: int
    until: float

    def of(self, kind: Kind) -> str:
        """Whose it is, as a budget of that kind sees it."""
        subject: str = getattr(self, kind)
        return subject


class Sheet:
    """Belongs to one transaction that began at `now`; `flush` before it commits."""

    def __init__(self, connection: Connection, now: float) -> None:
        self.now = now
        self._connection = connection
        self._limits: dict[Caller, dict[tuple[Kind, Period], int]] = {}
        self._spent: dict[tuple[str, Kind, str, Period], int] = {}
        self._paid: set[tuple[str, Kind, str, Period]] = set()
        self._held: dict[str, dict[str, Held]] = {}
        self._new: dict[str, Held] = {}
        self._over: list[str] = []
        self._rates: dict[str, dict[int, Slot]] = {}
        self._asked: set[tuple[str, int]] = set()
        self._rows: list[dict[str, Any]] = []

    def balances(self, caller: Caller) -> list[Balance]:
        """The budgets that hold for a caller, as they stand."""
        subjects = caller.subjects()
        return [
            Balance(
                kind, subjects[kind], period, limit,
                self._spent_of(caller.tenant, kind, subjects[kind], period),
                sum(h.nano for h in self._counting(caller.tenant) if h.of(kind) == subjects[kind]),
            )
            for (kind, period), limit in self._limits_of(caller).items()
        ]  # fmt: skip

    def streams(self, caller: Caller) -> int:
        """How many the caller's key has open."""
        return sum(h.streams for h in self._counting(caller.tenant) if h.key == caller.key)

    def slots(self, key: str) -> list[Slot]:
        """What the key asked for in the last minute, by the second."""
        return list(self._slots(key).values())

    def hold(self, held: Held) -> None:
        """Reserve."""
        self._of_tenant(held.tenant)[held.id] = held
        self._new[held.id] = held

    def asked(self, key: str, tokens: int) -> None:
        """Count one more request of the key in this second."""
        at = int(self.now)
        slot = self._slots(key).get(at, Slot(at, 0, 0))
        self._put(key, Slot(at, slot.requests + 1, slot.tokens + tokens))

    def held(self, tenant: str, id: str) -> Held | None:
        """The reservation, if it is known still; it may have run out."""
        return self._of_tenant(tenant).get(id)

    def end(self, held: Held, tokens: int) -> None:
        """The reservation is over; what it held of a minute and not used, `tokens`, is free."""
        del self._of_tenant(held.tenant)[held.id]
        if self._new.pop(held.id, None) is None:
            self._over.append(held.id)
        if held.tokens and (slot := self._slots(held.key).get(held.slot)) is not None:
            less = max(0, slot.tokens - held.tokens + tokens)
            self._put(held.key, replace(slot, tokens=less))

    def spend(self, caller: Caller, balances: Iterable[Balance], nano: int) -> None:
        """Charge to all of the caller's budgets."""
        for b in balances:
            one = (caller.tenant, b.kind, b.subject, b.period)
            self._spent[one] = b.spent + nano
            self._paid.add(one)

    def record(self, caller: Caller, used: Used, charged: int) -> None:
        """A row for the ledger."""
        self._rows.append(row_of(caller, used, charged, self.now))

    def flush(self) -> None:
        """Write what has changed."""
        new = [vars(held) for held in self._new.values()]
        rates = [{"key": key, **vars(self._rates[key][at])} for key, at in self._asked]
        spent = [self._spending(*one) for one in self._paid]
        ended = [{"id": id} for id in self._over]
        for statement, given in ((_HOLD, new), (_RATE, rates), (_SPEND, spent), (_END, ended)):
            if given:
                self._connection.execute(statement, given)
        if self._rows:
            record(self._connection, self._rows)

    def _spending(self, tenant: str, kind: Kind, subject: str, period: Period) -> dict[str, Any]:
        return {
            "tenant": tenant, "kind": kind, "subject": subject, "period": period,
            "since": window_start(period, self.now),
            "spent": self._spent[tenant, kind, subject, period],
        }  # fmt: skip

    def _limits_of(self, caller: Caller) -> dict[tuple[Kind, Period], int]:
        if caller not in self._limits:
            subjects = caller.subjects()
            rows = self._connection.execute(_BUDGETS, {**vars(caller), "every": EVERY}).all()
            # A budget of one's own comes behind the one for everybody, and so takes its place.
            rows = sorted(rows, key=lambda r: r[1] != EVERY)
            self._limits[caller] = {(r[0], r[2]): int(r[3]) for r in rows if r[0] in subjects}
        return self._limits[caller]

    def _spent_of(self, tenant: str, kind: Kind, subject: str, period: Period) -> int:
        one = (tenant, kind, subject, period)
        if one not in self._spent:
            self._spent[one] = self._looked_up(*one)
        return self._spent[one]

    def _looked_up(self, tenant: str, kind: Kind, subject: str, period: Period) -> int:
        since = window_start(period, self.now)
        given = {"tenant": tenant, "kind": kind, "subject": subject, "period": period}
        if (known := self._connection.execute(_SPENT, given).first()) is not None:
            return int(known[1]) if int(known[0]) >= since else 0
        # Nothing was settled since this budget was set: the ledger knows what was before.
        query = text(
            "SELECT SUM(price_nano) FROM usage_rows WHERE tenant = :tenant"
            f" AND {_COLUMN_OF[kind]} = :subject AND at >= :since"
        )
        return int(self._connection.execute(query, {**given, "since": since}).scalar() or 0)

    def _counting(self, tenant: str) -> list[Held]:
        return [h for h in self._of_tenant(tenant).values() if h.until > self.now]

    def _of_tenant(self, tenant: str) -> dict[str, Held]:
        if tenant not in self._held:
            rows = self._connection.execute(_HELD, {"tenant": tenant}).all()
            self._held[tenant] = {row[0]: Held(*row) for row in rows}
        return self._held[tenant]

    def _slots(self, key: str) -> dict[int, Slot]:
        if key not in self._rates:
            given = {"key": key, "first": int(self.now) - MINUTE_S}
            rows = self._connection.execute(_RATES, given).all()
            self._rates[key] = {int(a): Slot(int(a), int(r), int(t)) for a, r, t in rows}
        return self._rates[key]

    def _put(self, key: str, slot: Slot) -> None:
        self._slots(key)[slot.at] = slot
        self._asked.add((key, slot.at))
