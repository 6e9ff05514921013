"""Evaluation: a candidate is compared on held-out chats; the verdict follows from the scores."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.workflows.prompts import NO_ANSWER, Evidence, draft_messages, plan_messages
from cluster.errors import InvalidInput, Unavailable
from serve.distill import evaluate as module
from serve.distill.chats import Message, TracedChat, write_chats
from serve.distill.cli import distill
from serve.distill.corpus import Example
from serve.distill.digest import digest
from serve.distill.evaluate import compared, corpus_chats, evaluate, score
from serve.distill.sampling import Prompt, Sampled

LETTER = "(E1) Your order [ORDER_1] is shipped.\nKind regards"
PLAN = '{"steps": [{"tool": "lookup_order", "order": "[ORDER_1]"}, {"tool": "reply"}]}'
FOLDERS = ("candidate", "incumbent")


def draft(answer: str) -> Example:
    evidence = [Evidence("E1", "order", "Order [ORDER_1] is shipped; item lamp.")]
    messages = draft_messages(ticket="[ORDER_1]?", intent="order_status", evidence=evidence)
    return Example("draft", messages, answer)


def plan(answer: str) -> Example:
    messages = plan_messages(
        ticket="[ORDER_1]?", intent="x", history="", evidence=[],
        tools=["lookup_order(order)", "reply()"],
    )  # fmt: skip
    return Example("plan", messages, answer)


@pytest.mark.parametrize(
    ("example", "answer", "expected"),
    [
        (plan(PLAN), PLAN, 1.0),
        (plan(PLAN), json.dumps(json.loads(PLAN), indent=1), 1.0),
        (plan(PLAN), PLAN.replace("ORDER_1", "ORDER_2"), 0.0),
        (plan(PLAN), PLAN[:-1], 0.0),
        (draft(LETTER), LETTER, 1.0),
        (draft(LETTER), "(E1) Order [ORDER_1] with the lamp is shipped.", 1.0),
        (draft(LETTER), "(E1) Order [ORDER_1] is on a boat to Norway.", 0.0),
        (draft(LETTER), "(E1) Your order is shipped.", 0.0),
        (draft(LETTER), NO_ANSWER, 0.0),
        (draft(LETTER), "", 0.0),
        (draft(NO_ANSWER), NO_ANSWER, 1.0),
        (draft(NO_ANSWER), LETTER, 0.0),
        # Written anew by a person, without a citation: compared as text.
        (draft("We sent [ORDER_1] today."), "We sent [ORDER_1] today.", 1.0),
        (draft("We sent [ORDER_1] today."), "We lost [ORDER_1] today.", 0.75),
        (plan("I would look it up."), "I would look it up.", 1.0),
        (Example("chat", [], "pay [AMOUNT_1] now"), "pay [AMOUNT_1] now", 1.0),
        (Example("chat", [], "pay [AMOUNT_1] now"), "pay now", 0.0),
        (Example("chat", [], "pay [AMOUNT_1] now"), "pay [AMOUNT_1] or [AMOUNT_2] now", 0.0),
        (Example("chat", [], "hello there"), "can can can can", 0.0),
        (Example("chat", [], "hello there"), "hello", pytest.approx(2 / 3)),
    ],
)
def test_an_answer_is_scored_against_the_accepted_one(
    example: Example, answer: str, expected: float
) -> None:
    assert score(example, answer) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1.0] * 100, [1.0] * 80 + [0.0] * 20, "better"),
        ([1.0] * 80 + [0.0] * 20, [1.0] * 100, "worse"),
        ([1.0] * 90 + [0.0] * 10, [1.0] * 90 + [0.0] * 10, "not worse"),
        ([0.9] * 40, [0.9] * 40, "not worse"),
        # One lost, one won: more than the margin can't be ruled out.
        ([1.0, 0.0] + [1.0] * 38, [0.0, 1.0] + [1.0] * 38, "worse"),
        ([1.0, 0.0] + [1.0] * 398, [0.0, 1.0] + [1.0] * 398, "not worse"),
        ([1.0] * 29, [0.0] * 29, "too few"),
        ([1.0], [0.0], "too few"),
        ([1.0] * 30, [0.0] * 30, "better"),
    ],
)
def test_the_verdict_follows_from_the_paired_scores(
    ours: list[float], theirs: list[float], verdict: str
) -> None:
    found = compared("a", "b", ours, theirs)
    assert found.verdict == verdict
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert found.difference == pytest.approx(found.candidate_score - found.incumbent_score)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng, covered, trials = Random(5), 0, 60
    for _ in range(trials):
        theirs = [float(rng.random() < 0.7) for _ in range(120)]
        # True difference 0.03: a tenth of the lost ones is won.
        ours = [t or float(rng.random() < 0.1) for t in theirs]
        low, high = compared("a", "b", ours, theirs).interval
        covered += low <= 0.03 <= high
    assert 0.8 * trials <= covered <= trials


def test_pairing_makes_a_small_steady_gain_visible() -> None:
    rng = Random(1)
    theirs = [rng.random() * 0.9 for _ in range(60)]
    low, high = compared("a", "b", [t + 0.05 for t in theirs], theirs).interval
    assert low == pytest.approx(0.05) and high == pytest.approx(0.05)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / FOLDERS[0], tmp_path / FOLDERS[1]
    for folder in made:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": folder.name}))
    return made


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Checkpoints whose answers are right (the candidate) or cut (the incumbent)."""
    asked: list[tuple[str, int]] = []

    def canned(folder: Path, prompts: Sequence[Prompt], **_: Any) -> Sampled:
        asked.append((folder.name, len(prompts)))
        text = "yes" if folder.name == FOLDERS[0] else "no"
        return Sampled([text] * len(prompts), 1, 1.0, 0)

    monkeypatch.setattr(module, "answers", canned)
    return asked


