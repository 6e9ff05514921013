"""The demo: what is worked on, what is reported, and when it starts afresh."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.events import RunEnded
from agents.state import RunState
from cluster.errors import InvalidInput
from cluster.settings import Settings, load
from serve.demo import (
    Queue,
    banking_queue,
    clear_unless_unfinished,
    fill,
    finished,
    offer,
    own_settings,
    percentile,
    shipped_queue,
    totals,
    work,
)
from tests.fakes import FakeClock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return own_settings(load(data_dir=tmp_path))


@pytest.fixture
def banking(tmp_path: Path) -> Path:
    """A folder as Banking77's: 3 questions to train on, 10 to test with."""
    folder = tmp_path / "banking77"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 10)):
        with gzip.open(folder / f"{split}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "category"])
            writer.writerows([f"{split}, question {i}?", f"label_{i}"] for i in range(count))
    return tmp_path


def test_the_shipped_queue_has_thirty_tickets_and_something_to_remember() -> None:
    queue = shipped_queue(load())
    assert len({t["id"] for t in queue.tickets}) == 30
    assert queue.past
    assert all(path.is_dir() for _, path in queue.memories)


def test_a_queue_of_banking77_is_drawn_with_the_seed(banking: Path) -> None:
    queue = banking_queue(banking, 4, seed=1)
    assert queue == banking_queue(banking / "banking77", 4, seed=1)
    assert queue.tickets != banking_queue(banking, 4, seed=2).tickets
    assert [t["body"] for t in queue.tickets] == [
        f"test, question {t['id']}?" for t in queue.tickets
    ]
    assert queue.past[0] == ("ticket:train-0", "train, question 0?", {"intent": "label_0"})
    assert queue.workflow == "triage"


@pytest.mark.parametrize("count", [0, -1, 11])
def test_more_questions_than_there_are_can_not_be_drawn(banking: Path, count: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 10"):
        banking_queue(banking, count, seed=1)


def test_a_folder_without_the_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        banking_queue(tmp_path, 1, seed=1)
    assert (caught.value.field, caught.value.value) == ("data", str(tmp_path))


QUEUE = Queue(
    "shop", "default", "support", "support", [{"id": "T-1", "customer": "C", "body": "b"}]
)


def _leave(settings: Settings) -> list[Path]:
    names = ("journal.db", "journal.db-wal", "desk.db", "memory.db/part/x", "heads/support.json")
    paths = [settings.data_dir / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return paths


def test_a_killed_demo_is_taken_up_again(settings: Settings) -> None:
    assert clear_unless_unfinished(settings, QUEUE) is False
    paths = _leave(settings)
    assert clear_unless_unfinished(settings, QUEUE) is True
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("how", ["finished", "other queue", "broken mark"])
def test_otherwise_it_starts_afresh_and_keeps_what_is_no_store(
    settings: Settings, how: str
) -> None:
    other = Queue("shop", "default", "support", "support", [{"id": "T-2"}])
    clear_unless_unfinished(settings, other if how == "other queue" else QUEUE)
    paths = _leave(settings)
    if how == "finished":
        finished(settings)
    if how == "broken mark":
        (settings.data_dir / "queue.json").write_text("{")
    assert clear_unless_unfinished(settings, QUEUE) is False
    assert [p.name for p in paths if p.exists()] == ["support.json"]


def test_the_demos_data_lie_apart_from_the_stacks(tmp_path: Path) -> None:
    assert own_settings(load(data_dir=tmp_path)).data_dir == tmp_path / "demo"


class Remote:
    """An object whose methods are called as an actor's: `.method.remote(...)`."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def remote(*args: Any) -> Any:
            return method(*args)

        return SimpleNamespace(remote=remote)


class Backstage:
    """Orchestrator, connector and memory in one; ends one run a wait, last submitted first."""

    def __init__(self) -> None:
        self.submitted: list[tuple[Any, ...]] = []
        self.opened: list[dict[str, str]] = []
        self.records: list[Any] = []
        self.ingested: list[tuple[str, str]] = []

    def submit(self, *args: Any) -> str:
        self.submitted.append(args)
        return f"run_{args[1]}"

    def wait(self, run_ids: list[str], timeout_s: float) -> list[RunState]:
        run_id = run_ids[-1]
        replied = run_id.endswith("T-1")
        ended = RunEnded(
            decision="replied" if replied else "escalated",
            reason="grounded" if replied else "no plan: nothing fits",
            result={"intent": "warranty", "confidence": 0.91, "usage": USAGE if replied else []},
        )
        now = FakeClock().now()
        return [
            RunState(run_id, started_at=now, claimed_at=now + 1, ended_at=now + 3.5, ended=ended)
        ]

    def sent(self, ticket: str) -> str:
        return f"reply to {ticket}"

    def open_tickets(self, tickets: list[dict[str, str]]) -> int:
        self.opened += tickets
        return len(tickets)

    def remember(self, records: list[Any]) -> None:
        self.records += records

    def ingest(self, tenant: str, path: str, kind: str) -> Any:
        self.ingested.append((tenant, kind))
        return SimpleNamespace(added=2, known=1)


USAGE = [
    {"model": "planner", "prompt_tokens": 100, "completion_tokens": 20, "cost_usd": 0.5},
    {"model": "routine", "prompt_tokens": 200, "completion_tokens": 30, "cost_usd": 0.25},
]
TWO = Queue(
    "shop", "default", "support", "support",
    [{"id": f"T-{i}", "customer": "C-1", "subject": "", "body": "b", "received": "x"}
     for i in (1, 2)],
    memories=[("policy", Path("policies"))], past=[("ticket:1", "late", {"intent": "x"})],
)  # fmt: skip


def _stack() -> tuple[Any, Backstage]:
    backstage = Backstage()
    remote = Remote(backstage)
    return SimpleNamespace(orchestrator=remote, connector=remote, memory=remote), backstage


async def test_every_ticket_gets_one_row_in_the_queues_order() -> None:
    stack, backstage = _stack()
    shown: list[dict[str, Any]] = []
    rows = await work(stack, TWO, shown.append)
    assert [r["id"] for r in rows] == ["T-1", "T-2"]
    assert [r["id"] for r in shown] == ["T-2", "T-1"]
    first, second = rows
    assert (first["reply"], second["reply"]) == ("reply to T-1", None)
    assert (first["model"], second["model"]) == ("planner+routine", "intent-head")
    assert first["tokens"] == {"prompt": 300, "completion": 50}
    assert first["cost_usd"] == 0.75
    assert (first["queued_ms"], first["latency_ms"]) == (1000.0, 2500.0)
    assert [s[1] for s in backstage.submitted] == ["shop:T-1", "shop:T-2"]
    assert {s[3] for s in backstage.submitted} == {"support/C-1"}


async def test_triage_gives_each_ticket_an_agent_of_its_own() -> None:
    stack, backstage = _stack()
    queue = Queue("banking77", "b", "triage", "banking77", TWO.tickets)
    await work(stack, queue, lambda row: None)
    assert [s[3] for s in backstage.submitted] == ["triage/T-1", "triage/T-2"]


async def test_memory_and_desk_are_filled_before_the_work() -> None:
    stack, backstage = _stack()
    said: list[str] = []
    await fill(stack, TWO, said.append)
    assert backstage.ingested == [("default", "policy")]
    assert [(r.source, r.meta) for r in backstage.records] == [("ticket:1", {"intent": "x"})]
    assert backstage.opened == TWO.tickets
    assert said == ["memory: 3 passages of kind policy", "memory: 1 of 1 past tickets"]


async def test_the_totals_add_up_and_compare_with_the_planner_alone() -> None:
    stack, _ = _stack()
    rows = await work(stack, TWO, lambda row: None)
    sums = totals(rows, load(), seconds=2.0)
    assert (sums["tickets"], sums["automated"], sums["escalated"]) == (2, 1, 1)
    assert sums["escalated_by_reason"] == {"no plan": 1}
    assert sums["by_model"]["planner"] == {
        "calls": 1, "prompt_tokens": 100, "completion_tokens": 20, "cost_usd": 0.5,
    }  # fmt: skip
    assert sums["cost_usd"] == 0.75
    # 300 prompt tokens at 0.40 and 50 generated ones at 1.20 USD a million
    assert sums["cost_usd_planner_alone"] == pytest.approx(300 * 0.4e-6 + 50 * 1.2e-6)
    assert sums["latency_ms_p50"] == 2500.0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([7.0], 0.95, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(i) for i in range(1, 31)], 0.95, 29.0),
        ([float(i) for i in range(1, 101)], 0.95, 95.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("reason", "customers", "asked"),
    [
        ("refund needs a person: over the cap", ("C-1", "C-2"), True),
        ("refund needs a person: over the cap", ("C-1", "C-1"), False),
        ("no plan: nothing fits", ("C-1", "C-2"), False),
    ],
)
async def test_a_person_is_asked_about_a_refund_of_who_asked_for_nothing_else(
    reason: str, customers: tuple[str, str], asked: bool
) -> None:
    stack, backstage = _stack()
    waits = SimpleNamespace(run_id="run_shop:T-1:asked", cents=4200)
    backstage.approvals = lambda _tenant: [waits]  # type: ignore[attr-defined]
    tickets = [{**t, "customer": c} for t, c in zip(TWO.tickets, customers, strict=True)]
    rows = [{"id": "T-1", "reason": reason}, {"id": "T-2", "reason": "grounded"}]
    found = await offer(stack, replace(TWO, tickets=tickets), rows)
    assert found == (waits if asked else None)
    assert [s[-1].asks for s in backstage.submitted] == (["wait"] if asked else [])
