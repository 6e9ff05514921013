"""The kill matrix: `make bench-kill`. SIGKILL at every named point of every actor, and what else
goes wrong under a running system; then every effect is counted.

Orchestrator, agent host and connector run as the Ray actors that they are in a stack. Each is
killed at a point of its own work: it kills itself there, with SIGKILL, when the point is armed. The
connector's ledger refuses nothing and writes a row for every time an effect is done: what is done
twice is seen. On the way a second orchestrator lives beside the first for a while, the disk is
full, the journal's clock is set back, and PostgreSQL is stopped as by a crash. A run has effects, a
phase, a timer and children. Under fire an actor is killed again as soon as it is back, whatever the
others are at; then, one at a time, the next is killed when the last is at work again. Time to
recover is from a kill to the next thing on disk that who was killed had to do for it.
"""

import argparse
import functools
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
from ray.exceptions import RayError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from agents.events import EffectDone, Event, RunClaimed, RunOptions
from agents.guarded import Guarded
from agents.host import Workflow, start_host
from agents.intents import Guard
from agents.journal_sql import SqlJournal
from agents.listed import RunsAsked
from agents.once import Once
from agents.state import fold
from agents.turn import Child, Turn
from benchmarks import postgres
from benchmarks.actors import actors, begin_orchestrator, named, ray_started
from benchmarks.report import RESULTS, Figure, write
from cluster.errors import MainspringError
from cluster.ids import SystemIds
from cluster.settings import AgentsSection

RECOVERY_P95_S: Final = 10.0
_EFFECTS: Final = 4
_OPEN: Final = 12
_KINDS: Final = (
    "phase_done", "step_decided+effect_started", "effect_done", "wait_begun", "wait_ended",
    "run_ended",
)  # fmt: skip
POINTS: Final = {
    "orchestrator": [
        f"{side} {what}"
        for what in ("create", "claim", *(f"append {kind}" for kind in _KINDS))
        for side in ("before", "after")
    ],
    "connector": ["before effect", "between effect and receipt", "before lookup", "after lookup"],
    "host": ["before effect", "after effect", "inside phase", "before wait", "before end"],
}
# What is on disk when an actor of this role did its work; anything, for the journal's owner.
_DONE_BY: Final[dict[str, set[str]]] = {
    "orchestrator": set(), "connector": {"effect_done"},
    "host": {"phase_done", "step_decided", "wait_begun"},
}  # fmt: skip
_SINCE: Final = text("SELECT at, payload FROM events WHERE at > :t ORDER BY at LIMIT 500")
_AT_MOST_S: Final = 60.0
_CLOCK_SET_BACK_S: Final = 3_600.0
_DISTURB_S: Final = 20.0
_NOT_REACHED_S: Final = 15.0
_END_S: Final = 240.0


