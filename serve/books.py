"""Keys, limits and the ledger of one process, on one database."""

from pathlib import Path

from cluster.ids import Clock, Ids
from cluster.settings import AccountsSection
from serve.accounts import Accounts
from serve.admission import Admission
from serve.budget_table import Budget, BudgetTable
from serve.budgets import EVERY, Balance, Caller
from serve.keys import Keyring
from serve.ledger import Ledger
from serve.opinions import Opinions
from serve.questions import Questions
from serve.reservations import Reservations
from serve.shadow import Agreements


class Books:
    """Opens the database; see `cluster.database.Database` for what that raises."""

    def __init__(self, section: AccountsSection, data_dir: Path, clock: Clock, ids: Ids) -> None:
        self._accounts = accounts = Accounts(section.url, data_dir)
        self.keyring = Keyring(accounts, clock)
        self.budgets = BudgetTable(accounts)
        self.reservations = Reservations(accounts, clock, section.lease_margin_s)
        self.admission = Admission(accounts, clock, ids, section.lease_margin_s)
        self.ledger = Ledger(accounts)
        self.opinions = Opinions(accounts, clock)
        self.agreements = Agreements(accounts)
        self.questions = Questions(accounts, clock)

    def standing(self, tenant: str | None = None) -> list[tuple[Budget, Balance]]:
        """Every budget that is of somebody in particular, as it stands; of all tenants, or one."""
        found = []
        for budget in self.budgets.all(tenant):
            if budget.subject == EVERY:
                continue
            of: dict[str, str] = {"tenant": budget.tenant, "key": ""}
            caller = Caller(**{**of, budget.kind: budget.subject})
            found += [
                (budget, balance)
                for balance in self.reservations.balances(caller)
                if (balance.kind, balance.period) == (budget.kind, budget.period)
            ]
        return found

    async def close(self) -> None:
        """Once everybody who left is settled."""
        await self.admission.close()
        self._accounts.close()

    def shut(self) -> None:
        """For who let nobody in."""
        self._accounts.close()
