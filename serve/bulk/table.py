"""Batches in the database: what is asked for, how far it is, and every answer so far.

A line's answer is written once, and only while its batch is worked on: whoever works on it a second
time, after a kill, changes nothing. Lines are kept no longer than until the files of answers are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from cluster.database import Database
from cluster.errors import Conflict, NotFound
from serve.bulk.kinds import KINDS
from serve.bulk.lines import Answered, Line
from serve.bulk.schema import OPEN_SQL, page

_BATCH: Final = (
    "id, tenant, account, endpoint, model, input_file, window_text, metadata, status, errors,"
    " output_file, error_file, lines, right_lines, wrong_lines, times, created_at, expires_at, usd"
)
_PAGE: Final = 500


@dataclass(frozen=True)
class Batch:
    """A batch's row. `account` is the key that pays; `times` says when each status began; `lines`
    of them are `right_lines` answered as they should and `wrong_lines` otherwise. `model` is what
    all its lines share (see `kinds.py`); `usd` what it cost beside the ledger's entries that name
    it."""

    id: str
    tenant: str
    account: str
    endpoint: str
    model: str
    input_file: str
    window: str
    metadata: dict[str, str]
    status: str
    errors: list[dict[str, Any]]
    output_file: str
    error_file: str
    lines: int
    right_lines: int
    wrong_lines: int
    times: dict[str, float]
    created_at: float
    expires_at: float
    usd: float = 0.0

    @property
    def kind(self) -> str:
        """What people call a batch of its endpoint."""
        return KINDS[self.endpoint].name

    @property
    def left(self) -> int:
        return self.lines - self.right_lines - self.wrong_lines


@dataclass(frozen=True)
class Row:
    """A line of a batch with what became of it; None while nothing has."""

    line: int
    custom_id: str
    answer: Answered | None


class Batches:
    """Safe to use from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, batch: Batch) -> None:
        """Note what is asked for."""
        with self._database.transaction() as connection:
            connection.execute(
                text(f"INSERT INTO batches ({_BATCH}) VALUES (:id, :tenant, :account, :endpoint,"
                     " :model, :input_file, :window, :metadata, :status, :errors, :output_file,"
                     " :error_file, :lines, :right_lines, :wrong_lines, :times, :created_at,"
                     " :expires_at, :usd)"),
                {**vars(batch), "metadata": json.dumps(batch.metadata),
                 "errors": json.dumps(batch.errors), "times": json.dumps(batch.times)},
            )  # fmt: skip

    def batch(self, tenant: str, id: str) -> Batch:
        """NotFound when the tenant has no such batch."""
        query = text(f"SELECT {_BATCH} FROM batches WHERE tenant = :t AND id = :i")
        with self._database.reading() as connection:
            found = connection.execute(query, {"t": tenant, "i": id}).first()
        if found is None:
            raise NotFound("batch", id)
        return _batch(found)

    def batches(self, tenant: str, after: str, limit: int) -> list[Batch]:
        """Up to `limit` of a tenant's batches behind the batch `after`, the newest first."""
        found = page(self._database, "batches", _BATCH, tenant, after, limit)
        return [_batch(row) for row in found]

    def open_batches(self) -> list[Batch]:
        """Those that somebody has to work on, the oldest first."""
        query = text(
            f"SELECT {_BATCH} FROM batches WHERE status IN ({OPEN_SQL}) ORDER BY created_at, id"
        )
        with self._database.reading() as connection:
            return [_batch(row) for row in connection.execute(query)]

    def move(
        self, batch: Batch, status: str, now: float, errors: Sequence[dict[str, Any]] = (),
        output_file: str = "", error_file: str = "",
    ) -> Batch:  # fmt: skip
        """The batch in a new status. Conflict when it is no longer where `batch` says."""
        times = {**batch.times, status: now}
        query = text(
            "UPDATE batches SET status = :status, times = :times, errors = :errors,"
            " output_file = :output, error_file = :error WHERE id = :i AND status = :was"
        )
        given = {
            "status": status, "times": json.dumps(times), "i": batch.id, "was": batch.status,
            "errors": json.dumps([*batch.errors, *errors]),
            "output": output_file or batch.output_file, "error": error_file or batch.error_file,
        }  # fmt: skip
        with self._database.transaction() as connection:
            if connection.execute(query, given).rowcount != 1:
                now_is = self._status(connection, batch.id)
                raise Conflict(f"batch {batch.id}", f"it is {now_is}, no longer {batch.status}")
        return self.batch(batch.tenant, batch.id)

    # --- lines

    def clear(self, batch: Batch) -> None:
        """No line of it is known: it is read from the beginning."""
        with self._database.transaction() as connection:
            connection.execute(text("DELETE FROM batch_lines WHERE batch = :b"), {"b": batch.id})

    def add_lines(self, batch: Batch, lines: Sequence[Line]) -> None:
        """Lines to be worked on."""
        query = text(
            "INSERT INTO batch_lines (batch, line, custom_id, body, answered, status, request_id,"
            " answer, code, message, expect) VALUES (:b, :n, :c, :body, 0, 0, '', '', '', '', :e)"
        )
        rows = [
            {"b": batch.id, "n": line.number, "c": line.custom_id, "body": line.body,
             "e": line.expect}
            for line in lines
        ]  # fmt: skip
        with self._database.transaction() as connection:
            connection.execute(query, rows)

    def begin(self, batch: Batch, model: str, lines: int, now: float) -> Batch:
        """All lines are read: work on them may begin."""
        query = text("UPDATE batches SET lines = :n, model = :m WHERE id = :i AND status = :was")
        with self._database.transaction() as connection:
            given = {"n": lines, "m": model, "i": batch.id, "was": batch.status}
            connection.execute(query, given)
        return self.move(batch, "in_progress", now)

    def unanswered(self, batch_id: str, after: int, limit: int = _PAGE) -> list[Line]:
        """The next lines behind number `after` that nothing became of yet."""
        query = text(
            "SELECT line, custom_id, body, expect FROM batch_lines WHERE batch = :b"
            " AND answered = 0 AND line > :n ORDER BY line LIMIT :k"
        )
        with self._database.reading() as connection:
            rows = connection.execute(query, {"b": batch_id, "n": after, "k": limit})
            return [Line(n, c, "", body, expect) for n, c, body, expect in rows]

    def answer(self, answers: Sequence[tuple[str, int, Answered]]) -> None:
        """Write what became of lines, each (batch, line, answer). The first answer of a line is the
        one that counts; those of a batch that is no longer worked on are dropped."""
        query = text(
            "UPDATE batch_lines SET answered = 1, status = :s, request_id = :r, answer = :a,"
            " code = :c, message = :m WHERE batch = :b AND line = :n AND answered = 0"
            " AND EXISTS (SELECT 1 FROM batches WHERE id = :b"
            " AND status IN ('in_progress', 'cancelling'))"
        )
        count = text(
            "UPDATE batches SET right_lines = right_lines + :right, wrong_lines = wrong_lines"
            " + :wrong, usd = usd + :usd WHERE id = :b"
        )
        with self._database.transaction() as connection:
            for batch, line, answer in answers:
                given = {
                    "s": answer.status, "r": answer.request_id, "a": answer.body, "n": line,
                    "c": answer.code, "m": answer.message, "b": batch,
                }  # fmt: skip
                if connection.execute(query, given).rowcount:
                    right = int(answer.right)
                    more = {"right": right, "wrong": 1 - right, "usd": answer.usd, "b": batch}
                    connection.execute(count, more)

    def rows(self, batch_id: str) -> Iterator[Row]:
        """Every line of a batch in the file's order, with what became of it."""
        query = text(
            "SELECT line, custom_id, answered, status, request_id, answer, code, message"
            " FROM batch_lines WHERE batch = :b AND line > :n ORDER BY line LIMIT :k"
        )
        after = 0
        while True:
            with self._database.reading() as connection:
                given = {"b": batch_id, "n": after, "k": _PAGE}
                page = connection.execute(query, given).all()
            for line, custom_id, answered, *answer in page:
                yield Row(line, custom_id, Answered(*answer) if answered else None)
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    def _status(self, connection: Connection, id: str) -> str:
        query = text("SELECT status FROM batches WHERE id = :i")
        row = connection.execute(query, {"i": id}).first()
        return str(row[0]) if row else "gone"


def _batch(row: Any) -> Batch:
    values = dict(zip(Batch.__dataclass_fields__, row, strict=True))
    for name in ("metadata", "errors", "times"):
        values[name] = json.loads(values[name])
    return Batch(**values)
