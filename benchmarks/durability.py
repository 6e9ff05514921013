"""What a durable, governed step costs: `make bench-durability`.

Orchestrator, agent host and connector run as the Ray actors that they are in a stack. A step is one
effect: policy decides; decision and start are one transaction; the connector, in its own process,
is asked under the effect's key; its receipt of 1 KB is another transaction; both with full sync.
Beside it, on the same disk in the same run, the peer writes the result of as large a step:
`--dbos PYTHON` names an interpreter that has DBOS Transact. PostgreSQL where its server can start.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from agents.guarded import Guarded
from agents.host import Workflow
from agents.intents import Guard
from agents.turn import Turn
from benchmarks import postgres
from benchmarks.actors import CONNECTOR, LIMIT_S, actors, ended, ray_started, sql_journal
from benchmarks.report import Figure, write
from cluster.session import actor
from cluster.settings import AgentsSection

STEPS_PER_S: Final = 2_000.0
P50_MS: Final = 2.0
P99_MS: Final = 10.0
_RECEIPT: Final = "x" * 1024


class Ledger(Guarded):
    """A connector that does nothing but remember what it was asked."""

    def __init__(self, make_guard: Callable[[], Guard]) -> None:
        super().__init__(make_guard())
        self._done: dict[str, dict[str, Any]] = {}

    def pid(self) -> int:
        return os.getpid()

    def perform(self, tool: str, key: str, ticket: str, args: dict[str, Any]) -> dict[str, Any]:
        """As `agents.connector.Connector.perform`."""
        assert key not in self._done, f"{tool} was done twice under {key}"
        self._done[key] = {"kind": tool, "text": _RECEIPT}
        return self._done[key]

    def find(self, key: str) -> dict[str, Any] | None:
        """As `agents.connector.Connector.find`."""
        return self._done.get(key)

    def count(self) -> int:
        """How many effects were done."""
        return len(self._done)


def workflows() -> dict[str, Workflow]:
    """A run of so many effects, which ends with the seconds that each took."""

    async def steps(turn: Turn) -> None:
        seconds: list[float] = []
        for number in range(int(turn.run.input["steps"])):
            began = time.perf_counter()
            args = {"reason": "needs_person", "summary": f"step {number}"}
            await turn.act(f"{number}", "escalate", args)
            seconds.append(time.perf_counter() - began)
        await turn.end("done", "all steps", {"seconds": seconds})

    return {"steps": steps}


def main() -> int:
    """Run, print the table, write the JSON; status 1 when STRICT=1 and a target is missed."""
    given = _arguments()
    figures: list[Figure] = []
    peers: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.disk)))
        stores = {"SQLite": (f"sqlite:///{folder}/journal.db", f"sqlite:///{folder}/dbos.db")}
        if why_not := postgres.reason_not_to():
            print(f"PostgreSQL is left out: {why_not}", file=sys.stderr)
        else:
            url = stack.enter_context(postgres.server(sync=True))
            stores["PostgreSQL"] = (url, url.replace("+psycopg", ""))
        stack.enter_context(ray_started())
        for store, (ours, theirs) in stores.items():
            print(f"{store}: {given.runs} runs of {given.steps} steps", file=sys.stderr)
            figures += _ours(store, ours, folder, given.runs, given.steps)
            if given.dbos:
                peers[store] = _dbos(given.dbos, theirs, given.runs, given.steps)
                figures += _told(f"DBOS on {store}", peers[store])
    return write(
        "durability", figures, peers={"dbos": peers},
        load=f"{given.runs} runs at once of {given.steps} steps each, 1 KB a result, and one run "
        "alone; full sync",
    )  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.durability")
    parser.add_argument("--runs", type=int, default=64, help="at once")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--disk", type=Path, help="folder on the disk to measure; default: /tmp")
    parser.add_argument("--dbos", help="a Python that has DBOS Transact, to measure beside")
    return parser.parse_args()


def _ours(store: str, url: str, folder: Path, runs: int, steps: int) -> list[Figure]:
    journal = functools.partial(sql_journal, url, folder)
    section = AgentsSection(concurrency=runs, interactive_slots=0, turn_timeout_s=LIMIT_S)
    with actors(journal, Ledger, (), workflows, section, folder) as orchestrator:
        _work(orchestrator, "warm", 1, 20)
        (alone,), _ = _work(orchestrator, "alone", 1, steps * 5)
        states, seconds = _work(orchestrator, "together", runs, steps)
        done = ray.get(actor(CONNECTOR).count.remote())
    assert done == 20 + steps * 5 + runs * steps, done
    measured = {
        "steps_per_s": sum(len(s) for s in states) / seconds,
        "alone_s": alone,
    }  # fmt: skip
    return _told(store, measured, (STEPS_PER_S, P50_MS, P99_MS))


def _told(
    name: str, measured: dict[str, Any], targets: tuple[float | None, ...] = (None, None, None)
) -> list[Figure]:
    p50, p99 = 1e3 * np.quantile(measured["alone_s"], [0.5, 0.99])
    return [
        Figure(f"{name}: steps/s", measured["steps_per_s"], targets[0], "at least"),
        Figure(f"{name}: one step alone, p50 ms", float(p50), targets[1]),
        Figure(f"{name}: one step alone, p99 ms", float(p99), targets[2]),
    ]


def _work(orchestrator: Any, name: str, runs: int, steps: int) -> tuple[list[list[float]], float]:
    """Seconds of every step by run, and seconds from the first submission to the last end."""
    began = time.perf_counter()
    ids = ray.get(
        [
            orchestrator.submit.remote("t", f"{name}-{i}", "steps", f"a-{i}", {"steps": steps})
            for i in range(runs)
        ],
        timeout=LIMIT_S,
    )
    states = ended(orchestrator, ids)
    seconds = time.perf_counter() - began
    return [s.ended.result["seconds"] for s in states if s.ended], seconds


def _dbos(python: str, url: str, runs: int, steps: int) -> dict[str, Any]:
    script = Path(__file__).parent / "peers" / "dbos_steps.py"
    done = subprocess.run(
        [python, str(script), url, str(runs), str(steps)],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the peer ended with {done.returncode}: {done.stderr[-600:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    sys.exit(main())
