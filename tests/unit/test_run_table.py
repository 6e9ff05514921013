"""Runs over a table: one a row, begun once however often the table is run."""

import json
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Unavailable
from serve import run_table as tables
from serve.problems import Refused
from serve.run_table import Row, Told, key_of, rows_of, run_table


class Stack:
    """Stands for `serve.client.Client`: ends every run at once. `busy` begins are told to come
    again first, `refused` is the field value that it takes offence at."""

    def __init__(self, busy: int = 0, refused: str = "bad", ends: bool = True) -> None:
        self.busy, self.refused, self.ends = busy, refused, ends
        self.runs: dict[str, dict[str, Any]] = {}
        self.at_once = self.most = 0

    async def begin(self, workflow: str, given: dict[str, Any], *, key: str) -> dict[str, Any]:
        if self.busy:
            self.busy -= 1
            raise Refused(429, "runs: 10 are open", "overloaded", None)
        if self.refused in given.values():
            raise Refused(400, "input.n is bad", "invalid_input", "input.n")
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        made = {"id": f"run_{key}", "status": "open", "given": given, "workflow": workflow}
        return self.runs.setdefault(key, made)

    async def follow(self, id: str, timeout_s: float) -> AsyncIterator[dict[str, Any]]:
        yield {"seq": 1}

    async def run(self, id: str) -> dict[str, Any]:
        self.at_once -= 1
        run = self.runs[id.removeprefix("run_")]
        if self.ends:
            run |= {"status": "ended", "decision": "done", "result": {"usage": [{"cost_usd": 0.5}]}}
        return run


async def _all(stack: Any, rows: list[Row], at_once: int = 4, timeout_s: float = 5.0) -> list[Told]:
    return [told async for told in run_table(stack, "shop", rows, "k", at_once, timeout_s)]


def test_columns_are_fields_and_empty_cells_are_none() -> None:
    table: list[dict[str, Any]] = [
        {"custom_id": "a", "n": 1, "note": ""},
        {"n": 2, "note": None, "x": date(2026, 11, 20)},
    ]
    assert rows_of(table, {"task": "copy", "n": 0}) == [
        Row("a", {"task": "copy", "n": 1}),
        Row("row-2", {"task": "copy", "n": 2, "x": "2026-11-20"}),
    ]


async def test_the_same_table_begins_nothing_twice_and_bounds_what_is_at_once() -> None:
    stack, rows = Stack(), [Row(f"r{n}", {"n": n}) for n in range(20)]
    told = await _all(stack, rows)
    assert sorted(t.row.id for t in told) == sorted(r.id for r in rows)
    assert all(t.ended for t in told)
    assert sum(t.usd for t in told) == 10.0
    assert stack.most <= 4
    await _all(stack, rows)
    assert len(stack.runs) == 20


async def test_what_is_refused_is_told_by_its_row_and_the_others_go_on() -> None:
    told = await _all(Stack(), [Row("a", {"n": "bad"}), Row("b", {"n": 1})])
    by = {t.row.id: t for t in told}
    assert (by["a"].error, by["a"].ended) == ("input.n is bad", True)
    assert json.loads(by["a"].line())["error"] == "input.n is bad"
    assert json.loads(by["b"].line())["decision"] == "done"


async def test_a_busy_stack_is_asked_again_until_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "_PAUSE_S", 0.01)
    (told,) = await _all(Stack(busy=3), [Row("a", {})])
    assert told.error == ""
    (late,) = await _all(Stack(busy=10**9), [Row("a", {})], timeout_s=0.05)
    assert "10 are open" in late.error


async def test_a_run_that_has_not_ended_is_told_as_it_stands() -> None:
    (told,) = await _all(Stack(ends=False), [Row("a", {})])
    assert not told.ended

    class Away(Stack):
        async def run(self, id: str) -> dict[str, Any]:
            raise Unavailable("the gateway", "it went away")

    (lost,) = await _all(Away(), [Row("a", {})])
    assert "it went away" in lost.error


def test_a_tables_key_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n\n1\n")
    (tmp_path / "b.csv").write_text("n\n1\n")
    (tmp_path / "c.csv").write_text("n\n2\n")
    keys = {name: key_of(tmp_path / f"{name}.csv") for name in "abc"}
    assert keys["a"] == keys["b"] != keys["c"]
