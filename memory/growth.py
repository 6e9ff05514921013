"""How many records memory got and lost, day by day, out of its log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import text

from cluster.database import Database
from memory.log_tables import MIGRATIONS

_DAYS: Final = text(
    "SELECT tenant, CAST(at AS BIGINT) / 86400 AS day,"
    " SUM(CASE WHEN what = 'remembered' THEN 1 ELSE 0 END),"
    " SUM(CASE WHEN what IN ('forgotten', 'expired') THEN 1 ELSE 0 END)"
    " FROM memory_events WHERE what IN ('remembered', 'forgotten', 'expired')"
    " GROUP BY tenant, CAST(at AS BIGINT) / 86400 ORDER BY tenant, day"
)


@dataclass(frozen=True)
class Growth:
    """A day (its number since the epoch, UTC) of a tenant's memory: how many records came, how many
    went, and how many there were at its end."""

    tenant: str
    day: int
    added: int
    removed: int
    records: int


def growth(url: str, data_dir: Path) -> list[Growth]:
    """The days on which something came or went, by tenant. Raises what `Database` raises."""
    database = Database(url, "memory", MIGRATIONS, data_dir)
    try:
        with database.reading() as connection:
            rows = connection.execute(_DAYS).all()
    finally:
        database.close()
    days: list[Growth] = []
    for tenant, day, added, removed in rows:
        before = days[-1].records if days and days[-1].tenant == tenant else 0
        came, went = int(added), int(removed)
        days.append(Growth(str(tenant), int(day), came, went, before + came - went))
    return days
