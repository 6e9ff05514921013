"""Lists of runs and receipts: filtered, in pages that stay right, the same on both databases."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agents import looking
from agents.events import (
    EffectDone,
    EffectFailed,
    EffectParked,
    EffectResolved,
    EffectStarted,
    PhaseDone,
    RunEnded,
    StepDecided,
)
from agents.journal_schema import MIGRATIONS
from agents.journal_sql import SqlJournal
from agents.listed import Listed, ReceiptsAsked, RunsAsked
from agents.receipts import receipts
from cluster.database import Database
from cluster.errors import InvalidInput
from serve.cli import app
from tests.databases import server as server
from tests.databases import url as url
from tests.fakes import CountingIds, FakeClock
from tests.unit.test_agent_api import listening
from tests.whole import served

EVIL = "<b>'; DROP TABLE runs --\u202e"


def _decided(step: str = "pay", tool: str = "refund", answer: Any = "allow") -> StepDecided:
    return StepDecided(step=step, tool=tool, args={}, answer=answer, rule="cap", reason="why")


def _started(step: str = "pay") -> EffectStarted:
    return EffectStarted(step=step, tool="refund", key=f"k-{step}", args={})


ENDED = RunEnded(decision="replied", reason="done", result={"large": "x" * 100})
DONE = EffectDone(step="pay", key="k-pay", receipt={"kind": "refund"})
STORIES: dict[str, list[Any]] = {
    "done": [_decided(), _started(), DONE],
    "waits": [_decided(answer="ask")],
    "not done": [_decided(answer="deny")],
    "started": [_decided(), _started()],
    "refused": [_decided(), _started(), EffectFailed(step="pay", key="k-pay", code="c", reason="")],
    "unknown": [_decided(), _started(), EffectParked(step="pay", key="k-pay", reason="lost")],
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def journal(url: str, tmp_path: Path, clock: FakeClock) -> Iterator[SqlJournal]:
    made = SqlJournal(url, tmp_path, clock, CountingIds())
    yield made
    made.close()


def _run(
    journal: SqlJournal, key: str, events: list[Any], tenant: str = "t", workflow: str = "support",
    agent: str = "a",
) -> str:  # fmt: skip
    run, _ = journal.create(tenant, key, workflow, agent, {"ticket": key})
    journal.append(run, 0, events)
    return run


def _caught_up(journal: SqlJournal) -> Listed:
    lists = Listed(journal)
    while lists.look():
        continue
    return lists


def _ids(found: Callable[[Any], Any], asked: Any, more: Callable[[], None] = lambda: None) -> Any:
    """The ids on all pages, one page after the other; `more` happens between them."""
    ids: list[str] = []
    while True:
        page = found(asked)
        assert len(page.rows) <= asked.limit
        ids += [row.id for row in page.rows]
        if not page.more:
            return ids
        asked = replace(asked, after=page.rows[-1].id)
        more()


def test_runs_are_found_by_what_they_are_and_came_to(journal: SqlJournal, clock: FakeClock) -> None:
    first = _run(journal, "1", [ENDED], workflow="content", agent="b")
    clock.step(100)
    second = _run(journal, "2", [RunEnded(decision="escalated", reason="", result={})])
    third = _run(journal, "3", [PhaseDone(phase="plan", result={}, seconds=0.1)])
    _run(journal, "4", [ENDED], tenant="other")
    runs = _caught_up(journal).runs
    at = clock.now()
    for asked, ids in (
        ({}, [third, second, first]),
        ({"status": "ended"}, [second, first]),
        ({"status": "open"}, [third]),
        ({"decision": "replied"}, [first]),
        ({"workflow": "content"}, [first]),
        ({"agent": "a", "status": "ended"}, [second]),
        ({"since": at}, [third, second]),
        ({"until": at}, [first]),
        ({"agent": EVIL}, []),
    ):
        assert _ids(runs, RunsAsked(tenant="t", **asked)) == ids, asked
    (row,) = runs(RunsAsked(tenant="t", workflow="content")).rows
    assert (row.decision, row.ended_at, row.last_event) == ("replied", at - 100, 2)


@pytest.mark.parametrize("outcome", STORIES)
def test_a_line_says_of_a_step_what_its_receipt_says(journal: SqlJournal, outcome: str) -> None:
    run = _run(journal, "1", STORIES[outcome])
    lists = _caught_up(journal)
    (line,) = lists.receipts(ReceiptsAsked(tenant="t", outcome=outcome)).rows
    (receipt,) = receipts(run, journal.read(run))
    assert line.outcome == receipt["outcome"]["state"] == outcome
    assert (line.tool, line.answer, line.rule) == (
        receipt["action"]["tool"], receipt["decision"]["answer"], receipt["decision"]["rule"],
    )  # fmt: skip
    others = [o for o in STORIES if o != outcome]
    assert not any(lists.receipts(ReceiptsAsked(tenant="t", outcome=o)).rows for o in others)


def test_a_line_follows_its_step_however_often_it_is_looked_at(journal: SqlJournal) -> None:
    run = _run(journal, "1", [_decided(answer="ask")])
    lists = _caught_up(journal)
    for payload, outcome in (
        (_decided(), "not done"), (_started(), "started"),
        (EffectParked(step="pay", key="k-pay", reason=""), "unknown"),
        (EffectResolved(step="pay", key="k-pay", done=True, by="ann", note="", receipt={}), "done"),
    ):  # fmt: skip
        journal.append(run, 0, [payload])
        assert lists.runs(RunsAsked(tenant="t")).behind == 1
        assert lists.look() is False
        page = lists.receipts(ReceiptsAsked(tenant="t"))
        assert ([(r.seq, r.outcome) for r in page.rows], page.behind) == ([(2, outcome)], 0)


def test_receipts_are_found_by_run_tool_answer_and_time(
    journal: SqlJournal, clock: FakeClock
) -> None:
    one = _run(journal, "1", [_decided(), _decided("tag", "label", "deny")])
    clock.step(100)
    two = _run(journal, "2", [_decided(answer="ask")], workflow="shop", agent="b")
    _run(journal, "3", [_decided()], tenant="other")
    found = _caught_up(journal).receipts
    for asked, ids in (
        ({}, [f"{two}:2", f"{one}:3", f"{one}:2"]),
        ({"run": one}, [f"{one}:3", f"{one}:2"]),
        ({"tool": "label"}, [f"{one}:3"]),
        ({"answer": "ask"}, [f"{two}:2"]),
        ({"workflow": "support", "tool": "refund"}, [f"{one}:2"]),
        ({"agent": "b"}, [f"{two}:2"]),
        ({"since": clock.now()}, [f"{two}:2"]),
    ):
        assert _ids(found, ReceiptsAsked(tenant="t", **asked)) == ids, asked


def test_pages_stay_right_while_runs_are_added_and_move(
    journal: SqlJournal, clock: FakeClock
) -> None:
    made = [_run(journal, str(n), [_decided(), _decided("tag")]) for n in range(7)]
    lists = _caught_up(journal)
    lines = _ids(lists.receipts, ReceiptsAsked(tenant="t", limit=100))
    assert len(lines) == 14

    def more() -> None:
        run = _run(journal, f"new-{clock.now()}", [_decided()])
        journal.append(made[0], 0, [_started()])
        journal.append(run, 0, [ENDED])
        _caught_up(journal)
        clock.step(1)

    assert _ids(lists.runs, RunsAsked(tenant="t", limit=3), more) == made[::-1]
    assert _ids(lists.receipts, ReceiptsAsked(tenant="t", limit=3), more)[-14:] == lines


def test_what_an_earlier_version_has_journaled_is_taken_in(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(url, "journal", MIGRATIONS[:5], tmp_path).close()
    monkeypatch.setattr("agents.journal_schema.MIGRATIONS", MIGRATIONS[:5])
    earlier = SqlJournal(url, tmp_path, FakeClock(), CountingIds())
    made = [_run(earlier, str(n), [*STORIES["done"], ENDED]) for n in range(looking.AT_ONCE + 5)]
    earlier.close()
    monkeypatch.undo()
    journal = SqlJournal(url, tmp_path, FakeClock(), CountingIds())
    lists = Listed(journal)
    assert lists.runs(RunsAsked(tenant="t")).behind == len(made)
    assert lists.look() is True
    assert lists.runs(RunsAsked(tenant="t")).behind == 5
    assert lists.look() is False
    assert set(_ids(lists.runs, RunsAsked(tenant="t", decision="replied"))) == set(made)
    assert len(_ids(lists.receipts, ReceiptsAsked(tenant="t", outcome="done"))) == len(made)
    journal.close()


def test_a_long_run_is_taken_in_a_part_at_a_time(
    journal: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "_EVENTS", 3)
    run = _run(journal, "1", [_decided(f"s{n}") for n in range(7)])
    lists = Listed(journal)
    seen = []
    while lists.look():
        seen.append(len(lists.receipts(ReceiptsAsked(tenant="t", run=run)).rows))
    assert seen == [2, 5]
    assert len(lists.receipts(ReceiptsAsked(tenant="t", run=run)).rows) == 7


def test_an_event_that_somebody_changed_keeps_no_other_out_of_the_list(
    journal: SqlJournal,
) -> None:
    bad = _run(journal, "1", [_decided()])
    good = _run(journal, "2", [_decided()])
    with journal.connection() as connection:
        broken = f"UPDATE events SET payload = 'x' WHERE run_id = '{bad}' AND seq = 2"
        connection.exec_driver_sql(broken)
    page = _caught_up(journal).receipts(ReceiptsAsked(tenant="t"))
    assert ([r.run for r in page.rows], page.behind) == ([good], 0)


def test_those_who_look_at_once_note_nothing_twice(journal: SqlJournal) -> None:
    made = [_run(journal, str(n), [_decided(), ENDED]) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Listed(journal).look(), range(8)))
    lists = _caught_up(journal)
    assert len(_ids(lists.receipts, ReceiptsAsked(tenant="t"))) == len(made)


@pytest.mark.parametrize(
    ("kind", "asked", "named"),
    [
        (RunsAsked, {"status": "over"}, "status"), (RunsAsked, {"limit": 0}, "limit"),
        (RunsAsked, {"limit": 101}, "limit"), (RunsAsked, {"agent": "a\0"}, "agent"),
        (RunsAsked, {"since": 5.0, "until": 5.0}, "until"),
        (RunsAsked, {"after": "run_none"}, "after"), (RunsAsked, {"after": EVIL}, "after"),
        (ReceiptsAsked, {"answer": "maybe"}, "answer"),
        (ReceiptsAsked, {"outcome": "x"}, "outcome"), (ReceiptsAsked, {"after": "run_1"}, "after"),
        (ReceiptsAsked, {"after": "run_1:2"}, "after"),
        (ReceiptsAsked, {"after": f"run_1:{'9' * 30}"}, "after"),
    ],
)  # fmt: skip
def test_what_can_not_be_listed_is_named(
    journal: SqlJournal, kind: type[Any], asked: dict[str, Any], named: str
) -> None:
    _run(journal, "1", [_decided()], tenant="other")
    lists = _caught_up(journal)
    with pytest.raises(InvalidInput) as told:
        found = kind(tenant="t", **asked)
        (lists.runs if kind is RunsAsked else lists.receipts)(found)
    assert told.value.field == named


def test_a_page_of_another_tenant_is_none(journal: SqlJournal) -> None:
    run = _run(journal, "1", [_decided()], tenant="other")
    lists = _caught_up(journal)
    for ask in (
        partial(lists.runs, RunsAsked(tenant="t", after=run)),
        partial(lists.receipts, ReceiptsAsked(tenant="t", after=f"{run}:2")),
    ):
        with pytest.raises(InvalidInput):
            ask()


@pytest.mark.enable_socket
def test_over_http_pages_are_asked_for_by_the_last_id(tmp_path: Path) -> None:
    with served(tmp_path, listening) as (at, world):
        for _ in range(3):
            body = {"workflow": "conversation"}
            httpx.post(f"{at}/v1/runs", json=body).raise_for_status()
        run = _run(world.journal, "mine", [*STORIES["done"], ENDED], "default", "shop")
        first = httpx.get(f"{at}/v1/runs", params={"limit": 3}).json()
        assert (first["has_more"], first["behind"], len(first["data"])) == (True, 0, 3)
        assert first["data"][0]["id"] == first["first_id"] == run
        assert first["data"][0]["decision"] == "replied"
        asked = {"limit": 3, "after": first["last_id"]}
        rest = httpx.get(f"{at}/v1/runs", params=asked).json()
        assert (rest["has_more"], len(rest["data"])) == (False, 1)
        lines = httpx.get(f"{at}/v1/receipts", params={"tool": "refund"}).json()["data"]
        assert [(line["run"], line["outcome"]) for line in lines] == [(run, "done")]
        for path, given in (
            ("runs", {"status": "x"}), ("runs", {"since": "x"}), ("runs", {"limit": "x"}),
            ("runs", {"after": "run_no"}), ("receipts", {"outcome": "x"}),
            ("receipts", {"since": "2026-01-02", "until": "2026-01-01"}),
        ):  # fmt: skip
            answer = httpx.get(f"{at}/v1/{path}", params=given)
            assert (answer.status_code, answer.json()["error"]["param"]) == (
                400, list(given)[-1],
            ), given  # fmt: skip


def test_the_command_line_lists_filters_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    clock, made = FakeClock(), []
    journal = SqlJournal("sqlite:///journal.db", tmp_path, clock, CountingIds())
    for n in range(105):
        clock.step(1)
        made.append(_run(journal, f"T-{n} [red]", [_decided(), ENDED], "default"))
    journal.close()

    def told(*words: str) -> list[str]:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.exception
        return done.output.splitlines()

    lines = told("runs", "list", "--limit", "103")
    assert [line.split()[0] for line in lines[1:]] == made[:1:-1]
    assert "T-104 [red]" in lines[1]
    assert len(told("runs", "list", "--status", "open")) == 1
    (line,) = told("runs", "list", "--after", made[1], "--json")
    assert json.loads(line)["id"] == made[0]
    lines = told("audit", "list", "--run", made[3], "--outcome", "not done")
    assert f"{made[3]}:2" in lines[1] and "refund" in lines[1] and len(lines) == 2
    refused = CliRunner().invoke(app, ["audit", "list", "--answer", "maybe"])
    assert isinstance(refused.exception, InvalidInput)
