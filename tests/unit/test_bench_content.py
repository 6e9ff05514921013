"""make bench-content counts what it says that it counts."""

from pathlib import Path
from typing import Any

import pytest

from agents.evaluation import cases
from agents.packs import load
from agents.rehearsal import Script
from agents.workflows.content.evaluation import Told, mixed, strange, tried
from benchmarks.content import figures
from tests.content import GoodWriter

LAMP: dict[str, Any] = {
    "topic": "the oak lamp", "audience": "students", "tone": "calm",
    "fit": ["The oak lamp is 40 cm high.", "The oak lamp costs 49.90 EUR."],
    "not": ["The pine lamp costs 20 EUR."],
}  # fmt: skip


def test_the_evaluation_set_is_large_and_whole() -> None:
    found = cases(load(["content"])["content"])
    assert len(found) >= 60
    assert len({case["topic"] for case in found}) == len(found)
    for case in found:
        assert case["not"] and sorted(mixed(case)) == sorted([*case["fit"], *case["not"]])
    assert sum(not case["fit"] for case in found) >= 2


async def test_a_good_writer_s_case_is_right(tmp_path: Path) -> None:
    told = await tried(LAMP, tmp_path, GoodWriter())
    assert (told.wrong, told.outlined, told.strange) == ("", True, ())
    assert set(told.by) == {"model"} and told.statements == 5


async def test_a_case_that_expects_something_else_is_wrong(tmp_path: Path) -> None:
    case = {**LAMP, "fit": [*LAMP["fit"], "It is bright."], "not": LAMP["not"]}
    told = await tried(case, tmp_path, GoodWriter())
    assert told.wrong == "left out: It is bright." and not told.outlined
    nothing = {**LAMP, "fit": [], "not": LAMP["not"]}
    assert (await tried(nothing, tmp_path / "b", GoodWriter())).wrong == ""


async def test_without_a_model_all_is_composed_and_nothing_invented(tmp_path: Path) -> None:
    told = await tried(LAMP, tmp_path, Script(["NO_ANSWER"]))
    assert (told.wrong, told.outlined, told.strange) == ("", False, ())
    assert set(told.by) == {"composed"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Have a look. The oak lamp is 40 cm high.", []),
        ("The oak lamp is 41 cm high.", ["41"]),
        ("The oak lamp is 40 cm high and golden.", ["golden"]),
        ("The pine lamp costs 20 EUR.", ["pine", "20"]),
    ],
)
def test_what_is_in_no_fact_is_strange(text: str, expected: list[str]) -> None:
    assert strange(text, LAMP) == expected


def test_figures_are_shares() -> None:
    told = [
        Told("a", "", True, (), 4, ("model", "model"), 1.0),
        Told("b", "left out: x", False, ("y",), 6, ("composed", "model"), 2.0),
    ]
    assert [f.value for f in figures(told)] == [0.5, 0.5, 0.1, 0.25, 2.0]
    assert [f.met for f in figures(told)] == [False, None, False, None, True]
