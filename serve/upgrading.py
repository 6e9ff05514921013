"""`mainspring upgrade`: the databases of a stopped stack, brought to this version's schemas.

A start does the same by itself; here it is done apart from one, behind a backup, and said. All
migrations are tried and taken back before the first is applied. Each component's are one
transaction: what fails then leaves that component as it was. Not covered: a way back other than the
backup, and more than one machine, whose stacks each have their own folder.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import journal_schema, pseudonyms
from agents.journal_sql import SqlJournal
from agents.pseudonyms import Pseudonyms
from cluster.database import rehearse, schema_version
from cluster.ids import SystemClock, SystemIds
from cluster.settings import Settings
from memory import log_tables
from memory.log import Log
from serve import accounts
from serve.accounts import Accounts
from serve.bulk import schema as bulk


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


@dataclass(frozen=True)
class _Part:
    url: str
    migrations: Sequence[str]
    opened: Callable[[str, Path], Any]


def pending(settings: Settings) -> list[Change]:
    """What an upgrade would do, once it is sure that it can: everything is tried and taken back.

    Raises DataError for a database that a newer version wrote, Unavailable for one whose migrations
    do not go through; either names the database."""
    folder = settings.data_dir.resolve()
    found = []
    for component, part in _parts(settings).items():
        rehearse(part.url, component, part.migrations, folder)
        before = schema_version(part.url, component, folder)
        found.append(Change(component, before, len(part.migrations)))
    return found


def upgrade(settings: Settings) -> Iterator[Change]:
    """Bring each component to its newest schema, one after the other. Raises as `pending` does."""
    folder = settings.data_dir.resolve()
    for change in pending(settings):
        part = _parts(settings)[change.component]
        part.opened(part.url, folder).close()
        yield change


def _parts(settings: Settings) -> dict[str, _Part]:
    clock = SystemClock()
    return {
        "journal": _Part(
            settings.journal.url, journal_schema.MIGRATIONS,
            lambda url, folder: SqlJournal(url, folder, clock, SystemIds()),
        ),
        "memory": _Part(
            settings.memory.log, log_tables.MIGRATIONS, lambda url, folder: Log(url, folder, clock)
        ),
        "accounts": _Part(settings.accounts.url, accounts.MIGRATIONS, Accounts),
        "batches": _Part(settings.batches.url, bulk.MIGRATIONS, bulk.opened),
        "pseudonyms": _Part(
            settings.agents.pseudonyms, pseudonyms.MIGRATIONS,
            lambda url, folder: Pseudonyms(url, folder, clock),
        ),
    }  # fmt: skip
