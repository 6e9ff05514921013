"""Budgets as metrics: how much of each is gone, so that somebody is called before it is all."""

import asyncio
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from serve.books import Books

MOST: Final = 200
"""Budgets that are shown; those of single runs are not, which come and go."""


class BudgetMetrics:
    """`serve.routes.runs.Office` that has metrics."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def ask(self, _method: str, *_: Any, timeout_s: float = 0.0) -> bytes:
        """The metrics in Prometheus' text format. Unavailable when the database is away."""
        return await asyncio.to_thread(self.text)

    def text(self) -> bytes:
        """See `ask`."""
        registry = CollectorRegistry()
        gone = Gauge(
            "mainspring_budget_used_share", "Of a budget, what is spent or reserved",
            ["tenant", "kind", "subject", "period"], registry=registry,
        )  # fmt: skip
        standing = [(b, now) for b, now in self._books.standing() if b.kind != "run"]
        for budget, now in standing[:MOST]:
            share = 1.0 - now.free / now.limit if now.limit else 1.0
            gone.labels(budget.tenant, budget.kind, budget.subject, budget.period).set(share)
        return generate_latest(registry)
