"""The figures of the reference checkpoints: they follow from the answers, and can be missed."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reference, report
from benchmarks.reference import Answered, by_kind, drawn, promised, reported
from benchmarks.report import Figure
from serve.distill.corpus import Example
from serve.distill.sampling import Prompt, Sampled

Write = Callable[[str], str]


def answered(name: str, values: Sequence[bool], kind: str = "draft") -> list[Answered]:
    return [Answered(Example(kind, [], ""), "", {name: value}) for value in values]


def figure(figures: Sequence[Figure], ending: str) -> Figure:
    (found,) = [f for f in figures if f.name.endswith(ending)]
    return found


@pytest.mark.parametrize(("right", "met"), [(97, True), (96, False)])
def test_a_share_is_met_from_its_target_on(right: int, met: bool) -> None:
    plans = answered("plan_right", [True] * right + [False] * (100 - right), "plan")
    found = figure(promised("planner", plans), "whole plan")
    assert (found.value, found.count, found.met) == (right / 100, 100, met)
    # Wilson's interval at 95 %.
    assert found.interval is not None
    low, high = found.interval
    assert low < right / 100 < high
    if right == 97:
        assert (round(low, 4), round(high, 4)) == (0.9155, 0.9897)


@pytest.mark.parametrize(("wrong", "met"), [(1, True), (2, False)])
def test_facts_in_no_evidence_must_stay_below_their_target(wrong: int, met: bool) -> None:
    replies = answered("ungrounded", [True] * wrong + [False] * (200 - wrong))
    found = figure(promised("planner", replies), "no evidence")
    assert (found.value, found.met) == (wrong / 200, met)


@pytest.mark.parametrize("model", ["planner", "routine"])
def test_what_no_example_tells_of_is_missed(model: str) -> None:
    found = promised(model, [])
    assert [f.met for f in found] == [False] * len(found)
    assert all(f.count == 0 for f in found)


def test_each_model_has_the_promises_of_its_own() -> None:
    names = {m: [f.name for f in promised(m, [])] for m in ("planner", "routine")}
    assert len(names["planner"]) == len(names["routine"]) == 6
    assert not any("summary" in name for name in names["planner"])
    assert not any("plan" in name.split(": ")[1] for name in names["routine"])


def test_what_is_only_reported_has_no_target() -> None:
    found = reported("routine", answered("exact", [True, False]))
    assert [(f.name, f.value, f.met) for f in found] == [("routine: exact", 0.5, None)]


def test_counts_are_kept_for_each_kind() -> None:
    several = answered("exact", [True, False], "chat") + answered("garbled", [False], "posts")
    assert by_kind(several) == {"chat": {"exact": [1, 2]}, "posts": {"garbled": [0, 1]}}


def test_no_chat_is_asked_twice() -> None:
    asked = [json.dumps([e.messages, e.tools]) for e in drawn("routine", "test", 200)]
    assert len(set(asked)) == len(asked) == 200


@pytest.mark.parametrize(("write", "status"), [(str, 0), (lambda right: right[:-1], 1)])
def test_the_benchmark_passes_right_answers_and_fails_cut_ones(
    write: Write, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, rows = run(write, tmp_path, monkeypatch, status)
    promises = [f for f in document["figures"] if f["count"] is not None and f["target"]]
    assert len(promises) == 12
    if not status:
        assert all(f["met"] for f in promises)
    assert {"planner", "routine"} == {row["model"] for row in rows}
    assert len(rows) == 2 * 250
    assert all(row["written"] == write(row["expected"]) for row in rows)
    assert any(row["failed"] for row in rows) is bool(status)
    assert (tmp_path / "reference.png").stat().st_size > 1000


def run(
    write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The benchmark over answers that are `write` of the expected ones."""
    count = 250
    right = {
        json.dumps(e.messages): e.answer
        for model in ("planner", "routine")
        for e in drawn(model, "test", count)
    }

    def canned(
        checkpoint: Path, prompts: Sequence[Prompt], *, whole: bool = False, **given: Any
    ) -> Sampled:
        if whole:
            return Sampled([], 3200 if checkpoint.name == "routine" else 1000, 1.0, 0)
        return Sampled([write(right[json.dumps(p.messages)]) for p in prompts], 1, 1.0, 0)

    arguments = ["reference", "--count", str(count), "--examples", str(folder / "rows.jsonl")]
    monkeypatch.setattr(reference, "answers", canned)
    monkeypatch.setattr(report, "RESULTS", folder)
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("STRICT", "1")
    assert reference.main() == status
    document = json.loads((folder / "reference.json").read_text("utf-8"))
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text("utf-8").splitlines()]
    return document, rows


def test_the_speeds_must_be_three_to_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def canned(checkpoint: Path, prompts: Sequence[Prompt], **given: Any) -> Sampled:
        assert given["whole"] and len(prompts) == 4 * 8
        return Sampled([], 290 if checkpoint.name == "planner" else 1000, 1.0, 0)

    monkeypatch.setattr(reference, "answers", canned)
    folders = {m: tmp_path / m for m in ("planner", "routine")}
    found = reference._speeds(folders, "0", 8)
    assert [f.met for f in found] == [False, True, True]
    assert found[-1].value == pytest.approx(3.45)
    assert len(reference._speeds({"planner": tmp_path / "planner"}, "0", 8)) == 1
