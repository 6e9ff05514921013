"""The quality head: what it learns, what it promises, what it refuses, which version is in use."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.errors import DataError, InvalidInput
from memory.embed import DIMENSION
from serve.quality import QualityHead, choose
from serve.quality_training import Examples, read_examples, train, write
from serve.quality_versions import Versions

MODELS = ("big", "middle", "small")
PRICES = (1.0, 0.4, 0.1)


def examples(count: int, seed: int = 0) -> tuple[Examples, NDArray[np.float32]]:
    """Sums, which only the dearer models get right, and greetings, which all do."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count) < 0.5
    texts = [
        f"How much is {rng.integers(999)} * {rng.integers(999)} / 7 = ?" if h
        else f"Hello number {'abcdefgh'[rng.integers(8)]}, nice to meet you"
        for h in hard
    ]  # fmt: skip
    ease = np.array([[0.95, 0.7, 0.15], [0.95, 0.95, 0.95]])[1 - hard.astype(int)]
    vectors = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Examples(MODELS, texts, rng.random((count, 3)) < ease), vectors


@pytest.fixture(scope="module")
def head() -> QualityHead:
    return train(*examples(300))[0]


def test_a_hundred_labels_tell_hard_from_easy_for_three_models() -> None:
    head, _ = train(*examples(100))
    asked, vectors = examples(200, seed=1)
    chances = head.chances(vectors, asked.texts)
    hard = np.array(["=" in text for text in asked.texts])
    assert chances[hard, 2].mean() < 0.4 < 0.8 < chances[~hard, 2].mean()
    assert (head.uncertainty(chances) > 0).all()


def test_more_labels_predict_better() -> None:
    asked, vectors = examples(400, seed=1)
    errors = [
        ((train(*examples(count))[0].chances(vectors, asked.texts) - asked.right) ** 2).mean()
        for count in (40, 400)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_a_kept_promise_is_kept_on_requests_never_seen(head: QualityHead, target: float) -> None:
    promise = head.promise(target, PRICES)
    asked, vectors = examples(400, seed=2)
    chosen = choose(head.chances(vectors, asked.texts), PRICES, promise.weight)
    assert promise.kept
    assert promise.low <= asked.right[np.arange(400), chosen].mean() <= promise.high


def test_a_lower_target_costs_less_and_an_impossible_one_is_not_promised(head: QualityHead) -> None:
    asked, vectors = examples(200, seed=2)
    chances = head.chances(vectors, asked.texts)
    spent = [
        np.array(PRICES)[choose(chances, PRICES, head.promise(t, PRICES).weight)].sum()
        for t in (0.5, 0.9)
    ]
    assert spent[0] < spent[1]
    assert not head.promise(0.999, PRICES).kept


def test_a_stored_head_predicts_as_before(tmp_path: Path) -> None:
    head, parts = train(*examples(60))
    write(tmp_path, parts, head.metrics)
    asked, vectors = examples(20, seed=3)
    loaded = QualityHead.load(tmp_path)
    assert loaded.models == MODELS
    assert np.allclose(loaded.chances(vectors, asked.texts), head.chances(vectors, asked.texts))
    (tmp_path / "quality.npz").write_bytes(b"broken")
    with pytest.raises(DataError):
        QualityHead.load(tmp_path)


GOOD = {"prompt": "x", "a_correct": True, "b_correct": False}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        (json.dumps(GOOD | {"prompt": " "}), "line 2: prompt"),
        (json.dumps(GOOD | {"b_correct": 1}), "line 2: b_correct"),
        (json.dumps({"prompt": "x", "a_correct": True}), "line 2: fields"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: str, words: str) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(f"{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_examples(source)


def test_names_become_models_of_the_stack(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(GOOD), encoding="utf-8")
    assert read_examples(source, {"a": "routine"}).models == ("routine", "b")


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(InvalidInput):
        train(*examples(39))


def test_only_a_better_head_is_taken_into_use_and_the_last_one_comes_back(tmp_path: Path) -> None:
    versions, judged = Versions(tmp_path / "router"), examples(300, seed=5)
    for name, count in (("poor", 40), ("good", 400)):
        head, parts = train(*examples(count))
        write(tmp_path / name, parts, head.metrics)
    assert versions.head() is None
    assert versions.promote(tmp_path / "poor", *judged).version == 1
    assert versions.promote(tmp_path / "good", *judged).promoted
    again = versions.promote(tmp_path / "poor", *judged)
    assert (again.promoted, versions.current()) == (False, 2)
    assert again.high < 0
    assert versions.rollback() == 1
    with pytest.raises(InvalidInput):
        versions.rollback()


def test_the_curve_runs_from_the_cheapest_to_the_dearest_and_quality_rises(
    head: QualityHead,
) -> None:
    curve = head.curve(PRICES)
    prices, right = [mix.price for mix in curve], [mix.quality for mix in curve]
    assert prices == sorted(prices) and len(set(prices)) == len(prices) > 3
    assert right[-1] > right[0] + 0.05
    assert all(mix.low <= mix.quality <= mix.high for mix in curve)


def test_a_version_is_taken_into_use_again(tmp_path: Path) -> None:
    head, parts = train(*examples(60))
    for version in ("1", "2"):
        write(tmp_path / version, parts, head.metrics)
    versions = Versions(tmp_path)
    versions.use(2)
    versions.use(1)
    assert (versions.current(), versions.all()) == (1, [1, 2])
    assert versions.metrics(2)["examples"] == 60
    with pytest.raises(InvalidInput, match=r"one of \[1, 2\]"):
        versions.use(3)
