"""`mainspring memory` without a running stack: the commands of the README, and their errors."""

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.errors import Conflict
from cluster.settings import load
from memory.owner import Owner
from memory.tail import Tail
from serve.cli import app
from tests.embedding_server import serving

pytestmark = pytest.mark.enable_socket
ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text("utf-8").partition("## Memory\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^    mainspring (memory (?!space).*)$", SECTION, re.MULTILINE)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)


@pytest.fixture
def embedding_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index in memory, filled from the log by each command: Milvus is not the matter."""
    monkeypatch.setattr("memory.service.opened_store", lambda section, folder, space: Tail(space))


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def test_the_commands_of_the_readme_do_what_it_says() -> None:
    said: dict[str, str] = {}
    for command in COMMANDS:
        done = run(shlex.split(command))
        assert done.exit_code == 0, (command, done.output, done.exception)
        said.setdefault(command.split()[1], done.output)
    assert re.search(r"\d+ records added, 0 known", said["ingest"])
    assert "left with the neighbour" in said["search"]
    assert re.search(r"erased +1 records", said["forget"])
    assert re.search(r"\d+ rows", said["rebuild"])
    assert re.search(r"chain +whole", said["health"])
    assert re.search(r"drift +0", said["health"])


def test_an_export_goes_into_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run(["memory", "remember", "the kettle is blue", "--session", "s1"])
    id = kept.output.split()[0]
    path = run(["memory", "export", "all"]).output.strip()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "other"))
    assert "1 records added" in run(["memory", "import", path]).output
    listed = run(["memory", "list", "--session", "s1"])
    assert listed.output.split()[:3] == [id, "session", "untrusted"]


@pytest.mark.usefixtures("light")
def test_what_is_held_is_not_forgotten_until_its_release() -> None:
    run(["memory", "remember", "mallory signed the lease", "--subject", "mallory"])
    held = run(["memory", "hold", "mallory", "--why", "case 12", "--by", "legal"])
    assert re.search(r"mallory +since .* by legal: case 12", held.output)
    refused = run(["memory", "forget", "--subject", "mallory"])
    assert refused.exit_code == 1
    assert "held        mallory, by legal: case 12" in refused.output
    assert run(["memory", "release", "mallory", "--why", "closed"]).exit_code == 0
    assert run(["memory", "hold"]).output == ""
    assert run(["memory", "forget", "--subject", "mallory"]).exit_code == 0


@pytest.mark.usefixtures("light")
def test_health_is_measured_told_as_json_and_fails_where_something_must_be_0() -> None:
    assert run(["memory", "ingest", "infra/support/policies", "--kind", "policy"]).exit_code == 0
    done = run(["memory", "health", "--measure", "--json"])
    told = json.loads(done.output)
    assert (done.exit_code, told["good"], told["leaked_tenant"]) == (0, True, 0)
    assert told["measured"]["hit_rate"] > 0.8
    assert told["measured"]["stray_empty_rate"] > 0.5
    folder = load(None).data_dir.resolve()
    with sqlite3.connect(folder / "memory-log.db") as connection:
        connection.execute("UPDATE memory_events SET why = 'another' WHERE seq = 1")
    done = run(["memory", "health"])
    assert (done.exit_code, "not as it was written" in done.output) == (1, True)


@pytest.mark.usefixtures("light")
def test_the_embedder_is_changed_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, embedding_url: str
) -> None:
    section = [{"name": "wide", "kind": "endpoint", "model": "words", "url": embedding_url}]
    monkeypatch.setenv("MAINSPRING_MEMORY__EMBEDDERS", json.dumps(section))
    run(["memory", "ingest", "infra/support/policies", "--kind", "policy"])
    prepared = run(["memory", "space", "prepare", "wide"])
    name = prepared.output.split()[0]
    assert re.search(r"shadow .* by wide, (\d+) of \1 records", prepared.output), prepared.output
    early = run(["memory", "space", "switch", name])
    assert isinstance(early.exception, Conflict)
    measured = json.loads(run(["memory", "space", "measure", "--json"]).output)
    assert measured["other"]["space"] == name
    switched = run(["memory", "space", "switch", name, "--force"])
    assert "serving" in switched.output
    spaces = json.loads(run(["memory", "space", "list", "--json"]).output)
    assert [s["state"] for s in spaces] == ["serving", "former"]
    assert "policy:" in run(["memory", "search", "may I send a lamp back"]).output
    back = run(["memory", "space", "rollback"]).output
    assert back.startswith("minilm384")
    assert run(["memory", "space", "drop", name]).exit_code == 0
    assert len(json.loads(run(["memory", "space", "list", "--json"]).output)) == 1


def test_who_has_the_folder_open_is_named() -> None:
    owner = Owner(load(None).data_dir.resolve())
    done = run(["memory", "list"])
    assert isinstance(done.exception, Conflict)
    assert "has it open" in str(done.exception)
    owner.release()
