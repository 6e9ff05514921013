"""Budgets in the database: reserve before work, settle after it. Plain calls; each is part of one
transaction, in which nobody else reserves or settles (`accounts.py`).

A reservation counts until its lease runs out, which is later than its request's own deadline; so
what a killed gateway held is free again by itself. A request that settles later still (its process
was stopped) is charged what is free then and no more: the rest stands in the ledger as unbilled.
Clocks of the gateways' machines must agree to within the lease's margin.
"""

from typing import Any, Final

from sqlalchemy import Connection, text

from cluster.ids import Clock
from serve.accounts import Accounts
from serve.budgets import (
    EVERY,
    MINUTE_S,
    Balance,
    Caller,
    Kind,
    Limits,
    Period,
    RateLimited,
    Slot,
    Worst,
    chargeable,
    refusal,
    too_fast,
    window_start,
)
from serve.ledger import Used, record

_BUDGETS: Final = text(
    "SELECT kind, subject, period, limit_nano FROM budgets WHERE tenant = :tenant AND ("
    " kind = 'tenant' OR (kind = 'key' AND subject IN (:key, :every))"
    " OR (kind = 'agent' AND subject IN (:agent, :every))"
    " OR (kind = 'run' AND subject IN (:run, :every)))"
)
_SPENT: Final = text(
    "SELECT kind, subject, period, since, spent_nano FROM balances WHERE tenant = :tenant AND ("
    " (kind = 'tenant' AND subject = :tenant) OR (kind = 'key' AND subject = :key)"
    " OR (kind = 'agent' AND subject = :agent) OR (kind = 'run' AND subject = :run))"
)
_SPEND: Final = text(
    "INSERT INTO balances (tenant, kind, subject, period, since, spent_nano)"
    " VALUES (:tenant, :kind, :subject, :period, :since, :spent)"
    " ON CONFLICT (tenant, kind, subject, period)"
    " DO UPDATE SET since = :since, spent_nano = :spent"
)
_RESERVED: Final = text(
    "SELECT key_id, agent, run, SUM(nano), SUM(streams) FROM reservations"
    " WHERE tenant = :tenant AND until > :now GROUP BY key_id, agent, run"
)
_RESERVE: Final = text(
    "INSERT INTO reservations (id, tenant, key_id, agent, run, nano, tokens, slot, streams, until)"
    " VALUES (:id, :tenant, :key, :agent, :run, :nano, :tokens, :slot, :streams, :until)"
)
_RATE: Final = text(
    "INSERT INTO rates (key_id, slot, requests, tokens) VALUES (:key, :slot, 1, :tokens)"
    " ON CONFLICT (key_id, slot) DO UPDATE SET requests = rates.requests + 1,"
    " tokens = rates.tokens + :tokens"
)
_RATES: Final = text(
    "SELECT slot, requests, tokens FROM rates WHERE key_id = :key AND slot >= :first"
)
_RESERVATION: Final = text("SELECT nano, tokens, slot, until FROM reservations WHERE id = :id")
_END: Final = text("DELETE FROM reservations WHERE id = :id")
_COLUMN_OF: Final[dict[Kind, str]] = {
    "key": "key_id", "tenant": "tenant", "agent": "agent", "run": "run",
}  # fmt: skip


