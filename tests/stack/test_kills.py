"""SIGKILL of the agent host and the orchestrator in the middle of a queue."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest

from tests.stack.conftest import ROOT, Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

COUNT, KILLS = 40, 3


def test_killed_in_the_queue_every_ticket_is_decided_exactly_once(demo: Demo) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.queue_under_kills", str(demo.home), str(COUNT),
         str(KILLS)],
        cwd=ROOT, env=demo.environment, capture_output=True, text=True, timeout=380,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["killed"]) == 2 * KILLS
    assert len(told["ended"]) == told["runs"] == COUNT
    assert max(told["epochs"]) > 1, "no run was taken up again: the kills hit nothing"
    assert all(length > 3 for length in told["chains"])
    marks = ",".join("?" * COUNT)
    with sqlite3.connect(f"file:{demo.home}/demo/journal.db?mode=ro", uri=True) as journal:
        ends = journal.execute(
            f"SELECT run_id FROM events WHERE run_id IN ({marks}) AND payload LIKE"
            ' \'{"kind":"run_ended"%\'',
            told["run_ids"],
        ).fetchall()
    assert Counter(r for (r,) in ends) == Counter(told["run_ids"])
    with sqlite3.connect(f"file:{demo.home}/demo/desk.db?mode=ro", uri=True) as desk:
        per_ticket = {
            kind: Counter(
                ticket
                for (ticket,) in desk.execute(
                    "SELECT ticket FROM effects WHERE kind = ? AND ticket LIKE 'K-%'", (kind,)
                )
            )
            for kind in ("reply", "refund", "escalate")
        }
    for kind, tickets in per_ticket.items():
        assert all(times == 1 for times in tickets.values()), (kind, tickets)
    decided = Counter(per_ticket["reply"]) + Counter(per_ticket["escalate"])
    assert decided == Counter({f"K-{i:03}": 1 for i in range(COUNT)})
    for ticket, decision in told["ended"].items():
        assert (decision == "replied") == (ticket in per_ticket["reply"])