class Fuses:
    """Points at which a process kills itself once it is told to, through files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def point(self, role: str, name: str) -> None:
        """Die here if this point is armed."""
        armed = self._folder / role
        try:
            if armed.read_text("utf-8") == name:
                armed.rename(self._folder / f"{role}.fired")
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            return

    def arm(self, role: str, name: str) -> None:
        """Let the next process of this role that comes to this point die there."""
        draft = self._folder / f"{role}.draft"
        draft.write_text(name, "utf-8")
        draft.rename(self._folder / role)

    def disarm(self, role: str) -> None:
        """Let nobody of this role die."""
        (self._folder / role).unlink(missing_ok=True)

    def fired(self, role: str) -> float | None:
        """When somebody died, in seconds since the epoch; tells it once."""
        fired = self._folder / f"{role}.fired"
        try:
            at = fired.stat().st_ctime
            fired.unlink()
        except FileNotFoundError:
            return None
        return at


class ShiftedClock:
    """The system's clock, moved by what a file says, in seconds."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> float:
        try:
            return time.time() + float(self._file.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class FusedJournal(SqlJournal):
    """The journal with points in it; its disk is full while the file `full` is there."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder, ShiftedClock(folder / "shift"), SystemIds())
        self._fuses, self._folder = Fuses(folder), folder
        self._done: list[str] = []
        self._is_full = False

    def together(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        self._fill((self._folder / "full").exists())
        self._done.clear()
        results = super().together(work)
        for point in self._done:
            self._fuses.point("orchestrator", point)
        return results

    def create(self, *args: Any) -> tuple[str, bool]:
        created: tuple[str, bool] = self._pointed("create", super().create, *args)
        return created

    def claim(self, run_id: str, reason: str) -> int:
        epoch: int = self._pointed("claim", super().claim, run_id, reason)
        return epoch

    def append(
        self, run_id: str, epoch: int, payloads: Sequence[Any], after: int | None = None
    ) -> list[Event]:
        what = "append " + "+".join(p.kind for p in payloads)
        events: list[Event] = self._pointed(what, super().append, run_id, epoch, payloads, after)
        return events

    def _pointed(self, what: str, work: Callable[..., Any], *args: Any) -> Any:
        self._fuses.point("orchestrator", f"before {what}")
        result = work(*args)
        self._done.append(f"after {what}")
        return result

    def _fill(self, full: bool) -> None:
        """SQLite refuses to grow beyond a number of pages as it does on a full disk."""
        if full == self._is_full or not self._database.url.startswith("sqlite"):
            return
        with self.connection() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {1 if full else 1 << 30}")
        self._is_full = full


class Ledger(Guarded):
    """A connector that writes down each time it does something, and can be asked by key."""

    def __init__(self, make_guard: Callable[[], Guard], folder: Path) -> None:
        super().__init__(make_guard())
        self._fuses = Fuses(folder)
        self._file = folder / "ledger.db"
        self._once = Once(self._find)
        with closing(self._open()) as db:
            db.execute("CREATE TABLE IF NOT EXISTS done (key TEXT, at REAL)")

    def pid(self) -> int:
        return os.getpid()

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """As `agents.connector.Connector.perform`."""

        def done() -> dict[str, Any]:
            self._fuses.point("connector", "before effect")
            with closing(self._open()) as db:
                db.execute("INSERT INTO done VALUES (?, ?)", (key, time.time()))
            self._fuses.point("connector", "between effect and receipt")
            return {"kind": tool, "key": key}

        return self._once.do(key, done)

    def find(self, key: str) -> dict[str, Any] | None:
        """As `agents.connector.Connector.find`."""
        self._fuses.point("connector", "before lookup")
        found = self._once.find(key)
        self._fuses.point("connector", "after lookup")
        return found

    def _find(self, key: str) -> dict[str, Any] | None:
        with closing(self._open()) as db:
            found = db.execute("SELECT key FROM done WHERE key = ?", (key,)).fetchone()
        return None if found is None else {"kind": "found", "key": key}

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=30, isolation_level=None)


def workflows(folder: Path) -> dict[str, Workflow]:
    """`job` has everything that a run can have; `leaf` is what it waits for."""
    fuses = Fuses(folder)

    async def effects(turn: Turn, count: int) -> None:
        for number in range(count):
            fuses.point("host", "before effect")
            args = {"reason": "needs_person", "summary": f"effect {number}"}
            await turn.act(str(number), "escalate", args)
            fuses.point("host", "after effect")

    async def look() -> dict[str, Any]:
        fuses.point("host", "inside phase")
        return {"seen": True}

    async def job(turn: Turn) -> None:
        await turn.phase("look", look)
        await effects(turn, _EFFECTS)
        fuses.point("host", "before wait")
        await turn.sleep("nap", 0.05)
        told = await turn.children("fan", [Child("leaf"), Child("leaf")])
        fuses.point("host", "before end")
        await turn.end("done", "", {"children": len(told or [])})

    async def leaf(turn: Turn) -> None:
        await effects(turn, 1)
        await turn.end("done", "", {})

    return {"job": job, "leaf": leaf}


@dataclass(frozen=True)
class Kill:
    """Who died where, and when (seconds since the epoch); `alone` when all others lived."""

    role: str
    point: str
    at: float
    alone: bool = False


@dataclass
class Matrix:
    """A system under fire: what was killed where, and what else was done to it."""

    folder: Path
    url: str
    orchestrator: Any
    random: random.Random
    kills: list[Kill] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)
    _asked: int = 0

    def fire(self, wanted: int, limit_s: float, disturb: dict[str, Callable[[], Any]]) -> None:
        """Keep runs open and kill until there were `wanted` kills, or `limit_s` seconds passed."""
        fuses = Fuses(self.folder)
        armed: dict[str, tuple[str, float]] = {}
        order = {role: _cycled(points, self.random) for role, points in POINTS.items()}
        began = last = told = time.monotonic()
        troubles = _cycled(list(disturb), self.random) if disturb else iter(())
        while len(self.kills) < wanted and time.monotonic() - began < limit_s:
            self._feed()
            for role in POINTS:
                point, since = armed.get(role, ("", 0.0))
                if point and (at := fuses.fired(role)) is not None:
                    self.kills.append(Kill(role, point, at))
                    point = ""
                elif point and time.monotonic() - since > _NOT_REACHED_S:
                    fuses.disarm(role)
                    self.missed[f"{role}: {point}"] += 1
                    point = ""
                if not point:
                    armed[role] = (next(order[role]), time.monotonic())
                    fuses.arm(role, armed[role][0])
            if time.monotonic() - last > _DISTURB_S and disturb:
                name = next(troubles)
                print(f"  {name}", file=sys.stderr)
                disturb[name]()
                self.disturbed[name] += 1
                last = time.monotonic()
            if time.monotonic() - told > 30:
                print(f"  {len(self.kills)} kills, {len(self.jobs)} runs", file=sys.stderr)
                told = time.monotonic()
            time.sleep(0.05)
        for role in POINTS:
            fuses.disarm(role)
            if (at := fuses.fired(role)) is not None:
                self.kills.append(Kill(role, armed[role][0], at))

    def one_by_one(self, wanted: int, limit_s: float) -> None:
        """Kill `wanted` times, each time when who was killed last is at work again."""
        fuses = Fuses(self.folder)
        order = {role: _cycled(points, self.random) for role, points in POINTS.items()}
        began = time.monotonic()
        for role in itertools.islice(itertools.cycle(POINTS), wanted):
            point = next(order[role])
            fuses.arm(role, point)
            fired = self._until(functools.partial(fuses.fired, role), _NOT_REACHED_S)
            if fired is None:
                fuses.disarm(role)
                self.missed[f"{role}: {point}"] += 1
                continue
            kill = Kill(role, point, fired, alone=True)
            self.kills.append(kill)
            if self._until(functools.partial(_recovered, self.url, kill), _AT_MOST_S) is None:
                print(f"  not at work again in {_AT_MOST_S:g} s: {kill}", file=sys.stderr)
            if time.monotonic() - began > limit_s:
                return

    def _until(self, look: Callable[[], float | None], limit_s: float) -> float | None:
        """What `look` gives at last, with runs kept open meanwhile; None after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if (found := look()) is not None:
                return found
            self._feed()
            time.sleep(0.05)
        return None

    def _feed(self) -> None:
        """Keep _OPEN runs open. A submission whose answer is lost is made again under its key."""
        try:
            if ray.get(self.orchestrator.open.remote(), timeout=20) >= _OPEN:
                return
            run = ray.get(
                self.orchestrator.submit.remote(
                    "t", f"job-{self._asked}", "job", f"agent-{self._asked}", {},
                    RunOptions(attempts=100),
                ),
                timeout=20,
            )  # fmt: skip
        except (RayError, MainspringError):
            return
        self.jobs.append(run)
        self._asked += 1

    def finish(self) -> None:
        """Wait until every run has ended, at most _END_S seconds."""
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            try:
                if not self._listed("open") and not self._listed("waiting"):
                    return
            except (RayError, MainspringError):
                pass
            time.sleep(0.5)

    def _listed(self, status: str) -> Sequence[Any]:
        asked = RunsAsked(tenant="t", status=status, limit=1)
        found: Sequence[Any] = ray.get(self.orchestrator.list_runs.remote(asked)).rows
        return found


@dataclass(frozen=True)
class Counted:
    """What the journal and the ledger say after all is over."""

    runs: int
    effects: int
    twice: int
    lost: int
    unfinished: int
    broken_chains: int
    given_up: int
    recoveries: list[tuple[Kill, float]]
    held_up: list[float]


def counted(url: str, folder: Path, kills: Sequence[Kill]) -> Counted:
    """Read every run and every effect again."""
    journal = SqlJournal(url, folder, ShiftedClock(folder / "shift"), SystemIds())
    with closing(sqlite3.connect(folder / "ledger.db")) as db:
        ledger = Counter(key for (key,) in db.execute("SELECT key FROM done"))
    receipts: set[str] = set()
    held_up: list[float] = []
    done: dict[str, list[float]] = {role: [] for role in POINTS}
    unfinished = broken = given_up = 0
    rows = journal.runs()
    for row in rows:
        try:
            events = journal.verified(row.run_id)
        except MainspringError as error:
            print(error, file=sys.stderr)
            broken += 1
            continue
        state = fold(row.run_id, events)
        unfinished += state.ended is None
        given_up += state.ended is not None and state.ended.decision != "done"
        receipts |= {e.payload.key for e in events if isinstance(e.payload, EffectDone)}
        held_up += _held_up(events)
        for event in events:
            for role, kinds in _DONE_BY.items():
                if not kinds or event.payload.kind in kinds:
                    done[role].append(event.at)
    journal.close()
    return Counted(
        runs=len(rows), effects=ledger.total(), twice=sum(n > 1 for n in ledger.values()),
        lost=len(set(ledger) ^ receipts), unfinished=unfinished, broken_chains=broken,
        given_up=given_up, held_up=held_up,
        recoveries=[(k, s) for k in kills if (s := _until_next(k, done[k.role])) is not None],
    )  # fmt: skip


def _recovered(url: str, kill: Kill) -> float | None:
    """When who was killed was at work again; None while it is not."""
    database = create_engine(url)
    try:
        with database.connect() as connection:
            rows = connection.execute(_SINCE, {"t": kill.at}).all()
    except SQLAlchemyError:
        return None
    finally:
        database.dispose()
    kinds = _DONE_BY[kill.role]
    return next((at for at, p in rows if not kinds or json.loads(p)["kind"] in kinds), None)


def _until_next(kill: Kill, done: Sequence[float]) -> float | None:
    """Seconds from a kill to the first thing on disk that who was killed had to do for it."""
    return min((at - kill.at for at in done if at > kill.at), default=None)


def _held_up(events: Sequence[Event]) -> Iterator[float]:
    """Seconds from the last event before a run was taken up again to the first one after it: over
    all kills that hit it meanwhile, and what it rested between attempts."""
    for before, claim, after in zip(events, events[1:], events[2:], strict=False):
        taken_up = isinstance(claim.payload, RunClaimed) and claim.payload.epoch > 1
        waited = before.payload.kind in {"wait_ended", "run_started"}
        # The clock may have been set back or forth between the two.
        if taken_up and not waited and 0 <= after.at - before.at < _CLOCK_SET_BACK_S / 2:
            yield after.at - before.at


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    with ray_started():
        for store in given.stores.split(","):
            with _store(store) as (url, folder, disturb):
                print(f"{store}: {given.kills} kills", file=sys.stderr)
                matrix, told = _one(url, folder, disturb, given)
            measured = _figures(store, matrix, told, given.kills)
            for figure in measured:
                print(f"  {figure.name}: {figure.value:.4g}", file=sys.stderr)
            figures += measured
            details[store] = {
                "kills": _by_point(matrix.kills), "not reached": dict(matrix.missed),
                "disturbed": dict(matrix.disturbed), "runs": told.runs, "effects": told.effects,
            }  # fmt: skip
    return write(
        "kill", figures, details=details, folder=given.results,
        load=f"{_OPEN} open runs of {_EFFECTS} effects, a phase, a timer and two children each",
    )  # fmt: skip


def _one(
    url: str, folder: Path, disturb: dict[str, Callable[[], Any]], given: argparse.Namespace
) -> tuple[Matrix, Counted]:
    section = AgentsSection(
        hosts=given.hosts, orchestrators=given.orchestrators, concurrency=2 * _OPEN,
        interactive_slots=0, turn_timeout_s=30.0,
    )  # fmt: skip
    journal = functools.partial(FusedJournal, url, folder)
    made = functools.partial(workflows, folder)
    with actors(journal, Ledger, (folder,), made, section, folder) as orchestrator:
        names = named(section)
        spawn = functools.partial(start_host, made, section.idle_s)

        def second_owner() -> None:
            other = begin_orchestrator("second", journal, section, names, spawn, None, 0, folder)
            time.sleep(4.0)
            ray.kill(other)

        matrix = Matrix(folder, url, orchestrator, random.Random(given.seed))
        began = time.monotonic()
        matrix.fire(given.kills, given.limit, {"two owners": second_owner, **disturb})
        print(f"  {time.monotonic() - began:.0f} s; now one at a time", file=sys.stderr)
        matrix.one_by_one(given.alone, given.limit)
        matrix.finish()
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr)
    return matrix, counted(url, folder, matrix.kills)


