"""`mainspring report`: what runs came to, by tenant and workflow, out of journal and ledger.

Works on their own databases, whether the stack is running or not.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.journal_sql import SqlJournal
from agents.outcomes import Outcome, Tally, outcome, tallied
from agents.state import fold
from cluster.errors import InvalidInput
from cluster.ids import SystemClock
from cluster.settings import load
from memory.growth import growth
from serve.books import Books
from serve.budgets import usd_of
from serve.keys_cli import opened as opened_books
from serve.ledger import DAY_S, day_text
from serve.operator_cli import PROFILE, opened
from serve.report_page import Told, page
from serve.routes.usage import moment

console = Console(highlight=False, soft_wrap=True)

_ALL_DAYS: Final = 1_000_000
_SHOWN: Final = (
    ("runs", "runs", "{:d}"), ("automated", "automation_rate", "{:.0%}"),
    ("escalated", "escalation_rate", "{:.0%}"), ("failed", "failure_rate", "{:.0%}"),
    ("overridden", "override_rate", "{:.0%}"), ("s p50", "seconds_p50", "{:.2f}"),
    ("s p95", "seconds_p95", "{:.2f}"), ("recovery s", "recovery_s_mean", "{:.2f}"),
    ("recall found", "recall_found_rate", "{:.0%}"), ("cited", "recall_cited_rate", "{:.0%}"),
    ("rated", "rating_mean", "{:.1f}"),
    ("tokens/run", "tokens_per_completed", "{:,.0f}"), ("usd/run", "usd_per_completed", "{:.6f}"),
)  # fmt: skip


def report(
    since: str | None = typer.Option(None, help="Runs that ended then or later; a date, UTC."),
    until: str | None = typer.Option(None, help="And before then."),
    tenant: str | None = typer.Option(None, "--tenant", help="Whose; default: everybody's."),
    as_json: bool = typer.Option(False, "--json", help="All numbers as JSON."),
    as_csv: bool = typer.Option(False, "--csv", help="All numbers as CSV."),
    as_html: Path | None = typer.Option(
        None, "--html", help="One file to look at: charts of each workflow, day by day."
    ),
    by_day: bool = typer.Option(False, help="A line for each day, UTC, on which runs ended."),
    profile: str | None = PROFILE,
) -> None:
    """Show cost, tokens and time per completed run, how much went without a person, how often
    people overrode it, how often it failed and for how long, and what recall found."""
    if as_json + as_csv + (as_html is not None) > 1:
        raise InvalidInput("--csv", "with --json or --html", "one of the three")
    settings = load(profile)
    begin, end = moment("since", since, 0.0), moment("until", until, 1e12)
    if begin >= end:
        raise InvalidInput("until", until, f"later than {since}")
    with opened(settings) as journal, opened_books(settings) as books:
        outcomes = list(_ended(journal, tenant, begin, end))
        totals = [t.told() for t in gathered(outcomes, books, tenant, begin, end)]
        days = daily(outcomes, books, tenant, begin, end) if by_day or as_html else []
    rows = days if by_day else totals
    if as_html is not None:
        grown = growth(settings.memory.log, settings.data_dir.resolve())
        grown = [g for g in grown if tenant in (None, g.tenant) and begin <= g.day * DAY_S < end]
        _write(as_html, page(Told(totals, days, grown, since, until, SystemClock().now())))
    elif as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif as_csv:
        typer.echo(_csv(rows, by_day), nl=False)
    else:
        console.print(_table(rows))


def gathered(
    outcomes: Sequence[Outcome], books: Books, tenant: str | None, since: float, until: float
) -> list[Tally]:
    """The tallies of runs that ended from `since` to before `until`, seconds since the epoch, with
    what the ledger says that models were paid within that time."""
    tallies = tallied(outcomes)
    only = {} if tenant is None else {"tenant": tenant}
    for paid in books.ledger.sums(("tenant", "workflow"), only, since, until):
        key = (str(paid.group["tenant"]), str(paid.group["workflow"]))
        if key in tallies:
            tallies[key].tokens = paid.tokens_in + paid.tokens_out
            tallies[key].usd = float(usd_of(paid.price_nano))
    return [tallies[key] for key in sorted(tallies)]


def daily(
    outcomes: Sequence[Outcome], books: Books, tenant: str | None, since: float, until: float
) -> list[dict[str, Any]]:
    """The same for each day, as its date and numbers; the oldest first. A day on which models were
    paid counts, even when no run ended on it."""
    workflows = {(o.tenant, o.workflow) for o in outcomes}
    tallies: dict[tuple[str, str, str], Tally] = {}
    for one in outcomes:
        key = (day_text(int(one.ended_at) // DAY_S), one.tenant, one.workflow)
        tallies.setdefault(key, Tally(*key[1:])).outcomes.append(one)
    only = {} if tenant is None else {"tenant": tenant}
    by = ("day", "tenant", "workflow")
    for paid in books.ledger.sums(by, only, since, until, _ALL_DAYS):
        day, owner, workflow = (str(paid.group[name]) for name in by)
        if (owner, workflow) in workflows:
            tally = tallies.setdefault((day, owner, workflow), Tally(owner, workflow))
            tally.tokens = paid.tokens_in + paid.tokens_out
            tally.usd = float(usd_of(paid.price_nano))
    return [{"day": key[0], **tallies[key].told()} for key in sorted(tallies)]


def _ended(
    journal: SqlJournal, tenant: str | None, since: float, until: float
) -> Iterator[Outcome]:
    for row in journal.runs(tenant, "ended"):
        # What ended since then may have begun before; nothing ends before it begins.
        if row.created_at < until:
            state = fold(row.run_id, journal.read(row.run_id))
            if since <= (state.ended_at or 0.0) < until:
                judged = journal.judgements(row.run_id)
                came = outcome(state, judged[-1].feedback.verdict if judged else None)
                if came is not None:
                    yield came


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    days = ["day"] if rows and "day" in rows[0] else []
    table = Table(*days, "tenant", "workflow", *(name for name, _, _ in _SHOWN), box=None)
    for row in rows:
        cells = ["-" if row[key] is None else form.format(row[key]) for _, key, form in _SHOWN]
        whose = [Text(str(row[name])) for name in (*days, "tenant", "workflow")]
        table.add_row(*whose, *cells)
    return table


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, "utf-8")
    except OSError as error:
        raise InvalidInput("--html", str(path), f"a file to write ({error.strerror})") from None
    console.print(f"written to {path}", markup=False)


def _csv(rows: Sequence[dict[str, Any]], by_day: bool) -> str:
    text = io.StringIO()
    names = [*(["day"] if by_day else []), *Tally("", "").told()]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(report)
