"""Which budgets there are: a table of limits."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from cluster.errors import InvalidInput
from serve.accounts import Accounts
from serve.budgets import EVERY, KINDS, PERIODS, Kind, Period


@dataclass(frozen=True)
class Budget:
    """A limit in nano-dollars a period. `subject` is a key's account, an agent, a run, the tenant
    itself, or EVERY for each key, agent or run that has no budget of its own for that period."""

    tenant: str
    kind: Kind
    subject: str
    period: Period
    limit: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput("kind", self.kind, f"one of {list(KINDS)}")
        if self.period not in PERIODS:
            raise InvalidInput("period", self.period, f"one of {list(PERIODS)}")
        if self.kind == "tenant" and self.subject != self.tenant:
            raise InvalidInput("subject", self.subject, f"the tenant itself, {self.tenant!r}")
        if not 0 <= self.limit < 2**62:
            raise InvalidInput("limit", self.limit, "nano-dollars from 0")


class BudgetTable:
    """Sets limits. What is spent of them is `reservations.py`'s."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def limited(self, tenant: str) -> bool:
        """Whether this tenant has any budget."""
        with self._accounts.reading() as connection:
            query = text("SELECT 1 FROM budgets WHERE tenant = :tenant LIMIT 1")
            return connection.execute(query, {"tenant": tenant}).first() is not None

    def put(self, budget: Budget) -> None:
        """Set a limit, in place of an earlier one; what was spent before counts."""
        with self._accounts.transaction() as connection:
            self._forget(connection, budget)
            connection.execute(
                text(
                    "INSERT INTO budgets (tenant, kind, subject, period, limit_nano)"
                    " VALUES (:tenant, :kind, :subject, :period, :limit)"
                    " ON CONFLICT (tenant, kind, subject, period) DO UPDATE SET limit_nano = :limit"
                ),
                vars(budget),
            )

    def remove(self, budget: Budget) -> bool:
        """Take a limit away; whether there was one."""
        with self._accounts.transaction() as connection:
            self._forget(connection, budget)
            query = text(
                "DELETE FROM budgets WHERE tenant = :tenant AND kind = :kind"
                " AND subject = :subject AND period = :period"
            )
            return connection.execute(query, vars(budget)).rowcount > 0

    def all(self, tenant: str | None = None) -> list[Budget]:
        """All budgets, or a tenant's."""
        with self._accounts.reading() as connection:
            rows = connection.execute(
                text("SELECT tenant, kind, subject, period, limit_nano FROM budgets"
                     " ORDER BY tenant, kind, subject, period")
            ).all()  # fmt: skip
        return [Budget(*row) for row in rows if tenant in {None, row[0]}]

    @staticmethod
    def _forget(connection: Connection, budget: Budget) -> None:
        """Have what was spent be looked up in the ledger anew."""
        one = "" if budget.subject == EVERY else " AND subject = :subject"
        connection.execute(
            text("DELETE FROM balances WHERE tenant = :tenant AND kind = :kind"
                 f" AND period = :period{one}"), vars(budget),
        )  # fmt: skip


def as_kind(text: str) -> Kind:
    """InvalidInput unless `text` is a kind of budget."""
    if text not in KINDS:
        raise InvalidInput("kind", text, f"one of {list(KINDS)}")
    return text


def as_period(text: str) -> Period:
    """InvalidInput unless `text` is a period of a budget."""
    if text not in PERIODS:
        raise InvalidInput("period", text, f"one of {list(PERIODS)}")
    return text
