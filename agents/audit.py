"""Is the journal what it was? Signed checkpoints, and a verification that names what is not.

A run's chain of hashes finds what was changed, removed or reordered within it. Whoever can write to
the database could cut a run's end and its head together, or remove whole runs: so every half minute
a checkpoint seals the heads of the runs that moved. It is chained to the one before, signed with a
key that is not in the database, and its number is kept in a file beside that key.

Covered: changed, removed, reordered and cut events, removed runs, changed and removed checkpoints.
Not covered: what happens to a run in the half minute before it is sealed, and somebody who holds
the key as well as the database; an export (`agents/audit_export.py`) kept elsewhere finds that.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, text

from agents import refusals
from agents.audit_key import AuditKey
from agents.commits import Commits
from agents.digests import canonical
from agents.journal_sql import SqlJournal
from agents.listed import Listed
from cluster.errors import DataError, MainspringError
from cluster.ids import Clock
from cluster.telemetry import logger

log = logger("audit")

SEAL_S: Final = 30.0
_GENESIS: Final = "0" * 64
_AT_ONCE: Final = 2_000
_HEAD_FILE: Final = "audit-head.json"
_MOVED: Final = text(
    "SELECT run_id, last_seq, last_hash FROM runs WHERE last_seq > sealed_seq"
    " ORDER BY run_id LIMIT :n"
)
_SEALED: Final = text("INSERT INTO sealed VALUES (:c, :r, :s, :h)")
_MARK: Final = text("UPDATE runs SET sealed_seq = :s WHERE run_id = :r")
_ADD: Final = text("INSERT INTO checkpoints VALUES (:c, :at, :prev, :root, :sig)")
_LAST: Final = text("SELECT number, root FROM checkpoints ORDER BY number DESC LIMIT 1")
_ALL: Final = text("SELECT number, at, previous, root, signature FROM checkpoints ORDER BY number")
_HEADS: Final = text("SELECT run_id, seq, hash FROM sealed WHERE checkpoint = :c ORDER BY run_id")
_NEWEST: Final = text(
    "SELECT s.run_id, s.seq, s.hash, e.hash, r.run_id FROM sealed s"
    " LEFT JOIN events e ON e.run_id = s.run_id AND e.seq = s.seq"
    " LEFT JOIN runs r ON r.run_id = s.run_id"
    " WHERE e.hash IS NULL OR e.hash <> s.hash OR r.run_id IS NULL ORDER BY s.run_id, s.seq"
)
_ORPHANS: Final = text(
    "SELECT DISTINCT run_id FROM events WHERE run_id NOT IN (SELECT run_id FROM runs)"
)


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what is wrong: a sentence each that names the run or checkpoint."""

    runs: int
    events: int
    checkpoints: int
    wrong: tuple[str, ...]


class Audit:
    """The checkpoints of a journal. `folder` holds the key."""

    def __init__(self, journal: SqlJournal, folder: Path, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._key = AuditKey(folder)
        self._head = folder / _HEAD_FILE

    def seal(self) -> int:
        """Seal the heads of the runs that have moved since the last checkpoint; how many. What is
        sealed is what the journal says then: a broken chain stays broken. `keep` has to follow,
        once this is on disk."""
        with self._journal.connection() as connection:
            moved = [tuple(row) for row in connection.execute(_MOVED, {"n": _AT_ONCE})]
            if not moved:
                return 0
            last = connection.execute(_LAST).first()
            number, previous = (int(last[0]) + 1, str(last[1])) if last else (1, _GENESIS)
            at = self._clock.now()
            root = _root(number, at, previous, moved)
            given = {
                "c": number, "at": at, "prev": previous, "root": root,
                "sig": self._key.sign(root),
            }  # fmt: skip
            connection.execute(_ADD, given)
            rows = [{"c": number, "r": r, "s": s, "h": h} for r, s, h in moved]
            connection.execute(_SEALED, rows)
            connection.execute(_MARK, rows)
        return len(moved)

    def keep(self) -> None:
        """Note the last checkpoint's number beside the key, so that its removal is found. What is
        noted is on disk: a crash before this costs a note, and never a false alarm."""
        with self._journal.connection() as connection:
            last = connection.execute(_LAST).first()
        if last is None or int(last[0]) <= self._known():
            return
        new = self._head.with_suffix(".new")
        new.write_text(json.dumps({"number": int(last[0])}), "ascii")
        new.replace(self._head)

    def verify(self) -> Verified:
        """Look at everything."""
        runs = self._journal.runs()
        wrong: list[str] = []
        events = 0
        for row in runs:
            try:
                events += self._journal.verify(row.run_id)
            except DataError as error:
                wrong.append(str(error))
        with self._journal.connection() as connection:
            checkpoints = list(connection.execute(_ALL))
            wrong += self._checkpoints(connection, checkpoints)
            wrong += _against_seals(connection)
            wrong += [
                f"run {run}: it was removed from the list of runs"
                for (run,) in connection.execute(_ORPHANS)
            ]
        return Verified(len(runs), events, len(checkpoints), tuple(dict.fromkeys(wrong)))

    def _checkpoints(self, connection: Connection, rows: list[Any]) -> Iterator[str]:
        previous = _GENESIS
        for expected, (number, at, before, root, signature) in enumerate(rows, 1):
            if number != expected:
                yield f"checkpoint {expected}: it was removed"
                return
            heads = [tuple(row) for row in connection.execute(_HEADS, {"c": number})]
            whole = before == previous and root == _root(number, at, before, heads)
            if not whole or not self._key.verifies(root, signature):
                yield f"checkpoint {number}: it was changed"
            previous = root
        if (known := self._known()) > len(rows):
            yield f"checkpoint {len(rows) + 1}: it and what follows, up to {known}, were removed"

    def _known(self) -> int:
        try:
            return int(json.loads(self._head.read_text("ascii"))["number"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(str(self._head), f"not a checkpoint's number ({error!r})") from None


class Seals:
    """Seals every SEAL_S seconds, and once more at the end; and takes into the lists what has
    moved, so that whoever looks at them waits for the last seconds at most."""

    def __init__(self, audit: Audit, listed: Listed, commits: Commits) -> None:
        self._audit, self._listed, self._commits = audit, listed, commits
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Seal what is left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._seal()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(SEAL_S)
            await self._seal()

    async def _seal(self) -> None:
        try:
            while await self._commits.do(self._audit.seal) == _AT_ONCE:
                continue
            await self._commits.do(self._audit.keep)
            while await self._commits.do(self._listed.look):
                continue
        except MainspringError as error:
            # What is not sealed now is sealed the next time.
            log.warning("no checkpoint: %s", error)


def verify_refusals(path: Path) -> tuple[int, tuple[str, ...]]:
    """How many refusals a connector's file holds, and what is wrong with it."""
    try:
        return len(list(refusals.read(path))), ()
    except DataError as error:
        return 0, (str(error),)


def _against_seals(connection: Connection) -> Iterator[str]:
    for run, seq, _, found, listed in connection.execute(_NEWEST):
        if listed is None and found is None:
            yield f"run {run}: it was removed, with event {seq}"
        elif found is None:
            yield f"run {run}: its end was cut off, event {seq} is gone"
        elif listed is not None:
            yield f"run {run}: event {seq} is not what was sealed"


def _root(number: int, at: float, previous: str, heads: list[Any]) -> str:
    said = canonical([number, repr(at), previous, [list(head) for head in heads]])
    return hashlib.sha256(said.encode()).hexdigest()
