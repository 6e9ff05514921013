"""The ledger: one row for every request that an engine worked for, and sums over them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from cluster.errors import InvalidInput
from serve.accounts import Accounts
from serve.budgets import Caller, usd_of

DAY_S: Final = 86_400
MAX_SUMS: Final = 1_000
MAX_TEXT: Final = 300
GROUPS: Final = {
    "tenant": "tenant", "key": "key_id", "agent": "agent", "run": "run", "workflow": "workflow",
    "model": "model", "day": "day", "route": "route", "reason": "reason",
}  # fmt: skip
_COLUMNS: Final = (
    "request_id", "at", "day", "tenant", "key_id", "agent", "run", "workflow", "model", "status",
    "tokens_in", "tokens_out", "tokens_cached", "estimated", "gateway_s", "first_s", "engine_s",
    "inter_token_s", "price_nano", "unbilled_nano", "route", "reason",
)  # fmt: skip
_INSERT: Final = text(
    f"INSERT INTO usage_rows ({', '.join(_COLUMNS)}) VALUES (:{', :'.join(_COLUMNS)})"
)
_SUMS: Final = (
    "COUNT(*), SUM(tokens_in), SUM(tokens_out), SUM(tokens_cached), SUM(engine_s),"
    " SUM(gateway_s), SUM(price_nano), SUM(unbilled_nano)"
)


@dataclass(frozen=True)
class Used:
    """What one request used. Seconds: in the gateway before the engine, to the first byte, in the
    engine, and between two tokens of a stream. `cost_nano` is its price; `route` is what the client
    asked for, `reason` why it went to `model`."""

    request_id: str
    model: str
    status: int
    tokens_in: int
    tokens_out: int
    cost_nano: int
    tokens_cached: int = 0
    estimated: bool = False
    gateway_s: float = 0.0
    first_s: float = 0.0
    engine_s: float = 0.0
    route: str = ""
    reason: str = ""
    inter_token_s: float = 0.0


@dataclass(frozen=True)
class Sum:
    """What a group of rows comes to. `group` holds the values that the rows have in common."""

    group: dict[str, Any]
    requests: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    engine_s: float
    gateway_s: float
    price_nano: int
    unbilled_nano: int

    def body(self) -> dict[str, Any]:
        """As clients see it: seconds and dollars."""
        shown = {k: v for k, v in asdict(self).items() if k not in {"group", "price_nano"}}
        shown["unbilled_usd"] = usd_of(shown.pop("unbilled_nano"))
        return {**self.group, **shown, "cost_usd": usd_of(self.price_nano)}


def row_of(caller: Caller, used: Used, charged: int, now: float) -> dict[str, Any]:
    """The row of a request that was charged so many nano-dollars, for `record`."""
    fields = asdict(used)
    cost = fields.pop("cost_nano")
    return {
        **fields, "at": now, "day": int(now) // DAY_S, "tenant": caller.tenant,
        "key_id": caller.key, "agent": caller.agent, "run": caller.run,
        "workflow": caller.workflow, "estimated": int(used.estimated), "price_nano": charged,
        "unbilled_nano": cost - charged, "route": used.route[:MAX_TEXT],
        "reason": used.reason[:MAX_TEXT],
    }  # fmt: skip


def record(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows inside the transaction that charges for them."""
    connection.execute(_INSERT, rows)


class Ledger:
    """Sums over the rows."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def sums(
        self,
        by: tuple[str, ...] = (),
        only: dict[str, str] | None = None,
        since: float = 0.0,
        until: float = 1e12,
        limit: int = MAX_SUMS,
    ) -> list[Sum]:
        """Sums of the rows from `since` to before `until`, seconds since the epoch, whose columns
        have the values in `only`: one for each combination of what `by` names, or one for all.
        Days are `YYYY-MM-DD`, UTC. The dearest first.

        Raises InvalidInput for a name that GROUPS has not."""
        only = only or {}
        for name in (*by, *only):
            if name not in GROUPS:
                raise InvalidInput("by", name, f"some of {list(GROUPS)}")
        columns = [GROUPS[name] for name in by]
        where = "".join(f" AND {GROUPS[name]} = :{name}" for name in only)
        group = f" GROUP BY {', '.join(columns)}" if columns else ""
        query = text(
            f"SELECT {', '.join([*columns, _SUMS])} FROM usage_rows"
            f" WHERE at >= :since AND at < :until{where}{group}"
            f" ORDER BY SUM(price_nano) DESC, COUNT(*) DESC LIMIT :limit"
        )
        given = {**only, "since": since, "until": until, "limit": limit}
        with self._accounts.reading() as connection:
            rows = connection.execute(query, given).all()
        return [_sum(by, tuple(row)) for row in rows]


def day_text(day: int) -> str:
    """A day's number as its date, UTC."""
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y-%m-%d")


def _sum(by: tuple[str, ...], row: tuple[Any, ...]) -> Sum:
    keys, rest = row[: len(by)], row[len(by) :]
    group = {n: day_text(int(v)) if n == "day" else v for n, v in zip(by, keys, strict=True)}
    count, t_in, t_out, cached, engine, gateway, nano, unbilled = (v or 0 for v in rest)
    return Sum(
        group, int(count), int(t_in), int(t_out), int(cached), float(engine), float(gateway),
        int(nano), int(unbilled),
    )  # fmt: skip
