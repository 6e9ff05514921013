"""`mainspring memory` without a running stack: the commands of the README, and their errors."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.errors import Conflict
from cluster.settings import load
from memory.owner import Owner
from serve.cli import app

pytestmark = pytest.mark.enable_socket
ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text("utf-8").partition("## Memory\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^    mainspring (memory (?!space).*)$", SECTION, re.MULTILINE)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)


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


def test_who_has_the_folder_open_is_named() -> None:
    owner = Owner(load(None).data_dir.resolve())
    done = run(["memory", "list"])
    assert isinstance(done.exception, Conflict)
    assert "has it open" in str(done.exception)
    owner.release()