class Reservations:
    """`margin_s` is how much longer a lease is than its request's deadline, seconds."""

    def __init__(self, accounts: Accounts, clock: Clock, margin_s: float = 10.0) -> None:
        self._accounts, self._clock, self._margin_s = accounts, clock, margin_s
        self._tidied = 0

    def reserve(
        self, id: str, caller: Caller, limits: Limits, worst: Worst, seconds: float
    ) -> None:
        """Hold what the request `id` comes to at worst, for `seconds` and the margin.

        Raises BudgetExceeded or RateLimited, with nothing written, when it does not fit."""
        now = self._clock.now()
        with self._accounts.transaction() as connection:
            self._require_speed(connection, caller, limits, worst, now)
            if worst.nano:
                refused = refusal(self._balances(connection, caller, now), worst.nano, now)
                if refused is not None:
                    raise refused
            given = {
                **vars(caller), "id": id, "nano": worst.nano,
                "tokens": worst.tokens if limits.any else 0,
                "slot": int(now), "streams": int(worst.streaming),
                "until": now + seconds + self._margin_s,
            }  # fmt: skip
            self._tidy(connection, now)
            connection.execute(_RESERVE, given)
            if limits.any:
                connection.execute(_RATE, given)

    def settle(self, id: str, caller: Caller, used: Used | None) -> int:
        """End the reservation `id` and charge for what was `used`, with its row in the ledger; None
        releases it whole. What was not reserved, or no more, is charged as far as budgets are free.
        Returns what was charged, nano-dollars."""
        now = self._clock.now()
        with self._accounts.transaction() as connection:
            row = connection.execute(_RESERVATION, {"id": id}).mappings().first()
            if row is not None and row["tokens"]:
                tokens = 0 if used is None else used.tokens_in + used.tokens_out
                _give_back(connection, caller.key, row, tokens)
            charged = 0
            if used is not None:
                held = int(row["nano"]) if row is not None and row["until"] > now else 0
                # Before the reservation goes, since the balances still count it.
                charged = self._charge(connection, caller, used.cost_nano, held, now)
                record(connection, caller, used, charged, now)
            if row is not None:
                connection.execute(_END, {"id": id})
        return charged

    def balances(self, caller: Caller) -> list[Balance]:
        """The budgets that hold for a caller, as they stand."""
        with self._accounts.reading() as connection:
            return self._balances(connection, caller, self._clock.now())

    def _balances(self, connection: Connection, caller: Caller, now: float) -> list[Balance]:
        subjects = caller.subjects()
        limits: dict[tuple[Kind, Period], int] = {}
        rows = connection.execute(_BUDGETS, {**vars(caller), "every": EVERY}).all()
        # A budget of one's own comes behind the one for everybody, and so takes its place.
        for kind, _, period, limit in sorted(rows, key=lambda r: r[1] != EVERY):
            if kind in subjects:
                limits[kind, period] = int(limit)
        if not limits:
            return []
        known = {
            (r[0], r[2]): (int(r[3]), int(r[4])) for r in connection.execute(_SPENT, vars(caller))
        }
        reserved = self._reserved(connection, caller, now)
        return [
            Balance(
                kind, subjects[kind], period, limit,
                self._spent(connection, caller, kind, period, known.get((kind, period)), now),
                reserved[kind],
            )
            for (kind, period), limit in limits.items()
        ]  # fmt: skip

    def _reserved(self, connection: Connection, caller: Caller, now: float) -> dict[Kind, int]:
        rows = connection.execute(_RESERVED, {"tenant": caller.tenant, "now": now}).all()
        mine = (caller.key, caller.agent, caller.run)
        kinds: tuple[Kind, ...] = ("key", "agent", "run")
        found: dict[Kind, int] = {
            kind: sum(int(row[3]) for row in rows if row[i] == mine[i])
            for i, kind in enumerate(kinds)
        }
        return {**found, "tenant": sum(int(row[3]) for row in rows)}

    def _spent(
        self,
        connection: Connection,
        caller: Caller,
        kind: Kind,
        period: Period,
        known: tuple[int, int] | None,
        now: float,
    ) -> int:
        since = window_start(period, now)
        if known is not None:
            return known[1] if known[0] >= since else 0
        # Nothing was settled since this budget was set: the ledger knows what was before.
        query = text(
            "SELECT SUM(price_nano) FROM usage_rows WHERE tenant = :tenant"
            f" AND {_COLUMN_OF[kind]} = :subject AND at >= :since"
        )
        subject = caller.subjects()[kind]
        given = {"tenant": caller.tenant, "subject": subject, "since": since}
        return int(connection.execute(query, given).scalar() or 0)

    def _charge(
        self, connection: Connection, caller: Caller, cost: int, held: int, now: float
    ) -> int:
        balances = self._balances(connection, caller, now)
        charged = chargeable(cost, held, balances)
        given = [
            {
                "tenant": caller.tenant, "kind": b.kind, "subject": b.subject, "period": b.period,
                "since": window_start(b.period, now), "spent": b.spent + charged,
            }
            for b in balances
        ]  # fmt: skip
        if given:
            connection.execute(_SPEND, given)
        return charged

    def _tidy(self, connection: Connection, now: float) -> None:
        """Once a second, delete what counts no more."""
        if int(now) == self._tidied:
            return
        self._tidied = int(now)
        connection.execute(text("DELETE FROM reservations WHERE until <= :now"), {"now": now})
        first = {"first": int(now) - MINUTE_S}
        connection.execute(text("DELETE FROM rates WHERE slot < :first"), first)

    def _require_speed(
        self, connection: Connection, caller: Caller, limits: Limits, worst: Worst, now: float
    ) -> None:
        if not limits.any:
            return
        given = {"key": caller.key, "first": int(now) - MINUTE_S}
        slots = [Slot(int(a), int(r), int(t)) for a, r, t in connection.execute(_RATES, given)]
        if (refused := too_fast(limits, slots, worst.tokens, now)) is not None:
            raise refused
        if worst.streaming and limits.max_streams is not None:
            self._require_stream(connection, caller, limits.max_streams, now)

    def _require_stream(
        self, connection: Connection, caller: Caller, limit: int, now: float
    ) -> None:
        rows = connection.execute(_RESERVED, {"tenant": caller.tenant, "now": now}).all()
        open_now = sum(int(row[4]) for row in rows if row[0] == caller.key)
        if open_now >= limit:
            raise RateLimited(f"this key may have {limit} streams open at once, and has", 1.0)


def _give_back(connection: Connection, key: str, row: Any, tokens: int) -> None:
    """A minute's tokens that were reserved and not used."""
    given = {"key": key, "slot": row["slot"], "less": int(row["tokens"]) - tokens}
    connection.execute(
        text("UPDATE rates SET tokens = CASE WHEN tokens > :less THEN tokens - :less ELSE 0 END"
             " WHERE key_id = :key AND slot = :slot"), given,
    )  # fmt: skip
