"""`mainspring keys`, `mainspring budgets` and `mainspring usage`.

All work on the database itself, whether the stack is running or not; a gateway sees a change within
a second.
"""

import contextlib
import time
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table

from cluster.ids import SystemClock, SystemIds
from cluster.settings import Settings, load
from serve.books import Books
from serve.budget_table import Budget, as_kind, as_period
from serve.budgets import NANO, Limits, nano_of
from serve.keys import SCOPES, ApiKey
from serve.ledger import GROUPS
from serve.routes.usage import moment, named

console = Console(highlight=False, soft_wrap=True)
PROFILE = typer.Option(None, "--profile", help="A profile's name or file; default: local.")
TENANT = typer.Option(None, "--tenant", help="Whose; default: the profile's tenant.")
KEY = typer.Argument(..., help="The id of a key, as `mainspring keys list` shows it.")
_SCOPE_HELP = f"One of {', '.join(SCOPES)}; repeatable."
SCOPE = typer.Option(["models"], help=_SCOPE_HELP)
_DAY_S = 86_400.0

keys = typer.Typer(no_args_is_help=True, help="Who may use the gateway.")
budgets = typer.Typer(no_args_is_help=True, help="How much may be spent.")


@keys.command("create")
def keys_create(
    name: str = typer.Argument(..., help="What the key is for."),
    scope: list[str] = SCOPE,
    days: float | None = typer.Option(None, min=0.0, help="Ends after so many days."),
    requests_per_minute: int | None = typer.Option(None, min=1),
    tokens_per_minute: int | None = typer.Option(None, min=1),
    max_streams: int | None = typer.Option(None, min=1, help="Streams open at once."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Make a key. It is shown once; only its hash is kept."""
    settings = load(profile)
    expires_at = None if days is None else time.time() + days * _DAY_S
    limits = Limits(requests_per_minute, tokens_per_minute, max_streams)
    with opened(settings) as books:
        key, full = books.keyring.create(
            tenant or settings.tenant, name, tuple(scope), expires_at, limits
        )
    _show_once(key, full)


@keys.command("list")
def keys_list(tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """All keys, or a tenant's, with what they may do."""
    table = Table("id", "account", "tenant", "name", "scopes", "limits", "state", box=None)
    with opened(load(profile)) as books:
        for key in books.keyring.all(tenant):
            table.add_row(*_row(key))
    console.print(table)


@keys.command("rotate")
def keys_rotate(
    id: str = KEY,
    grace: float = typer.Option(0.0, min=0.0, help="The old one works so many seconds more."),
    profile: str | None = PROFILE,
) -> None:
    """Put a new key in place of one. Both have the same limits and budgets together."""
    with opened(load(profile)) as books:
        key, full = books.keyring.rotate(id, grace)
    _show_once(key, full)


@keys.command("revoke")
def keys_revoke(id: str = KEY, profile: str | None = PROFILE) -> None:
    """End a key."""
    with opened(load(profile)) as books:
        books.keyring.revoke(id)
    console.print(f"{id} is revoked", markup=False)


@budgets.command("set")
def budgets_set(
    kind: str = typer.Argument(..., help="key, tenant, agent or run."),
    subject: str = typer.Argument(..., help="A key's account, an agent, ...; * is each of them."),
    usd: str = typer.Argument(..., help="Dollars."),
    per: str = typer.Option("total", help="hour, day, month (UTC) or total."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Set the most that may be spent. What was spent in the period before counts."""
    budget = _budget(load(profile), tenant, kind, subject, per, nano_of(usd))
    with opened(load(profile)) as books:
        books.budgets.put(budget)
    console.print(f"{kind} {subject}: ${budget.limit / NANO:.9g} ({per})", markup=False)


@budgets.command("remove")
def budgets_remove(
    kind: str,
    subject: str,
    per: str = typer.Option("total", help="hour, day, month or total."),
    tenant: str | None = TENANT,
    profile: str | None = PROFILE,
) -> None:
    """Take a budget away. Exit status 1 when there was none."""
    budget = _budget(load(profile), tenant, kind, subject, per, 0)
    with opened(load(profile)) as books:
        if not books.budgets.remove(budget):
            raise typer.Exit(1)


@budgets.command("list")
def budgets_list(tenant: str | None = TENANT, profile: str | None = PROFILE) -> None:
    """All budgets, or a tenant's."""
    table = Table("tenant", "kind", "subject", "per", "usd", box=None)
    with opened(load(profile)) as books:
        for b in books.budgets.all(tenant):
            table.add_row(b.tenant, b.kind, b.subject, b.period, f"{b.limit / NANO:.9g}")
    console.print(table)


def usage(
    by: str = typer.Option("model", help=f"Some of {', '.join(GROUPS)}, with commas."),
    since: str | None = typer.Option(None, help="A date or time, UTC."),
    until: str | None = typer.Option(None, help="A date or time, UTC; not included."),
    tenant: str | None = typer.Option(None, "--tenant", help="Whose; default: everybody's."),
    profile: str | None = PROFILE,
) -> None:
    """Show what was used and what it cost."""
    names = named(by)
    table = Table(*names, "requests", "in", "out", "cached", "engine s", "usd", box=None)
    only = {} if tenant is None else {"tenant": tenant}
    begin, end = moment("since", since, 0.0), moment("until", until, 1e12)
    with opened(load(profile)) as books:
        for s in books.ledger.sums(names, only, begin, end):
            values = [s.requests, s.tokens_in, s.tokens_out, s.tokens_cached]
            shown = [*(str(s.group[n]) or "-" for n in names), *(f"{v:,}" for v in values)]
            table.add_row(*shown, f"{s.engine_s:.1f}", f"{s.price_nano / NANO:.6f}")
    console.print(table)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(keys, name="keys")
    app.add_typer(budgets, name="budgets")
    app.command()(usage)


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Books]:
    """The books of these settings, opened beside the gateways' own."""
    books = Books(settings.accounts, settings.data_dir.resolve(), SystemClock(), SystemIds())
    try:
        yield books
    finally:
        books.shut()


def _budget(
    settings: Settings, tenant: str | None, kind: str, subject: str, per: str, limit: int
) -> Budget:
    return Budget(tenant or settings.tenant, as_kind(kind), subject, as_period(per), limit)


def _show_once(key: ApiKey, full: str) -> None:
    console.print(full, markup=False)
    about = f"id {key.id}, account {key.account}, tenant {key.tenant}, {' '.join(key.scopes)}"
    console.print(f"{about}; it is not shown again", markup=False)


def _row(key: ApiKey) -> list[str]:
    limits = [f"{v} {n}" for n, v in vars(key.limits).items() if v is not None]
    state = "live" if key.lives(time.time()) else "revoked" if key.revoked_at else "expired"
    return [
        key.id, key.account, key.tenant, key.name, " ".join(key.scopes),
        ", ".join(limits) or "-", state,
    ]  # fmt: skip
