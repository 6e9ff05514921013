import json
import os
from pathlib import Path

import pytest

from cluster.errors import NotFound
from memory.ingest import read


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def test_a_folder_is_read_with_sources_and_the_files_times(tmp_path: Path) -> None:
    write(tmp_path, "returns.md", "# Returns\n\nReturns are free.\n")
    write(tmp_path, "more/notes.txt", "one\n\ntwo")
    write(tmp_path, "picture.png", "ignored")
    reading = read(tmp_path, "shop", "policy")
    assert [(r.source, r.text) for r in reading.records] == [
        ("policy:more/notes.txt#1", "one"),
        ("policy:more/notes.txt#2", "two"),
        ("policy:returns.md#1", "Returns: Returns are free."),
    ]
    assert {r.event_at for r in reading.records} == {1_700_000_000.0}
    assert reading.files == 2
    assert reading.problems == []


def test_lines_keep_their_own_id_time_and_fields(tmp_path: Path) -> None:
    rows = [
        {"id": "PT-014", "text": "It broke.", "event_at": "2026-05-12T08:00:00Z", "intent": "x"},
        {"text": "No id.", "event_at": 12.5, "meta": {"answer": "Sorry."}, "list": [1]},
        {"source": "desk:7", "text": "Own source.", "closed": "2026-05-12"},
    ]
    write(tmp_path, "past.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    first, second, third = read(tmp_path, "shop", "ticket").records
    assert (first.source, first.event_at) == ("ticket:PT-014", 1_778_572_800.0)
    assert dict(first.meta) == {"intent": "x"}
    assert (second.source, second.event_at) == ("ticket:past.jsonl#2", 12.5)
    assert dict(second.meta) == {"answer": "Sorry."}
    assert (third.source, third.event_at) == ("desk:7", 1_778_544_000.0)


def test_what_can_not_be_read_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    lines = ['{"text": "good"}', "not json", '["a list"]', '{"text": ""}', '{"text": "late",']
    lines += ['{"text": "when", "event_at": "yesterday"}', '{"text": 5}', '{"text": "last"}']
    write(tmp_path, "mixed.jsonl", "\n".join(lines))
    write(tmp_path, "ok.md", "# Ok\n\nStill read.")
    reading = read(tmp_path, "shop", "policy")
    assert [r.text for r in reading.records] == ["good", "last", "Ok: Still read."]
    assert len(reading.problems) == 7
    assert reading.problems[0].startswith("latin.txt: ")
    assert reading.problems[1].startswith("policy:mixed.jsonl#2: ")


def test_hidden_files_and_links_out_of_the_folder_are_left_out(tmp_path: Path) -> None:
    secret = write(tmp_path, "elsewhere/secret.txt", "secret")
    inside = tmp_path / "inside"
    write(inside, ".hidden/a.txt", "hidden")
    write(inside, "b.txt", "seen")
    (inside / "link.txt").symlink_to(secret)
    assert [r.text for r in read(inside, "shop", "policy").records] == ["seen"]


def test_a_single_file_of_a_wrong_kind_is_a_problem_and_a_missing_one_an_error(
    tmp_path: Path,
) -> None:
    reading = read(write(tmp_path, "table.csv", "a,b"), "shop", "policy")
    assert (reading.files, len(reading.problems)) == (0, 1)
    with pytest.raises(NotFound):
        read(tmp_path / "nowhere", "shop", "policy")


def test_a_hash_in_a_file_name_does_not_split_its_document(tmp_path: Path) -> None:
    write(tmp_path, "a#b.txt", "one\n\ntwo")
    assert {r.document for r in read(tmp_path, "shop", "policy").records} == {"policy:a_b.txt"}
