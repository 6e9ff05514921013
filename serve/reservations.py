"""Budgets in the database: reserve before work, settle after it. Plain calls; each is part of one
transaction, in which nobody else reserves or settles (`accounts.py`), and shares its `Sheet`.

A reservation counts until its lease runs out, which is later than its request's own deadline; so
what a killed gateway held is free again by itself. A request that settles later still (its process
was stopped) is charged what is free then and no more: the rest stands in the ledger as unbilled,
and `bill.py` withholds an answer that is not paid for whole. Clocks of the gateways' machines must
agree to within the lease's margin.
"""

from sqlalchemy import Connection, text

from cluster.ids import Clock
from serve.accounts import Accounts
from serve.budgets import (
    MINUTE_S,
    Balance,
    Caller,
    Limits,
    RateLimited,
    Worst,
    chargeable,
    refusal,
    too_fast,
)
from serve.ledger import Used
from serve.sheet import Held, Sheet


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
        with self._accounts.sharing(self._sheet) as sheet:
            _require_speed(sheet, caller, limits, worst)
            if worst.nano:
                refused = refusal(sheet.balances(caller), worst.nano, sheet.now)
                if refused is not None:
                    raise refused
            tokens = worst.tokens if limits.any else 0
            until = sheet.now + seconds + self._margin_s
            sheet.hold(
                Held(
                    id, caller.tenant, caller.key, caller.agent, caller.run, worst.nano, tokens,
                    int(sheet.now), int(worst.streaming), until,
                )
            )  # fmt: skip
            if limits.any:
                sheet.asked(caller.key, tokens)
        self._tidy()

    def settle(self, id: str, caller: Caller, used: Used | None) -> int:
        """End the reservation `id` and charge for what was `used`, with its row in the ledger; None
        releases it whole. What was not reserved, or no more, is charged as far as budgets are free.
        Returns what was charged, nano-dollars."""
        with self._accounts.sharing(self._sheet) as sheet:
            held, charged = sheet.held(caller.tenant, id), 0
            if used is not None:
                balances = sheet.balances(caller)
                lasting = held.nano if held is not None and held.until > sheet.now else 0
                charged = chargeable(used.cost_nano, lasting, balances)
                sheet.spend(caller, balances, charged)
                sheet.record(caller, used, charged)
            if held is not None:
                sheet.end(held, 0 if used is None else used.tokens_in + used.tokens_out)
        return charged

    def balances(self, caller: Caller) -> list[Balance]:
        """The budgets that hold for a caller, as they stand."""
        with self._accounts.reading() as connection:
            return Sheet(connection, self._clock.now()).balances(caller)

    def _sheet(self, connection: Connection) -> Sheet:
        # The time is read behind the lock: how long that took must not make a lease look longer.
        return Sheet(connection, self._clock.now())

    def _tidy(self) -> None:
        """Once a second, delete what counts no more."""
        now = self._clock.now()
        if int(now) == self._tidied:
            return
        self._tidied = int(now)
        with self._accounts.transaction() as connection:
            connection.execute(text("DELETE FROM reservations WHERE until <= :now"), {"now": now})
            first = {"first": int(now) - MINUTE_S}
            connection.execute(text("DELETE FROM rates WHERE slot < :first"), first)


def _require_speed(sheet: Sheet, caller: Caller, limits: Limits, worst: Worst) -> None:
    if not limits.any:
        return
    refused = too_fast(limits, sheet.slots(caller.key), worst.tokens, sheet.now)
    if refused is not None:
        raise refused
    if worst.streaming and limits.max_streams is not None:
        if sheet.streams(caller) >= limits.max_streams:
            said = f"this key may have {limits.max_streams} streams open at once, and has"
            raise RateLimited(said, 1.0)
