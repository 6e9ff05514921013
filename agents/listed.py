"""Runs and receipts as they are listed: filtered, in pages that stay right while new ones come.

They are read from lines that `agents/looking.py` makes of the journal. A page is asked for by the
id that the page before ended with, so what is added meanwhile moves nothing.

Not covered: proof. A line is where to look; the receipt itself is made of a verified chain
(`agents/receipts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Generic, TypeVar, get_args

from sqlalchemy import Connection, text

from agents.events import Answer
from agents.journal import require_line
from agents.journal_sql import SqlJournal
from agents.looking import look
from agents.receipts import OUTCOMES
from agents.state import Status
from cluster.errors import InvalidInput

MAX_LISTED: Final = 100
STATUSES: Final[tuple[str, ...]] = get_args(Status)
ANSWERS: Final[tuple[str, ...]] = get_args(Answer)

_BEHIND: Final = text("SELECT count(*) FROM runs WHERE last_seq > listed_seq")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is listed: those of `tenant` with these values, that began from `since` to before
    `until` (seconds since the epoch), behind the one with the id `after`, at most `limit`.

    InvalidInput for a value that none can have."""

    tenant: str
    workflow: str | None = None
    agent: str | None = None
    since: float = 0.0
    until: float = 1e12
    after: str | None = None
    limit: int = 20

    def __post_init__(self) -> None:
        for one in fields(self):
            if isinstance(value := getattr(self, one.name), str):
                require_line(one.name, value)
        if not 1 <= self.limit <= MAX_LISTED:
            raise InvalidInput("limit", self.limit, f"1 to {MAX_LISTED}")
        if self.since >= self.until:
            raise InvalidInput("until", self.until, f"later than {self.since}")


@dataclass(frozen=True, kw_only=True)
class RunsAsked(_Asked):
    """Runs. `status` is `agents.state.Status`, `decision` what an ended one came to."""

    status: str | None = None
    decision: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one("status", self.status, STATUSES)


@dataclass(frozen=True, kw_only=True)
class ReceiptsAsked(_Asked):
    """Receipts, of which `answer` is policy's and `outcome` what became of the step."""

    run: str | None = None
    tool: str | None = None
    answer: str | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_one("answer", self.answer, ANSWERS)
        _require_one("outcome", self.outcome, OUTCOMES)


@dataclass(frozen=True)
class ListedRun:
    """A run in a list; times are seconds since the epoch, `decision` is empty until it ends."""

    id: str
    workflow: str
    agent: str
    status: str
    priority: str
    decision: str
    created_at: float
    ended_at: float | None
    deadline_at: float | None
    last_event: int
    epoch: int
    parent: str


@dataclass(frozen=True)
class ListedReceipt:
    """A receipt in a list: `at` is when the step was decided first, with event `seq` of its run."""

    run: str
    seq: int
    step: str
    workflow: str
    agent: str
    tool: str
    answer: str
    rule: str
    outcome: str
    at: float

    @property
    def id(self) -> str:
        """What a page ends with."""
        return f"{self.run}:{self.seq}"


T = TypeVar("T", ListedRun, ListedReceipt)


@dataclass(frozen=True)
class Page(Generic[T]):
    """The newest first; whether there are `more`, and how many runs have moved since they were
    looked at (0 but for a journal that is taken in for the first time)."""

    rows: Sequence[T]
    more: bool = False
    behind: int = 0


@dataclass(frozen=True)
class _Table:
    """Where rows are and how they are ordered: by `at`, and by `key` where that is the same."""

    columns: str
    name: str
    at: str
    key: tuple[str, ...]
    filters: dict[str, str] = field(default_factory=dict)


_RUNS: Final = _Table(
    "run_id, workflow, agent, status, priority, decision, created_at, ended_at, deadline_at,"
    " last_seq, epoch, parent",
    "runs", "created_at", ("run_id",),
    {name: name for name in ("workflow", "agent", "status", "decision")},
)  # fmt: skip
_RECEIPTS: Final = _Table(
    "run_id, seq, step, workflow, agent, tool, answer, rule, outcome, at",
    "receipts", "at", ("run_id", "seq"),
    {"run": "run_id"} | {n: n for n in ("workflow", "agent", "tool", "answer", "outcome")},
)  # fmt: skip


class Listed:
    """The lists of a journal. Safe to use from several threads."""

    def __init__(self, journal: SqlJournal) -> None:
        self._journal = journal

    def runs(self, asked: RunsAsked) -> Page[ListedRun]:
        """The runs that are asked for. InvalidInput for an `after` that is no run of the
        tenant's."""
        last = None if asked.after is None else (asked.after,)
        found, behind = self._found(_RUNS, asked, last)
        return _page([ListedRun(*row) for row in found], asked.limit, behind)

    def receipts(self, asked: ReceiptsAsked) -> Page[ListedReceipt]:
        """The receipts that are asked for. InvalidInput for an `after` that is none of the
        tenant's."""
        last = None if asked.after is None else _receipt_key(asked.after)
        found, behind = self._found(_RECEIPTS, asked, last)
        return _page([ListedReceipt(*row) for row in found], asked.limit, behind)

    def look(self) -> bool:
        """See `agents.looking.look`."""
        with self._journal.connection() as connection:
            return look(connection)

    def _found(
        self, table: _Table, asked: _Asked, last: tuple[Any, ...] | None
    ) -> tuple[list[Any], int]:
        given: dict[str, Any] = {
            "tenant": asked.tenant, "since": asked.since, "until": asked.until,
            "n": asked.limit + 1,
        }  # fmt: skip
        where = ["tenant = :tenant", f"{table.at} >= :since", f"{table.at} < :until"]
        for name, column in table.filters.items():
            if (value := getattr(asked, name)) is not None:
                where.append(f"{column} = :{name}")
                given[name] = value
        order = (table.at, *table.key)
        with self._journal.reading() as connection:
            if last is not None:
                begin = _place(connection, table, asked, last)
                names = [f"k{i}" for i in range(len(order))]
                where.append(f"({', '.join(order)}) < ({', '.join(f':{n}' for n in names)})")
                given |= dict(zip(names, begin, strict=True))
            query = (
                f"SELECT {table.columns} FROM {table.name} WHERE {' AND '.join(where)}"
                f" ORDER BY {', '.join(f'{name} DESC' for name in order)} LIMIT :n"
            )
            found = list(connection.execute(text(query), given).all())
            return found, int(connection.execute(_BEHIND).scalar_one())


def _place(
    connection: Connection, table: _Table, asked: _Asked, last: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Where in the order the row with the key `last` stands."""
    where = " AND ".join(f"{name} = :k{i}" for i, name in enumerate(table.key))
    query = text(f"SELECT {table.at} FROM {table.name} WHERE tenant = :tenant AND {where}")
    given = {"tenant": asked.tenant} | {f"k{i}": value for i, value in enumerate(last)}
    row = connection.execute(query, given).first()
    if row is None:
        raise InvalidInput("after", asked.after, "the `last_id` of a page")
    return (float(row[0]), *last)


def _page(rows: Sequence[T], limit: int, behind: int) -> Page[T]:
    return Page(rows[:limit], len(rows) > limit, behind)


def _receipt_key(id: str) -> tuple[str, int]:
    run, _, seq = id.rpartition(":")
    if not seq.isdigit() or len(seq) > 18:
        raise InvalidInput("after", id, "the `last_id` of a page")
    return run, int(seq)


def _require_one(field: str, value: str | None, of: Sequence[str]) -> None:
    if value is not None and value not in of:
        raise InvalidInput(field, value, f"one of {list(of)}")
