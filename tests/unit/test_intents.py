import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.errors import DataError, InvalidInput, MainspringError
from memory.embed import MiniLM, Vectors
from serve.cli import app
from serve.distill.intent_examples import made_examples
from serve.intent_metrics import auroc, calibration_error, promise_kept, recommended
from serve.intent_training import read_examples, train
from serve.intent_views import Vocabulary, grams, nearest
from serve.intents import Curve, IntentHead, IntentScore

SUBJECTS = {
    "order_status": ["where is my parcel", "has my order been shipped", "track my delivery"],
    "return_item": ["I want to send this back", "how do I return a lamp", "return label please"],
    "invoice_copy": ["send me the invoice again", "I need a bill for my tax", "invoice copy"],
    "out_of_scope": ["what is the weather", "tell me a joke", "who won the match"],
}
ENDINGS = ["", " please", " today", ", thanks", " as soon as possible", "?", " now"]
EXAMPLES = [
    (subject + ending, intent)
    for intent, subjects in SUBJECTS.items()
    for subject, ending in itertools.product(subjects, ENDINGS)
]


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


@pytest.fixture(scope="module")
def embeddings(encoder: MiniLM) -> Vectors:
    return encoder.encode([text for text, _ in EXAMPLES])


@pytest.fixture(scope="module")
def folder(embeddings: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    train(EXAMPLES, embeddings, folder)
    return folder


@pytest.fixture(scope="module")
def head(folder: Path) -> IntentHead:
    return IntentHead.load(folder)


def scored(head: IntentHead, encoder: MiniLM, text: str) -> IntentScore:
    (score,) = head.classify(encoder.encode([text]), [text])
    return score


def test_new_words_for_a_known_wish_are_understood(head: IntentHead, encoder: MiniLM) -> None:
    score = scored(head, encoder, "could you tell me where my parcel is")
    assert score.intent == "order_status"
    assert score.confidence > 0.8
    assert score.out_of_scope < 0.5
    assert score.agreement > 0.5
    assert score.gate
    assert score.why.startswith("confidence 0.")


@pytest.mark.parametrize("text", ["who is the president of France", "zxqv wpfk", "🪔"])
def test_what_belongs_to_no_intent_does_not_pass(
    head: IntentHead, encoder: MiniLM, text: str
) -> None:
    score = scored(head, encoder, text)
    assert not score.gate
    assert score.intent == "out_of_scope" or score.out_of_scope > 0.5 or score.confidence < 0.9


def test_a_text_has_the_same_score_alone_and_in_a_batch(head: IntentHead, encoder: MiniLM) -> None:
    texts = [text for text, _ in EXAMPLES]
    together = head.classify(encoder.encode(texts), texts)
    for text, score in list(zip(texts, together, strict=True))[::9]:
        alone = scored(head, encoder, text)
        assert alone.intent == score.intent
        assert alone.confidence == pytest.approx(score.confidence, abs=1e-3)


def test_no_texts_have_no_scores(head: IntentHead, encoder: MiniLM) -> None:
    assert head.classify(encoder.encode([]), []) == []


def test_embeddings_that_do_not_fit_the_texts_are_refused(head: IntentHead) -> None:
    with pytest.raises(InvalidInput):
        head.classify(np.ones((2, 384), np.float32), ["one"])


def test_the_same_seed_trains_the_same_head(
    folder: Path, embeddings: Vectors, tmp_path: Path
) -> None:
    train(EXAMPLES, embeddings, tmp_path)
    assert (tmp_path / "metrics.json").read_text() == (folder / "metrics.json").read_text()
    with np.load(tmp_path / "head.npz") as one, np.load(folder / "head.npz") as other:
        assert sorted(one.files) == sorted(other.files)
        assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_extra_examples_teach_and_judge_nothing(
    encoder: MiniLM, embeddings: Vectors, tmp_path: Path
) -> None:
    extra = [(f"my kettle whistles a tune {n}", "return_item") for n in range(6)]
    together = np.concatenate([embeddings, encoder.encode([text for text, _ in extra])])
    metrics = train(EXAMPLES, together, tmp_path, extra=extra)
    assert (metrics["examples"], metrics["learnt_from"]) == (len(EXAMPLES), len(EXAMPLES) + 6)
    score = scored(IntentHead.load(tmp_path), encoder, "the kettle whistles a tune")
    assert score.intent == "return_item"
    with pytest.raises(InvalidInput, match="unheard"):
        train(EXAMPLES, together, tmp_path, extra=[(text, "unheard") for text, _ in extra])


def test_made_examples_look_as_the_head_sees_tickets() -> None:
    made = made_examples(30, seed=1)
    assert made == made_examples(30, seed=1)
    assert len({intent for _, intent in made}) == 16
    assert not any(re.search(r"LO-\d", text) for text, _ in made)


def test_metrics_carry_their_counts(head: IntentHead) -> None:
    metrics = head.metrics
    assert metrics["examples"] == len(EXAMPLES)
    assert metrics["accuracy"]["of"] == len(EXAMPLES)
    assert metrics["accuracy"]["right"] / len(EXAMPLES) > 0.9
    assert metrics["out_of_scope"]["examples"] == 21
    assert metrics["out_of_scope"]["auroc"] > 0.9
    for row in metrics["risk"]:
        assert row["wrong"] <= row["target_error"] * max(row["passed"], 1)


def test_a_lower_target_error_never_lets_more_pass(head: IntentHead) -> None:
    thresholds = [head.curve.threshold(error) for error in (0.0, 0.01, 0.1, 1.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    score = IntentScore("return_item", 0.9999, 0.1, 0.5, 1.0)
    assert head.gate(score, 1.0)[0]
    outsider = IntentScore("return_item", 0.999, 0.6, 0.9, 1.0)
    assert head.gate(outsider, 1.0) == (False, "out of scope with 0.60")
    assert not head.gate(IntentScore("out_of_scope", 0.999, 0.1, 0.9, 1.0), 1.0)[0]


def test_a_threshold_lets_all_of_equal_confidence_pass_or_none() -> None:
    curve = Curve(np.array([0.9, 0.8, 0.8, 0.7]), np.array([True, True, False, True]))
    assert curve.threshold(0.0) == 0.9
    assert curve.threshold(0.34) == 0.7
    assert Curve(np.array([0.9]), np.array([False])).threshold(0.5) > 1
    with pytest.raises(InvalidInput):
        curve.threshold(-0.1)


def test_a_head_reads_without_scikit_learn_torch_or_scipy(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from serve.intents import IntentHead;"
        "import numpy as np;"
        f"h = IntentHead.load(Path({str(folder)!r}));"
        "h.classify(np.eye(1, 384, dtype=np.float32), ['where']);"
        "print(sorted(m for m in ('sklearn', 'scipy', 'torch', 'vllm') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("damage", ["cut", "no arrays", "no metrics", "format", "shape"])
def test_a_damaged_head_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    with np.load(folder / "head.npz") as stored:
        parts: dict[str, Any] = {name: stored[name] for name in stored.files}
    if damage == "format":
        parts["format"] = np.array(99)
    if damage == "shape":
        parts["alphas"] = parts["alphas"][1:]
    np.savez(tmp_path / "head.npz", **parts)
    if damage == "cut":
        (tmp_path / "head.npz").write_bytes((folder / "head.npz").read_bytes()[:5_000])
    if damage == "no arrays":
        (tmp_path / "head.npz").unlink()
    if damage != "no metrics":
        (tmp_path / "metrics.json").write_text((folder / "metrics.json").read_text())
    with pytest.raises(DataError) as caught:
        IntentHead.load(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_too_few_examples_are_refused(embeddings: Vectors, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="two intents"):
        train(EXAMPLES[:5], embeddings[:5], tmp_path)
    with pytest.raises(InvalidInput, match="return_item"):
        train(EXAMPLES[:23], embeddings[:23], tmp_path)


def test_examples_are_read_from_both_formats_without_repetitions(tmp_path: Path) -> None:
    lines = [{"text": "where", "intent": "a"}, {"text": "where", "intent": "a"}]
    lines += [{"text": "where", "intent": "b"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_examples(tmp_path / "x.jsonl") == [("where", "a"), ("where", "b")]
    (tmp_path / "x.csv").write_text('text,category\n"one, two",a\n')
    assert read_examples(tmp_path / "x.csv") == [("one, two", "a")]
    (tmp_path / "bad.jsonl").write_text('{"text": "no intent"}')
    with pytest.raises(DataError):
        read_examples(tmp_path / "bad.jsonl")


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    given = ["intents", "train", "--from", str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, given)
    assert isinstance(done.exception, MainspringError)
    assert "none.jsonl: no labelled examples" in str(done.exception)


def test_references_of_any_number_are_the_same_words() -> None:
    assert grams("where is [ORDER_1]") == grams("Where is [ORDER_2]?")


def test_unknown_words_are_ignored() -> None:
    vocabulary = Vocabulary(np.array([5], np.int64), np.ones(1, np.float32))
    positions, values = vocabulary.row("nothing known here")
    assert (len(positions), len(values)) == (0, 0)


def test_the_nearest_know_the_intent() -> None:
    similarity = np.array([[0.9, 0.1, 0.2]], np.float32)
    share, _ = nearest(similarity, np.array([1, 0, 0]), 2)
    assert share[0, 1] > share[0, 0]


def test_calibration_error_and_auroc_of_known_cases() -> None:
    sure = np.full(100, 0.8)
    assert calibration_error(sure, np.arange(100) % 5 != 0) == pytest.approx(0.0, abs=1e-9)
    assert calibration_error(sure, np.zeros(100, bool)) == pytest.approx(0.8)
    assert auroc(np.array([0.1, 0.2, 0.9]), np.array([False, False, True])) == 1.0
    assert auroc(np.array([0.5, 0.5]), np.array([False, True])) == 0.5


def test_the_promise_is_kept_more_often_with_fewer_mistakes() -> None:
    assert promise_kept(0.75, 0.005) > promise_kept(0.75, 0.01) > promise_kept(0.75, 0.03)
    assert promise_kept(0.60, 0.0) < 0.001
    assert promise_kept(1.0, 0.0) == pytest.approx(1.0)


def test_the_recommended_threshold_follows_the_promise_or_falls_back() -> None:
    rng = np.random.default_rng(0)
    sure = np.sort(rng.uniform(size=4_000))[::-1]
    good = recommended(Curve(sure, rng.uniform(size=4_000) < np.clip(sure * 3, 0, 0.998)))
    assert good["rule"] == "promise"
    assert 0.7 < good["automated"] < 1.0
    bad = recommended(Curve(sure, rng.uniform(size=4_000) < 0.5))
    assert bad["rule"] == "error"