def traced(heldout: int, train: int) -> list[TracedChat]:
    said = (Message(role="user", content="well?"), Message(role="assistant", content="yes"))
    return [TracedChat(messages=said, split="heldout")] * heldout + [
        TracedChat(messages=said, split="train")
    ] * train


def test_both_checkpoints_answer_the_heldout_chats_and_the_result_is_kept(
    folders: tuple[Path, Path], engine: list[tuple[str, int]]
) -> None:
    found = evaluate(*folders, traced(31, 9))
    assert engine == [("candidate", 31), ("incumbent", 31)]
    assert json.loads((folders[0] / "evaluation.json").read_text("utf-8")) == {
        "candidate": digest(folders[0]),
        "incumbent": digest(folders[1]),
        "count": 31,
        "candidate_score": 1.0,
        "incumbent_score": 0.0,
        "difference": 1.0,
        "interval": [1.0, 1.0],
        "confidence": 0.95,
        "verdict": "better",
    }
    assert found.verdict == "better"
    assert not (folders[1] / "evaluation.json").exists()


def test_without_heldout_chats_nothing_is_compared(
    folders: tuple[Path, Path], engine: list[tuple[str, int]]
) -> None:
    with pytest.raises(InvalidInput, match="heldout"):
        evaluate(*folders, traced(0, 5))
    assert engine == []


def test_a_checkpoint_that_cannot_be_served_leaves_no_evaluation(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: Any, **__: Any) -> Sampled:
        raise Unavailable("the engine", "no such tensor")

    monkeypatch.setattr(module, "answers", dead)
    with pytest.raises(Unavailable):
        evaluate(*folders, traced(40, 0))
    assert not (folders[0] / "evaluation.json").exists()


def test_the_corpus_test_split_serves_where_there_are_no_runs() -> None:
    assert len(corpus_chats("routine", 25)) == 25
    with pytest.raises(InvalidInput, match="planner, routine"):
        corpus_chats("rutine", 1)


@pytest.mark.parametrize("on", [True, False])
def test_the_command_prints_the_comparison(
    on: bool, folders: tuple[Path, Path], engine: list[tuple[str, int]], tmp_path: Path
) -> None:
    arguments = ["evaluate", str(folders[0]), "--incumbent", str(folders[1])]
    write_chats(tmp_path / "chats.jsonl", traced(30, 3))
    arguments += ["--on", str(tmp_path / "chats.jsonl")] if on else ["--count", "12"]
    done = CliRunner().invoke(distill, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["count"] == (30 if on else 12)
    assert engine[0] == ("candidate", 30 if on else 12)
