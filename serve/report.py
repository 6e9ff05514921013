"""`mainspring report`: what runs came to, by tenant and workflow, out of journal and ledger.

Works on their own databases, whether the stack is running or not.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table

from agents.journal_sql import SqlJournal
from agents.outcomes import Tally, tallied
from agents.state import RunState, fold
from cluster.errors import InvalidInput
from cluster.settings import load
from serve.books import Books
from serve.budgets import usd_of
from serve.keys_cli import opened as opened_books
from serve.operator_cli import PROFILE, opened
from serve.routes.usage import moment

console = Console(highlight=False, soft_wrap=True)

_SHOWN: Final = (
    ("runs", "runs", "{:d}"), ("automated", "automation_rate", "{:.0%}"),
    ("escalated", "escalation_rate", "{:.0%}"), ("failed", "failure_rate", "{:.0%}"),
    ("overridden", "override_rate", "{:.0%}"), ("s p50", "seconds_p50", "{:.2f}"),
    ("s p95", "seconds_p95", "{:.2f}"), ("recovery s", "recovery_s_mean", "{:.2f}"),
    ("recall found", "recall_found_rate", "{:.0%}"), ("cited", "recall_cited_rate", "{:.0%}"),
    ("tokens/run", "tokens_per_completed", "{:,.0f}"), ("usd/run", "usd_per_completed", "{:.6f}"),
)  # fmt: skip


def report(
    since: str | None = typer.Option(None, help="Runs that ended then or later; a date, UTC."),
    until: str | None = typer.Option(None, help="And before then."),
    tenant: str | None = typer.Option(None, "--tenant", help="Whose; default: everybody's."),
    as_json: bool = typer.Option(False, "--json", help="All numbers as JSON."),
    as_csv: bool = typer.Option(False, "--csv", help="All numbers as CSV."),
    profile: str | None = PROFILE,
) -> None:
    """Show cost, tokens and time per completed run, how much went without a person, how often
    people overrode it, how often it failed and for how long, and what recall found."""
    if as_json and as_csv:
        raise InvalidInput("--csv", "with --json", "one of the two")
    settings = load(profile)
    begin, end = moment("since", since, 0.0), moment("until", until, 1e12)
    if begin >= end:
        raise InvalidInput("until", until, f"later than {since}")
    with opened(settings) as journal, opened_books(settings) as books:
        rows = [t.told() for t in gathered(journal, books, tenant, begin, end)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif as_csv:
        typer.echo(_csv(rows), nl=False)
    else:
        console.print(_table(rows))


def gathered(
    journal: SqlJournal, books: Books, tenant: str | None, since: float, until: float
) -> list[Tally]:
    """The tallies of runs that ended from `since` to before `until`, seconds since the epoch, with
    what the ledger says that models were paid within that time."""
    tallies = tallied(_ended(journal, tenant, since, until))
    only = {} if tenant is None else {"tenant": tenant}
    for paid in books.ledger.sums(("tenant", "workflow"), only, since, until):
        key = (str(paid.group["tenant"]), str(paid.group["workflow"]))
        if key in tallies:
            tallies[key].tokens = paid.tokens_in + paid.tokens_out
            tallies[key].usd = float(usd_of(paid.price_nano))
    return [tallies[key] for key in sorted(tallies)]


def _ended(
    journal: SqlJournal, tenant: str | None, since: float, until: float
) -> Iterator[RunState]:
    for row in journal.runs(tenant, "ended"):
        # What ended since then may have begun before; nothing ends before it begins.
        if row.created_at < until:
            state = fold(row.run_id, journal.read(row.run_id))
            if since <= (state.ended_at or 0.0) < until:
                yield state


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("tenant", "workflow", *(name for name, _, _ in _SHOWN), box=None)
    for row in rows:
        cells = ["-" if row[key] is None else form.format(row[key]) for _, key, form in _SHOWN]
        table.add_row(row["tenant"], row["workflow"], *cells)
    return table


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    names = list(Tally("", "").told())
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(report)
