"""Chats on disk: what was written is read, and what is wrong is named."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InvalidInput, Unavailable
from serve.distill.chats import Message, Provenance, TracedChat, read_chats, split_of, write_chats

USER = {"role": "user", "content": "Where is [ORDER_1]?"}
ANSWER = {"role": "assistant", "content": "(E1) Shipped. ü☂"}
SYSTEM = {"role": "system", "content": "You answer."}


def _traced(words: str = "Shipped.") -> TracedChat:
    where = Provenance(
        tenant="t", run_id="run_1", agent="ab12", workflow="support", model="routine",
        verdict="accepted", by="ann", judged_at=1_795_000_000.25, journal_hash="0f",
    )  # fmt: skip
    said = (Message(role="user", content="Where?"), Message(role="assistant", content=words))
    return TracedChat(messages=said, task="draft", split="heldout", provenance=where)


def _file(folder: Path, *lines: Any) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_what_was_written_is_read_one_object_a_line(tmp_path: Path) -> None:
    chats = [_traced("Shipped.\nü☂ \u2028 done"), _traced("Lost.")]
    path = tmp_path / "new" / "chats.jsonl"
    write_chats(path, chats)
    assert read_chats(path) == chats
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    assert [list(line) for line in lines] == [["messages", "task", "split", "provenance"]] * 2
    assert lines[0]["provenance"]["verdict"] == "accepted"
    assert path.stat().st_mode & 0o077 == 0
    assert chats[0].prompt == [{"role": "user", "content": "Where?"}]
    assert chats[1].answer == "Lost."


def test_a_plain_fine_tuning_file_is_read_and_split_by_its_prompts(tmp_path: Path) -> None:
    rows = [
        {"messages": [SYSTEM, {**USER, "content": f"Where is {i}?"}, ANSWER]} for i in range(200)
    ]
    chats = read_chats(_file(tmp_path, *rows))
    assert {(c.task, c.provenance) for c in chats} == {("chat", None)}
    assert 20 <= sum(c.split == "heldout" for c in chats) <= 60
    assert read_chats(_file(tmp_path, *rows)) == chats
    # Another answer to the same prompt stands on the same side.
    others = [{"messages": [*r["messages"][:2], {**ANSWER, "content": "No."}]} for r in rows]
    assert [c.split for c in read_chats(_file(tmp_path, *others))] == [c.split for c in chats]


def test_conversations_blank_lines_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    line = json.dumps({"messages": [USER, ANSWER, USER, ANSWER], "split": "train"})
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}".encode())
    assert [len(c.messages) for c in read_chats(path)] == [4, 4]


def test_about_two_in_ten_are_held_out() -> None:
    held = sum(split_of(f"run_{i}") == "heldout" for i in range(5_000))
    assert 900 < held < 1_100


def _with(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


WRONG = [
    (_with(ANSWER, USER), "messages", "['assistant', 'user']", "assistant last"),
    (_with(USER), "messages", "'Where is", "at least 2"),
    (_with(SYSTEM, USER), "messages", "['system', 'user']", "assistant last"),
    (_with(SYSTEM, ANSWER), "messages", "['system', 'assistant']", "optional system"),
    (_with(USER, SYSTEM, ANSWER), "messages", "'system'", "optional system"),
    (_with(USER, USER, ANSWER), "messages", "['user', 'user', 'assistant']", "in turns"),
    (_with(USER, ANSWER, USER), "messages", "'user']", "assistant last"),
    (_with(), "messages", "[]", "at least 2"),
    (_with(USER, {"role": "tool", "content": "x"}), "messages[1].role", "'tool'", "'assistant'"),
    (_with(USER, {**ANSWER, "content": ""}), "messages[1].content", "''", "words"),
    (_with({**USER, "content": " \n "}, ANSWER), "messages[0].content", "' \\n '", "words"),
    (_with({**USER, "content": None}, ANSWER), "messages[0].content", "None", "string"),
    (_with({**USER, "content": [{"type": "text"}]}, ANSWER), "messages[0].content", "", "string"),
    (_with({"role": "user"}, ANSWER), "messages[0].content", "None", "this field"),
    (_with(USER, {**ANSWER, "weight": 0}), "messages[1].weight", "0", "one of the keys"),
    (_with(USER, ANSWER, tools=[]), "tools", "[]", "one of the keys"),
    (_with(USER, ANSWER, split="test"), "split", "'test'", "'train' or 'heldout'"),
    (_with(USER, ANSWER, task=3), "task", "3", "string"),
    (_with(USER, ANSWER, provenance={"tenant": "t"}), "provenance.run_id", "None", "this field"),
    ({"messages": "hello"}, "messages", "'hello'", "a list of messages"),
    ({"prompt": "a", "completion": "b"}, "messages", "None", "this field"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "field", "value", "expected"), WRONG)
def test_what_is_wrong_is_named_with_file_line_field_and_value(
    tmp_path: Path, row: dict[str, Any], field: str, value: str, expected: str
) -> None:
    path = _file(tmp_path, _with(USER, ANSWER), row)
    with pytest.raises(InvalidInput) as caught:
        read_chats(path)
    assert caught.value.name == f"{path}:2: {field}"
    assert value in repr(caught.value.value)
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "one JSON object a line"),
        (b"nonsense", "one JSON object a line"),
        (b'["a"]', "one JSON object a line"),
        (b"[" * 100_000, "one JSON object a line"),
        (b'{"messages": "\xff"}', "UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "unicode"),
    ],
)
def test_a_line_that_is_no_chat_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(json.dumps(_with(USER, ANSWER)).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(InvalidInput, match=expected) as caught:
        read_chats(path)
    assert caught.value.name.startswith(f"{path}:3")
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n \n"])
def test_a_file_without_a_chat_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="at least one chat") as caught:
        read_chats(path)
    assert caught.value.name == str(path)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InvalidInput, match=f"{path}.*readable file"):
            read_chats(path)


@contextmanager
def _small_disk(most: int) -> Iterator[None]:
    """No file may grow beyond `most` bytes: the kernel refuses the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("count", [20, 2_000])
def test_a_full_disk_leaves_no_half_file_and_the_old_one_as_it_was(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "chats.jsonl"
    write_chats(path, [_traced("the old one")])
    with _small_disk(1_000), pytest.raises(Unavailable) as caught:
        write_chats(path, [_traced()] * count)
    assert str(path) in str(caught.value)
    assert [c.answer for c in read_chats(path)] == ["the old one"]
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_old_file_still_sees_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    write_chats(path, [_traced("the old one")])
    with path.open("rb") as reader:
        write_chats(path, [_traced("the new one")])
        assert b"the old one" in reader.read()
    assert [c.answer for c in read_chats(path)] == ["the new one"]


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "chats.jsonl", tmp_path):
        with pytest.raises(Unavailable, match=str(path)):
            write_chats(path, [_traced()])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_source_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[TracedChat]:
        yield _traced()
        raise KeyError("gone")

    with pytest.raises(KeyError):
        write_chats(tmp_path / "chats.jsonl", broken())
    assert list(tmp_path.iterdir()) == []
