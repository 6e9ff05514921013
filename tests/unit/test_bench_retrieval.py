"""The retrieval benchmark reads LoCoMo's form and counts what it says it counts."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, retrieval
from benchmarks.locomo_data import Question, load
from benchmarks.retrieval import outcome, records
from cluster.errors import InvalidInput

TALK: dict[str, Any] = {
    "sample_id": "talk-1",
    "conversation": {
        "speaker_a": "Ann",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ann", "dia_id": "D1:1", "text": "I adopted a grey cat named Milo."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "Lovely!", "blip_caption": "a kettle"},
        ],
        "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "I sold my bicycle."}],
        "session_2_date_time": "never",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "I moved to Vienna."}],
    },
    "qa": [
        {"question": "Which cat did Ann adopt?", "category": 4, "evidence": ["D1:1"]},
        {"question": "Where did Ben move?", "category": 1, "evidence": ["D2:1; D10:1", "D"]},
        {"question": "What did nobody say?", "category": 5, "evidence": ["D1:1"]},
        {"question": "What has no evidence?", "category": 2, "evidence": ["D9:9"]},
        {"question": "And none at all?", "category": 3},
    ],
}


def other() -> dict[str, Any]:
    text = json.dumps(TALK).replace("Ann", "Eve").replace("Ben", "Tom")
    changed: dict[str, Any] = json.loads(
        text.replace("cat", "boat").replace("boategory", "category")
    )
    return changed | {"sample_id": "talk-2"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "talks.json.gz"
    path.write_bytes(gzip.compress(json.dumps([TALK, other()]).encode()))
    return path


def test_both_forms_of_a_file_are_read_alike(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "talks.json"
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    assert load(plain) == load(file)


def test_turns_come_by_session_and_questions_with_their_evidence(file: Path) -> None:
    talk, _ = load(file)
    assert [turn.id for turn in talk.turns] == ["D1:1", "D1:2", "D2:1", "D10:1"]
    assert [q.category for q in talk.questions] == [4, 1]
    assert [sorted(q.evidence) for q in talk.questions] == [["D1:1"], ["D10:1", "D2:1"]]
    assert talk.turns[0].at == 1_683_554_160.0
    assert talk.turns[2].at == 0.0


def test_a_record_says_who_speaks_and_what_is_shared(file: Path) -> None:
    _, shared, _, last = records("t", load(file)[0])
    assert shared.text == "Ben: Lovely! [shares a kettle]"
    assert (shared.document, shared.number, last.document) == ("chat:1", 2, "chat:10")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"qa": []}]', '[{"conversation": {}}]'])
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "talks.json"
    path.write_text(content)
    if content == "{}":
        assert load(path) == []
        return
    with pytest.raises(InvalidInput, match="LoCoMo"):
        load(path)


def test_a_hit_is_any_evidence_turn_and_recall_the_share_of_them() -> None:
    question = Question("?", 1, frozenset({"a", "b"}))
    found = [["x"] * 4 + ["a"], ["x"] * 5 + ["b"], ["x"] * 10 + ["a"], ["a", "b"], []]
    rows = outcome(found, [question] * 5).rows.tolist()
    assert rows == [[1, 1, 0.5], [0, 1, 0.5], [0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_the_mean_lies_in_its_interval_and_the_target_is_its_own() -> None:
    question = Question("?", 1, frozenset({"a"}))
    measured = outcome([["a"]] * 80 + [[]] * 20, [question] * 100)
    five = measured.figures("recall", {"any-hit@5": 0.81})[0]
    assert (five.value, five.count, five.met) == (0.8, 100, False)
    assert five.interval is not None
    low, high = five.interval
    assert 0.7 < low < 0.8 < high < 0.9


@pytest.mark.enable_socket
def test_a_run_measures_recall_beside_its_peers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["retrieval", "--data", str(file)])
    assert retrieval.main() == 0
    written = json.loads((tmp_path / "results" / "retrieval.json").read_text())
    values = {figure["name"]: figure["value"] for figure in written["figures"]}
    assert values["recall: any-hit@5"] == values["recall: any-hit@10"] == 1.0
    assert set(written["peers"]) == {
        "FAISS flat", "Milvus dense", "Milvus BM25", "Milvus default hybrid",
    }  # fmt: skip
    assert set(written["details"]["by conversation"]) == {"talk-1", "talk-2"}


def test_a_missing_file_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["retrieval", "--data", str(tmp_path / "none.json")])
    assert retrieval.main() == 1
