"""One look at a running stack: whoever answers is shown, whoever does not is named."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.errors import Unavailable
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection
from serve.books import Books
from serve.budget_table import Budget
from serve.budgets import NANO, Caller
from serve.directory import Online, Replica
from serve.ledger import Used
from serve.status import Status, look, shown

METRICS = b"""# HELP mainspring_runs Runs in the journal
# TYPE mainspring_runs gauge
mainspring_runs{status="open"} 2.0
mainspring_runs{status="parked"} 1.0
mainspring_runs{status="ended"} 90.0
# HELP mainspring_turns_waiting Turns that wait for a slot
# TYPE mainspring_turns_waiting gauge
mainspring_turns_waiting{orchestrator="a",priority="interactive"} 3.0
mainspring_turns_waiting{orchestrator="b",priority="background"} 4.0
"""
TOLD: dict[tuple[str, str], Any] = {
    ("directory", "snapshot"): [Replica("e1", "planner", "http://x", 3, 2, "", 0.25)],
    ("directory", "online"): Online(0.04, 5, 1.0),
    ("scaler", "state"): [
        {"application": "engine-planner@x", "ready": 1, "target": 3, "reason": "40 requests"}
    ],
    ("bulk", "state"): {"batches": 1, "under_way": 7, "limit": 8, "why": "nobody waits online"},
    ("orchestrator", "metrics"): METRICS,
    ("orchestrator", "approvals"): [object(), object()],
}
NODES = [{"address": "10.0.0.1", "alive": True, "resources": {"CPU": 2.0}}]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    made.budgets.put(Budget("t", "tenant", "t", "day", 2 * NANO))
    made.reservations.settle("h", Caller("t", "k"), Used("r", "planner", 200, 9, 9, NANO // 2))
    yield made
    made.shut()


def found(books: Books, silent: tuple[str, ...] = ()) -> Status:
    def ask(actor: str, method: str, *_: Any) -> Any:
        if actor in silent:
            raise Unavailable(actor, "ActorDiedError")
        return TOLD[actor, method]

    return look("http://127.0.0.1:8000", "t", ask, ["orchestrator"], books, NODES, elastic=True)


def text(status: Status) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(shown(status))
    return console.export_text()


def test_all_that_answers_is_in_it(books: Books) -> None:
    status = found(books)
    assert (status.runs, status.turns_waiting) == ({"open": 2, "parked": 1}, 7)
    assert status.approvals == 2
    assert [(b.kind, b.spent_usd, b.limit_usd) for b in status.budgets] == [("tenant", 0.5, 2.0)]
    told = text(status)
    for part in (
        "planner", "25%", "5 in work, first token within 40 ms", "2 open, 1 parked",
        "2 wait for a person", "7 lines of 8", "$0.5000 of $2.00", "10.0.0.1",
    ):  # fmt: skip
        assert part in told, part


def test_a_part_that_is_silent_is_named_and_hides_no_other(books: Books) -> None:
    status = found(books, silent=("directory", "bulk"))
    assert set(status.silent) == {"directory", "bulk"}
    assert status.runs == {"open": 2, "parked": 1}
    assert "ActorDiedError" in text(status)


def test_what_scripts_get_is_json(books: Books) -> None:
    body = found(books, silent=("directory",)).body()
    assert body["online"]["ago_s"] is None
    assert body["engines"] == []
    assert body["silent"]["directory"]


def test_the_replicas_of_elastic_models_are_shown_with_the_reason(books: Books) -> None:
    assert "engine-planner@x: 1 of 3 replicas; 40 requests" in text(found(books))
