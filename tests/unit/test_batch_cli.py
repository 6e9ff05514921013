"""`mainspring batch` as people type it, and the tables that it takes."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet  # type: ignore[import-untyped]
from typer.testing import CliRunner, Result

from cluster.errors import InvalidInput, MainspringError
from cluster.settings import load
from serve.batch_cli import archive
from serve.bulk.tables import PromptForm, RunForm, key_of, lines
from serve.cli import app
from tests.bulk import Office, jsonl, request


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Office]:
    """Somebody works on the batches, in a loop of its own."""
    (tmp_path / "data").mkdir()
    loop = asyncio.new_event_loop()
    office: Office = loop.run_until_complete(_made(tmp_path / "data"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    loop.call_soon_threadsafe(office.start)
    yield office
    asyncio.run_coroutine_threadsafe(office.kill(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    office.archive.close()


async def _made(folder: Path) -> Office:
    return Office(folder)


def run(*words: str) -> Result:
    done = CliRunner().invoke(app, ["batch", *words])
    if isinstance(done.exception, MainspringError):
        raise done.exception
    return done


def test_a_table_is_worked_through_and_its_answers_fetched(working: Office, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("custom_id,name\na,Ann\nb,Ben\n")
    done = run("submit", str(table), "--prompt", "Greet {name}.", "--max-tokens", "8", "--follow")
    assert done.exit_code == 0, done.output
    id = done.output.split()[0]
    assert f"{id} completed: 2 right, 0 wrong of 2" in done.output
    out = tmp_path / "answers.jsonl"
    assert run("fetch", id, "--out", str(out)).exit_code == 0
    assert [json.loads(line)["custom_id"] for line in out.read_text().splitlines()] == ["a", "b"]
    assert id in run("list").output


def test_a_batch_that_fails_says_where_and_ends_with_its_status(
    working: Office, tmp_path: Path
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(jsonl([request("a"), request("a")]))
    done = run("submit", str(file), "--follow")
    assert done.exit_code == 3
    assert "line 2: 'a' is the custom_id of line 1 already" in done.output


def test_a_batch_is_cancelled_once_and_fetched_at_its_end_only(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(jsonl([request("a")]))
    id = run("submit", str(file)).output.split()[0]
    with pytest.raises(MainspringError, match="its files come at its end"):
        run("fetch", id)
    assert "cancelling" in run("cancel", id).output
    with archive(load()) as kept:
        assert kept.batches.batch("default", id).status == "cancelling"


ROWS: list[dict[str, Any]] = [{"name": "Ann", "age": 3}, {"name": "Bj\u00f6rn", "age": 4}]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_every_kind_of_table_become_the_same_lines(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_bytes(jsonl(ROWS))
    elif kind == "csv":
        path.write_text("name,age\nAnn,3\nBj\u00f6rn,4\n")
    else:
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    form = PromptForm("/v1/chat/completions", "auto", "{name} is {age}")
    made = [json.loads(line) for line in lines(path, form)]
    assert [line["custom_id"] for line in made] == ["row-1", "row-2"]
    said = [line["body"]["messages"][0]["content"] for line in made]
    assert said == ["Ann is 3", "Bj\u00f6rn is 4"]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "hi", "max_tokens": 5}),
        ("/v1/responses", {"input": "hi", "max_output_tokens": 5}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
)
def test_a_row_is_asked_in_the_form_of_its_endpoint(endpoint: str, body: dict[str, Any]) -> None:
    assert PromptForm(endpoint, "m", "hi", 5).body(1, {}) == {"model": "m", **body}


@pytest.mark.parametrize(
    ("name", "content", "prompt", "message"),
    [
        ("a.csv", "name\nAnn\n", "{nmae}", "columns of the table: name"),
        ("a.jsonl", '{"name": 1}\n', "", "or --prompt with a template"),
        ("a.jsonl", "{\n", "x", "line 1 of a.jsonl"),
        ("a.jsonl", "[1]\n", "x", "a JSON object"),
        ("a.xlsx", "x", "x", "a name that ends in one of"),
        ("a.parquet", "no", "x", "a readable table"),
    ],
)
def test_a_wrong_table_is_refused_with_what_would_be_right(
    tmp_path: Path, name: str, content: str, prompt: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    words = ["submit", str(path), *(["--prompt", prompt] if prompt else [])]
    with pytest.raises(InvalidInput, match=message):
        run(*words)
    with archive(load()) as kept:
        assert kept.batches.batches("default", "", 10) == []


def test_columns_are_a_runs_fields_and_its_key_the_tables(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for path, when in zip(paths, ("2026-11-20", "2026-11-20", "2026-11-21"), strict=True):
        path.write_text(f"custom_id,n,when,note\na,1,,\nb,2,{when},x\n")
    made = [
        [json.loads(line)["body"] for line in lines(path, RunForm("shop", {"n": 0}, key_of(path)))]
        for path in paths
    ]
    assert [body["input"] for body in made[0]] == [
        {"n": 1}, {"n": 2, "when": "2026-11-20", "note": "x"},
    ]  # fmt: skip
    keys = [[body["key"] for body in one] for one in made]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])
    assert len(set(keys[0])) == 2


def test_what_is_expected_is_taken_out_of_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("name,right\nAnn,yes\n")
    (line,) = lines(path, RunForm("shop", {}, "k"), "right")
    assert json.loads(line)["expect"] == "yes"
    assert json.loads(line)["body"]["input"] == {"name": "Ann"}
    with pytest.raises(InvalidInput, match="columns of the table: name, right"):
        list(lines(path, RunForm("shop", {}, "k"), "rigth"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", "x", "--workflow", "shop"), "either --prompt or --workflow"),
        (("--expect", "name"), "a table, with --prompt or --workflow"),
        (("--workflow", "shop", "--set", "task"), "name=value"),
        (("--endpoint", "/v1/images"), "one of"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([request("a")]))
    with pytest.raises(InvalidInput, match=message):
        run("submit", str(path), *words)