def _by_point(kills: Sequence[Kill]) -> dict[str, int]:
    return dict(sorted(Counter(f"{k.role}: {k.point}" for k in kills).items()))


def _figures(store: str, matrix: Matrix, told: Counted, wanted: int) -> list[Figure]:
    alone, under_fire = (
        np.quantile([s for k, s in told.recoveries if k.alone is way] or [0.0], [0.5, 0.95])
        for way in (True, False)
    )
    held = np.quantile(told.held_up or [0.0], [0.5, 0.95])
    return [
        Figure(f"{store}: kills", len(matrix.kills), wanted, "at least"),
        Figure(f"{store}: points killed at", len(_by_point(matrix.kills)), None),
        Figure(f"{store}: runs", told.runs, None),
        Figure(f"{store}: effects", told.effects, None),
        Figure(f"{store}: effects done twice", told.twice, 0),
        Figure(f"{store}: effects lost", told.lost, 0),
        Figure(f"{store}: runs never finished", told.unfinished, 0),
        Figure(f"{store}: runs given up", told.given_up, 0),
        Figure(f"{store}: chains broken", told.broken_chains, 0),
        Figure(f"{store}: time to recover p50, s", float(alone[0]), None),
        Figure(f"{store}: time to recover p95, s", float(alone[1]), RECOVERY_P95_S),
        Figure(f"{store}: under fire p50, s", float(under_fire[0]), None),
        Figure(f"{store}: under fire p95, s", float(under_fire[1]), None),
        Figure(f"{store}: a run held up p50, s", float(held[0]), None),
        Figure(f"{store}: a run held up p95, s", float(held[1]), None),
    ]


