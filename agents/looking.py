"""The lines that lists are made of: what each run ended as, and one for each receipt.

They stand in tables beside the events. `look` makes them of the events, from where it left off, and
nothing else writes them: a journal of an earlier version is taken in by looking.
"""

from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, text

from agents.events import RunEnded, StepDecided, parse
from agents.receipts import outcome_of, undone

AT_ONCE: Final = 100
"""So many runs are looked at in one transaction."""
_EVENTS: Final = 2_000

_MOVED: Final = (
    "SELECT run_id, tenant, workflow, agent, last_seq, listed_seq FROM runs"
    " WHERE last_seq > listed_seq ORDER BY run_id LIMIT :n"
)
_NEW: Final = text(
    "SELECT seq, at, payload FROM events WHERE run_id = :r AND seq > :after ORDER BY seq LIMIT :n"
)
_DECIDED: Final = text(
    "INSERT INTO receipts VALUES (:r, :step, :seq, :t, :w, :a, :tool, :answer, :rule, :outcome,"
    " :at) ON CONFLICT (run_id, step) DO UPDATE SET tool = :tool, answer = :answer, rule = :rule,"
    " outcome = :outcome"
)
_CAME: Final = text("UPDATE receipts SET outcome = :outcome WHERE run_id = :r AND step = :step")
_ENDED: Final = text("UPDATE runs SET decision = :d, ended_at = :at WHERE run_id = :r")
_SEEN: Final = text("UPDATE runs SET listed_seq = :s WHERE run_id = :r")


def look(connection: Connection) -> bool:
    """Take in what AT_ONCE of the runs that moved have journaled; whether there may be more."""
    # Of two who look, neither waits for the other, nor for a run that is being moved.
    postgres = connection.dialect.name == "postgresql"
    moved = text(f"{_MOVED} FOR UPDATE SKIP LOCKED" if postgres else _MOVED)
    rows = connection.execute(moved, {"n": AT_ONCE}).all()
    taking = _Taking(connection)
    whole = [taking.run(*row) for row in rows]
    taking.write()
    return len(rows) == AT_ONCE or not all(whole)


class _Taking:
    """What one look has found, written at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._decided: dict[tuple[str, str], dict[str, Any]] = {}
        self._came: dict[tuple[str, str], dict[str, Any]] = {}
        self._ended: list[dict[str, Any]] = []
        self._seen: list[dict[str, Any]] = []

    def run(self, run: str, tenant: str, workflow: str, agent: str, last: int, seen: int) -> bool:
        """Look at a run from behind event `seen` on; whether that was all of it."""
        given = {"r": run, "after": seen, "n": _EVENTS}
        rows = self._connection.execute(_NEW, given).all()
        for seq, at, data in rows:
            try:
                payload = parse(data)
            except ValidationError:
                continue  # somebody changed it: `mainspring audit verify` names it
            match payload:
                case StepDecided(step=step):
                    key = (run, step)
                    before = self._decided.get(key, {"seq": seq, "at": at})
                    self._came.pop(key, None)
                    self._decided[key] = {
                        "r": run, "step": step, "t": tenant, "w": workflow, "a": agent,
                        "tool": payload.tool, "answer": payload.answer, "rule": payload.rule,
                        "outcome": undone(payload), "seq": before["seq"], "at": before["at"],
                    }  # fmt: skip
                case RunEnded(decision=decision):
                    self._ended.append({"r": run, "d": decision, "at": at})
                case _ if (came := outcome_of(payload)) is not None:
                    self._outcome(run, payload.step, came["state"])
        # Fewer than were asked for are the last ones, whatever the head says.
        whole = len(rows) < _EVENTS
        self._seen.append({"r": run, "s": last if whole else rows[-1].seq})
        return whole

    def _outcome(self, run: str, step: str, outcome: str) -> None:
        if (run, step) in self._decided:
            self._decided[run, step]["outcome"] = outcome
        else:
            self._came[run, step] = {"r": run, "step": step, "outcome": outcome}

    def write(self) -> None:
        """Write what was found."""
        for statement, rows in (
            (_DECIDED, [*self._decided.values()]), (_CAME, [*self._came.values()]),
            (_ENDED, self._ended), (_SEEN, self._seen),
        ):  # fmt: skip
            if rows:
                self._connection.execute(statement, rows)
