"""`mainspring runs list` and `mainspring audit list`: what `/v1/runs` and `/v1/receipts` tell, from
the journal's own database, whether the stack is running or not."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from agents.journal import Journal
from agents.listed import (
    MAX_LISTED,
    Listed,
    ListedReceipt,
    ListedRun,
    Page,
    ReceiptsAsked,
    RunsAsked,
)
from cluster.settings import load
from serve.audit_cli import audit
from serve.operator_cli import PROFILE, TENANT, opened, runs
from serve.routes.lists import listed_receipt, listed_run
from serve.routes.usage import moment

console = Console(highlight=False, soft_wrap=True)
_LIMIT: Final = typer.Option(20, min=1, help="At most so many, the newest.")
_SINCE: Final = typer.Option(None, help="Only what began then or later; a date or time, UTC.")
_UNTIL: Final = typer.Option(None, help="And before then.")
_WORKFLOW: Final = typer.Option(None, help="Only of this workflow.")
_AGENT: Final = typer.Option(None, help="Only of this agent.")
_JSON: Final = typer.Option(False, "--json", help="A line of JSON for each.")
A = TypeVar("A", RunsAsked, ReceiptsAsked)
T = TypeVar("T", ListedRun, ListedReceipt)


def runs_list(
    status: str | None = typer.Option(
        None, help="Only runs that stand so: open, waiting, parked, paused, ended."
    ),
    decision: str | None = typer.Option(None, help="Only runs that ended so, as replied."),
    workflow: str | None = _WORKFLOW,
    agent: str | None = _AGENT,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    after: str | None = typer.Option(None, help="Older than this run."),
    limit: int = _LIMIT,
    as_json: bool = _JSON,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """List the newest runs: how they ended, and what people said of them."""
    settings = load(profile)
    asked = RunsAsked(
        tenant=tenant or settings.tenant, status=status, decision=decision, workflow=workflow,
        agent=agent, since=moment("since", since, 0.0), until=moment("until", until, 1e12),
        after=after, limit=min(limit, MAX_LISTED),
    )  # fmt: skip
    table = Table(Column("run", no_wrap=True), "workflow", "about", "decision", "verdict", box=None)
    with opened(settings) as journal:
        listed = caught_up(Listed(journal))
        for row in islice(_all(listed.runs, asked), limit):
            if as_json:
                typer.echo(json.dumps(listed_run(row)))
            else:
                table.add_row(*_run(journal, row))
    if not as_json:
        console.print(table)


def audit_list(
    run: str | None = typer.Option(None, help="Only of this run."),
    tool: str | None = typer.Option(None, help="Only steps with this tool."),
    answer: str | None = typer.Option(
        None, help="Only what policy answered so: allow, deny, modify, ask, wait."
    ),
    outcome: str | None = typer.Option(
        None, help="Only what became this: waits, not done, started, done, refused, unknown."
    ),
    workflow: str | None = _WORKFLOW,
    agent: str | None = _AGENT,
    since: str | None = _SINCE,
    until: str | None = _UNTIL,
    after: str | None = typer.Option(None, help="Older than the receipt with this id."),
    limit: int = _LIMIT,
    as_json: bool = _JSON,
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """List the newest receipts of all runs; `show` verifies those of one."""
    settings = load(profile)
    asked = ReceiptsAsked(
        tenant=tenant or settings.tenant, run=run, tool=tool, answer=answer, outcome=outcome,
        workflow=workflow, agent=agent, since=moment("since", since, 0.0),
        until=moment("until", until, 1e12), after=after, limit=min(limit, MAX_LISTED),
    )  # fmt: skip
    table = Table(
        Column("at", no_wrap=True, min_width=19), Column("id", no_wrap=True, min_width=30),
        "step", "tool", "answer", "rule", "outcome", box=None,
    )  # fmt: skip
    with opened(settings) as journal:
        listed = caught_up(Listed(journal))
        for row in islice(_all(listed.receipts, asked), limit):
            if as_json:
                typer.echo(json.dumps(listed_receipt(row)))
            else:
                told = (row.id, row.step, row.tool, row.answer, row.rule, row.outcome)
                table.add_row(_moment(row.at), *map(Text, told))
    if not as_json:
        console.print(table)


def register() -> None:
    """Add the commands to those about runs and receipts."""
    runs.command("list")(runs_list)
    audit.command("list")(audit_list)


def caught_up(listed: Listed) -> Listed:
    """These lists, with all that is journaled."""
    while listed.look():
        continue
    return listed


def _all(found: Callable[[A], Page[T]], asked: A) -> Iterator[T]:
    """The rows of one page after the other."""
    while True:
        page = found(asked)
        yield from page.rows
        if not page.more:
            return
        asked = replace(asked, after=page.rows[-1].id)


def _run(journal: Journal, row: ListedRun) -> list[Any]:
    started: Any = journal.read(row.id, limit=1)[0].payload
    judged = journal.judgements(row.id)
    verdict = judged[-1].feedback.verdict if judged else "-"
    given = started.input
    about = str(given.get("ticket") or given.get("subject") or "-")
    return [row.id, row.workflow, Text(about), Text(row.decision or row.status), verdict]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
