"""The console with a long past behind it: `make bench-console`.

A journal of 10,000 runs and 100,000 receipts is filled; then runs and receipts are listed and
filtered over HTTP, through the whole app on uvicorn (engines made up, one process with the client):
the newest page, one from the middle, each filter, and filters that find nothing, for which the
database has to look at most. Headless Chromium opens the first screen, and stays on two pages over
many updates on a clock that runs faster: on the overview, which asks again, and on a run that is
followed as server-sent events. `--postgres` times the same lists on PostgreSQL, without HTTP.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from agents.events import (
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectStarted,
    RunEnded,
    StepDecided,
    WaitBegun,
)
from agents.journal_sql import SqlJournal
from agents.listed import Listed, ReceiptsAsked, RunsAsked
from benchmarks import console_pages, postgres
from benchmarks.report import Figure, write
from cluster.ids import SystemIds
from serve.routes.usage import moment
from tests.whole import served

LISTED_MS: Final = 300.0
RUNS: Final = 10_000
STEPS: Final = 10
_TENANT: Final = "default"
_TOOLS: Final = ("reply", "refund", "assign", "tag", "note", "search", "publish", "price")
_GROUP: Final = 200
Asked = dict[str, Any]
_QUERIES: Final[dict[str, list[Asked]]] = {
    "runs": [
        {}, {"status": "waiting"}, {"status": "ended"}, {"decision": "escalated"},
        {"workflow": "content"}, {"agent": "agent-7"}, {"since": "2026-11-20"},
        {"workflow": "shop", "status": "ended", "decision": "replied", "until": "2026-11-01"},
        {"agent": "nobody"}, {"workflow": "none"}, {"decision": "none"},
    ],
    "receipts": [
        {}, {"tool": "refund"}, {"outcome": "unknown"}, {"outcome": "done"}, {"answer": "deny"},
        {"workflow": "content"}, {"agent": "agent-7"}, {"since": "2026-11-20"},
        {"tool": "refund", "answer": "deny", "workflow": "shop", "until": "2026-11-01"},
        {"agent": "nobody"}, {"workflow": "none"}, {"tool": "none"}, {"run": "run_none"},
    ],
}  # fmt: skip


class Past:
    """A clock that goes through the time in which the runs happened."""

    def __init__(self) -> None:
        self.at = 1_790_000_000.0

    def now(self) -> float:
        """Seconds since the epoch, a little more each time."""
        self.at += 1.5
        return self.at

    def monotonic(self) -> float:
        """The same."""
        return self.at


def main() -> int:
    """Measure, and print the table; see the module."""
    parser = argparse.ArgumentParser(prog="make bench-console")
    parser.add_argument("--runs", type=int, default=RUNS, help="with ten receipts each")
    parser.add_argument("--times", type=int, default=20, help="how often each list is asked for")
    parser.add_argument("--updates", type=int, default=1_500, help="of each open page")
    parser.add_argument(
        "--overview", type=int, default=0, help="updates of the overview, if more; 9600 are 8 hours"
    )
    parser.add_argument("--postgres", action="store_true", help="the lists on PostgreSQL as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        taken_s = filled("sqlite:///journal.db", path, given.runs)
        with served(path, console_pages.listening) as (url, world):
            took = over_http(url, given.times)
            pages = console_pages.measured(
                url, world, given.updates, max(given.updates, given.overview)
            )
    details: dict[str, Any] = {"ms": {name: _summary(ms) for name, ms in took.items()}}
    figures = [*_lists(took, "over HTTP, SQLite"), *pages]
    if given.postgres:
        more = on_postgres(given.runs, given.times)
        figures += _lists(more, "PostgreSQL, without HTTP")
        details["postgres_ms"] = {name: _summary(ms) for name, ms in more.items()}
    figures.append(Figure("taking such a journal into the lists, once, s", taken_s))
    load = f"{given.runs} runs, {given.runs * STEPS} receipts, pages of 50, one client"
    return write("console", figures, load=load, details=details)


def filled(url: str, folder: Path, runs: int) -> float:
    """Fill a journal; how long the lists took to take it in, in seconds."""
    draw = random.Random(7)
    with closing(SqlJournal(url, folder, Past(), SystemIds())) as journal:
        for first in range(0, runs, _GROUP):
            numbers = range(first, min(first + _GROUP, runs))
            for answer in journal.together([partial(_run, journal, draw, n) for n in numbers]):
                if isinstance(answer, Exception):
                    raise answer
        began = time.perf_counter()
        lists = Listed(journal)
        while lists.look():
            continue
        return time.perf_counter() - began


def timed(ask: Callable[[], int], times: int) -> list[float]:
    """How long `ask` took each time, in milliseconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    return took


