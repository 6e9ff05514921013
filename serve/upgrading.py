"""`mainspring upgrade`: the databases of a stopped stack, brought to this version's schemas.

A start does the same by itself; here it is done apart from one, behind a backup, and said. Each
component's migrations are one transaction: what fails leaves that component as it was.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.journal_sql import SqlJournal
from cluster.database import schema_version
from cluster.ids import SystemClock, SystemIds
from cluster.settings import Settings
from memory.log import Log
from serve.accounts import Accounts
from serve.bulk.schema import opened


@dataclass(frozen=True)
class Change:
    """What became of a component's schema."""

    component: str
    before: int
    after: int

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.component}: schema {self.after}, as it was"
        return f"{self.component}: schema {self.before or 'none'} -> {self.after}"


def upgrade(settings: Settings) -> Iterator[Change]:
    """Bring each component to its newest schema, one after the other.

    Raises DataError, naming the component, for one that a newer version wrote."""
    folder, clock = settings.data_dir.resolve(), SystemClock()
    parts: dict[str, tuple[str, Callable[[str, Path], Any]]] = {
        "journal": (settings.journal.url, lambda u, d: SqlJournal(u, d, clock, SystemIds())),
        "memory": (settings.memory.log, lambda u, d: Log(u, d, clock)),
        "accounts": (settings.accounts.url, Accounts),
        "batches": (settings.batches.url, opened),
    }
    for component, (url, open_) in parts.items():
        before = schema_version(url, component, folder)
        open_(url, folder).close()
        yield Change(component, before, schema_version(url, component, folder))
