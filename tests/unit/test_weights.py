"""Weights between folders and S3: whole or not at all, and nothing twice over the wire."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from typer.testing import CliRunner

from cluster.errors import ConfigError, Conflict, DataError, InvalidInput, NotFound, Unavailable
from cluster.objects import Objects, opened
from serve.cli import app
from serve.weights import MANIFEST, SENT, pull, push, source_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 9_000)
    (folder / "tokenizer" / "vocab.json").write_text("[]")
    (folder / ".cache").write_text("no")
    return folder


@pytest.fixture(params=["folder", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "kept")
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="weights")
        yield "s3://weights/qwen"


def _quietly(_: str, __: int) -> None:
    pass


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_is_pushed_comes_back_and_nothing_goes_twice(
    model: Path, place: str, tmp_path: Path
) -> None:
    first = push(model, opened(place), _quietly)
    assert (first.sent, first.known, len(first.files)) == (3, 0, 3)
    assert push(model, opened(place), _quietly).sent == 0
    (model / "config.json").write_text('{"a": 1}')
    assert push(model, opened(place), _quietly).sent == 1
    told: list[int] = []
    back = pull(opened(place), tmp_path / "back", lambda _, count: told.append(count))
    assert (back.sent, back.bytes) == (3, sum(told))
    assert len(told) > 3  # a large file tells more than its end
    assert _names(tmp_path / "back") == _names(model) - {".cache"}
    for name in _names(tmp_path / "back"):
        assert (tmp_path / "back" / name).read_bytes() == (model / name).read_bytes()
    assert pull(opened(place), tmp_path / "back", _quietly).sent == 0


def test_a_pull_that_broke_off_goes_on_and_shows_nothing_half(
    model: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model, opened(place), _quietly)
    kept: Any = opened(place)
    chunks = kept.chunks

    def breaking(name: str) -> Iterator[bytes]:
        if name.startswith("tokenizer"):
            raise Unavailable("the place", "it went away")
        yield from chunks(name)

    monkeypatch.setattr(kept, "chunks", breaking)
    with pytest.raises(Unavailable):
        pull(kept, tmp_path / "back", _quietly)
    assert not (tmp_path / "back").exists()
    monkeypatch.undo()
    if place.startswith("s3"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    moved = pull(opened(place), tmp_path / "back", _quietly)
    assert (moved.sent, moved.known) == (1, 2)
    assert (tmp_path / "back" / "config.json").is_file()


def test_a_push_that_broke_off_goes_on_and_leaves_nothing_that_looks_whole(
    model: Path, place: str, tmp_path: Path
) -> None:
    push(model, opened(place), _quietly)
    for name in ("config.json", "model.safetensors", "tokenizer/vocab.json"):
        (model / name).write_bytes((model / name).read_bytes()[::-1] + b" ")
    kept: Any = opened(place)
    write = kept.write

    def breaking(name: str, content: Any, **options: Any) -> Any:
        if name.startswith("tokenizer"):
            raise Unavailable("the place", "it went away")
        return write(name, content, **options)

    kept.write = breaking
    with pytest.raises(Unavailable):
        push(model, kept, _quietly)
    with pytest.raises(NotFound, match="whole model"):
        pull(opened(place), tmp_path / "back", _quietly)
    moved = push(model, opened(place), _quietly)
    assert (moved.sent, moved.known) == (1, 2)
    assert SENT not in {entry.name for entry in opened(place).entries()}
    pull(opened(place), tmp_path / "back", _quietly)


def test_what_a_place_has_lost_is_sent_again(model: Path, place: str) -> None:
    push(model, opened(place), _quietly)
    opened(place).delete("model.safetensors")
    assert push(model, opened(place), _quietly).sent == 1


def test_a_disk_without_room_is_told_before_anything_comes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = opened(str(tmp_path / "kept"))
    push(model, kept, _quietly)
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("serve.weights.shutil.disk_usage", lambda _: usage)
    with pytest.raises(Unavailable, match=r"0\.0 GB are to come, 0\.0 GB are free"):
        pull(kept, tmp_path / "back", _quietly)
    assert not (tmp_path / "back").exists()


def test_an_s3_that_says_no_is_named_with_its_bucket(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def pushed(place: str) -> Exception:
        done = CliRunner().invoke(app, ["models", "push", str(model), place])
        assert isinstance(done.exception, Exception)
        return done.exception

    with mock_aws():
        assert "nobodys" in str(pushed("s3://nobodys/qwen"))
        boto3.client("s3").create_bucket(Bucket="weights")
        refused = set_initial_no_auth_action_count(0)(pushed)("s3://weights/qwen")
    assert isinstance(refused, ConfigError)
    assert "credentials that may use s3://weights/qwen" in str(refused)


def _write(place: Objects, name: str, text: bytes, folder: Path) -> None:
    file = folder / "x"
    file.write_bytes(text)
    with file.open("rb") as content:
        place.write(name, content)


def test_what_is_not_whole_or_not_right_is_refused(model: Path, place: str, tmp_path: Path) -> None:
    kept = opened(place)
    with pytest.raises(NotFound, match="whole model"):
        pull(kept, tmp_path / "back", _quietly)
    push(model, kept, _quietly)
    _write(kept, "model.safetensors", b"something else", tmp_path)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        pull(kept, tmp_path / "back", _quietly)
    assert not (tmp_path / "back").exists()
    for manifest in (b"[]", b"{", b'{"format": 9, "files": []}'):
        _write(kept, MANIFEST, manifest, tmp_path)
        with pytest.raises(DataError, match=MANIFEST):
            pull(kept, tmp_path / "back", _quietly)
    away = {"format": 1, "files": [{"name": "../x", "bytes": 1, "sha256": "0"}]}
    _write(kept, MANIFEST, json.dumps(away).encode(), tmp_path)
    with pytest.raises(DataError, match="leads out"):
        pull(kept, tmp_path / "back", _quietly)


def test_a_folder_with_something_else_is_left_alone(
    model: Path, place: str, tmp_path: Path
) -> None:
    push(model, opened(place), _quietly)
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="something else"):
        pull(opened(place), tmp_path / "back", _quietly)
    assert _names(tmp_path / "back") == {"mine.txt"}


def test_what_is_no_model_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json"):
        push(tmp_path, opened(str(tmp_path / "kept")), _quietly)
    assert not (tmp_path / "kept").exists()
    assert source_of(str(tmp_path)) == tmp_path


def test_the_commands(model: Path, place: str, tmp_path: Path) -> None:
    run = CliRunner().invoke
    pushed = run(app, ["models", "push", str(model), place])
    assert pushed.exit_code == 0, pushed.output
    assert "3 files, 2.3 MB; 3 sent, 0 there already" in pushed.output
    pulled = run(app, ["models", "pull", place, str(tmp_path / "back")])
    assert pulled.exit_code == 0, pulled.output
    assert "3 files" in pulled.output