def over_http(url: str, times: int) -> dict[str, list[float]]:
    """Milliseconds of each list by its name."""
    with httpx.Client(base_url=f"{url}/v1", timeout=60) as client:
        return {
            f"{kind} {_words(asked)}": timed(partial(_page, client, kind, asked), times)
            for kind, asked in _asked(partial(_middle, client))
        }


def on_postgres(runs: int, times: int) -> dict[str, list[float]]:
    """The same lists out of PostgreSQL."""
    if why_not := postgres.reason_not_to():
        raise SystemExit(why_not)
    with tempfile.TemporaryDirectory() as folder, postgres.server() as url:
        filled(url, Path(folder), runs)
        with closing(SqlJournal(url, Path(folder), Past(), SystemIds())) as journal:
            lists = Listed(journal)
            return {
                f"{kind} {_words(asked)}": timed(partial(_straight, lists, kind, asked), times)
                for kind, asked in _asked(partial(_middle_of, lists))
            }


def _run(journal: SqlJournal, draw: random.Random, number: int) -> None:
    workflow = draw.choice(("support", "content", "shop"))
    agent = f"agent-{draw.randrange(500)}"
    run, _ = journal.create(_TENANT, f"run-{number}", workflow, agent, {"ticket": f"T-{number}"})
    events: list[Any] = []
    for step in range(STEPS):
        events += _step(f"step {step}", draw)
    if draw.random() < 0.01:
        events.append(WaitBegun(step="ear", awaited="signal", signal="word"))
    else:
        decision = draw.choices(("replied", "escalated", "failed"), (90, 8, 2))[0]
        events.append(RunEnded(decision=decision, reason="as it went", result={"n": number}))
    journal.append(run, 0, events)


def _step(step: str, draw: random.Random) -> Iterator[Any]:
    tool, key = draw.choice(_TOOLS), f"key {step}"
    answer: Any = draw.choices(("allow", "deny", "ask"), (95, 3, 2))[0]
    yield StepDecided(step=step, tool=tool, args={}, answer=answer, rule="cap", reason="because")
    if answer != "allow":
        return
    yield EffectStarted(step=step, tool=tool, key=key, args={})
    chance = draw.random()
    if chance < 0.0005:
        yield EffectParked(step=step, key=key, reason="lost")
    elif chance < 0.01:
        yield EffectFailed(step=step, key=key, code="conflict", reason="it was another")
    else:
        yield EffectDone(step=step, key=key, receipt={"kind": tool})


def _asked(middle: Callable[[str], str]) -> Iterator[tuple[str, Asked]]:
    for kind, queries in _QUERIES.items():
        yield from ((kind, asked) for asked in queries)
        yield kind, {"after": middle(kind)}


def _page(client: httpx.Client, kind: str, asked: Asked) -> int:
    answer = client.get(kind, params={"limit": 50, **asked})
    return len(answer.raise_for_status().json()["data"])


def _middle(client: httpx.Client, kind: str) -> str:
    answer = client.get(kind, params={"limit": 1, "until": "2026-10-10"})
    return str(answer.raise_for_status().json()["last_id"])


def _straight(lists: Listed, kind: str, asked: Asked) -> int:
    return len(_found(lists, kind, limit=50, **asked).rows)


def _middle_of(lists: Listed, kind: str) -> str:
    return str(_found(lists, kind, limit=1, until="2026-10-10").rows[0].id)


def _found(lists: Listed, kind: str, **asked: Any) -> Any:
    days = {name: day for name, day in asked.items() if name in ("since", "until")}
    times = {name: moment(name, day, 0.0) for name, day in days.items()}
    given = {**asked, **times, "tenant": _TENANT}
    return (
        lists.runs(RunsAsked(**given)) if kind == "runs" else lists.receipts(ReceiptsAsked(**given))
    )


def _words(asked: Asked) -> str:
    return ", ".join("the middle" if name == "after" else f"{name}={asked[name]}" for name in asked)


def _summary(ms: list[float]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(ms, q)), 2) for q in (50, 95)}


def _lists(took: dict[str, list[float]], how: str) -> list[Figure]:
    figures = []
    for kind in _QUERIES:
        lists = {name: ms for name, ms in took.items() if name.startswith(kind)}
        every = [one for ms in lists.values() for one in ms]
        slowest = max(float(np.percentile(ms, 95)) for ms in lists.values())
        figures += [
            Figure(f"{kind} {how}: p50 ms", float(np.percentile(every, 50))),
            Figure(f"{kind} {how}: p95 ms", float(np.percentile(every, 95)), LISTED_MS),
            Figure(f"{kind} {how}: p95 of the slowest filter, ms", slowest, LISTED_MS),
        ]
    return figures


if __name__ == "__main__":
    sys.exit(main())