@contextmanager
def _store(name: str) -> Iterator[tuple[str, Path, dict[str, Callable[[], Any]]]]:
    """A store's URL, its folder, and what can go wrong with it alone."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def clock_set_back() -> None:
            (folder / "shift").write_text(f"-{_CLOCK_SET_BACK_S}", "utf-8")
            time.sleep(3.0)
            (folder / "shift").unlink()

        def disk_full() -> None:
            (folder / "full").touch()
            time.sleep(3.0)
            (folder / "full").unlink()

        common = {"clock set back": clock_set_back}
        if name == "sqlite":
            yield f"sqlite:///{folder}/journal.db", folder, {**common, "disk full": disk_full}
            return
        with postgres.server(sync=True) as url:
            restart = functools.partial(postgres.restart, url)
            yield url, folder, {**common, "PostgreSQL restarted": restart}


def _cycled(points: Sequence[str], chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(points, len(points))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.kill")
    parser.add_argument("--kills", type=int, default=1_000, help="for each store")
    parser.add_argument("--alone", type=int, default=100, help="more kills, one at a time")
    parser.add_argument("--limit", type=float, default=3_600.0, help="seconds, for each of both")
    parser.add_argument("--stores", default="sqlite,postgresql", help="which of the two, in order")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--orchestrators", type=int, default=1, help="that share the runs")
    parser.add_argument("--hosts", type=int, default=1, help="that share the agents")
    parser.add_argument("--seed", type=int, default=1, help="of the points' order")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
