"""Evaluations of workflows as batches: a pack of the user's own, a real gateway before made up
engines, and the batches' own worker."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.evaluation import cases, tried_by
from agents.packs import load
from cluster.errors import ConfigError
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, BatchesSection, GatewaySection
from serve.books import Books
from serve.bulk.archive import Archive
from serve.bulk.kinds import EVALUATION
from serve.bulk.pacing import NOBODY
from serve.bulk.runner import Runner
from serve.bulk.trials import Trials
from serve.bulk.workers import Workers
from serve.cli import app
from serve.directory import Online
from serve.new_cli import make
from tests.gateways import serving

pytestmark = pytest.mark.enable_socket
KEY = "the stack's own"
CASES = """
cases:
  - {expect: I am small}
  - {expect: I am large}
  - {nothing: here}
"""
TRIED = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Told:
    wrong: str
    said: str

async def tried(case, folder, chat):
    assert list(folder.iterdir()) == []
    asked = [{"role": "user", "content": case["expect"]}]
    said = await chat.complete("small", asked, max_tokens=5, timeout_s=5.0, request_id="case")
    return Told("" if said.text == case["expect"] else "it said something else", said.text)
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = make("greeter", tmp_path)
    (folder / "evaluation.yaml").write_text(CASES)
    (folder / "evaluation.py").write_text(TRIED)
    return folder


@pytest.fixture
async def archive(
    tmp_path: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Archive, Books]]:
    """Worked on, in the data folder of the commands."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(data))
    monkeypatch.setenv("MAINSPRING_AGENTS__PACKS", json.dumps([str(pack)]))
    books = Books(AccountsSection(), data, SystemClock(), SystemIds())
    async with serving(GatewaySection(), room=64, books=books, own_key=KEY) as stack:
        made = Archive(BatchesSection(), data)
        workers = Workers({EVALUATION: Trials(stack.url, KEY, [str(pack)])})
        runner = Runner(
            made.batches, made.files, workers, _nobody, SystemClock(),
            {"workflow": ["greeter"]}, 16, 0.5, 3600.0,
        )  # fmt: skip
        working = asyncio.ensure_future(runner.run())
        yield made, books
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await runner.stop()
        made.close()
    await books.close()


async def _nobody() -> Online:
    return NOBODY


async def test_a_packs_cases_are_tried_and_judged_one_a_line(
    archive: tuple[Archive, Books],
) -> None:
    kept, books = archive
    words = ["batch", "evaluate", "greeter", "--follow"]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert done.exit_code == 1, done.output + repr(done.exception)
    assert "1 right, 2 wrong of 3" in done.output
    (batch,) = kept.batches.batches("default", "", 10)
    assert (batch.kind, batch.model) == ("evaluation", "greeter")
    text = b"".join(kept.files.chunks("default", batch.error_file)).decode()
    errors = [json.loads(line)["error"] for line in text.splitlines()]
    assert errors == [
        {"code": "wrong", "message": "it said something else"},
        {"code": "evaluation_broken", "message": "KeyError: 'expect'"},
    ]
    (found,) = books.ledger.sums(("run", "workflow"))
    assert (found.group, found.requests) == ({"run": batch.id, "workflow": "batch"}, 2)


def test_what_is_missing_of_an_evaluation_is_named(tmp_path: Path, pack: Path) -> None:
    (pack / "evaluation.py").write_text("")
    with pytest.raises(ConfigError, match=r"defines tried"):
        tried_by(load([str(pack)])["greeter"])
    (pack / "evaluation.py").unlink()
    with pytest.raises(ConfigError, match=r"a pack with an evaluation.py"):
        tried_by(load([str(pack)])["greeter"])
    for text, why in {
        "a: 1": "YAML with `cases`",
        "cases: 3": "a list of cases",
        "{": "YAML",
    }.items():
        (pack / "evaluation.yaml").write_text(text)
        with pytest.raises(ConfigError, match=why):
            cases(load([str(pack)])["greeter"])
    (pack / "evaluation.yaml").unlink()
    with pytest.raises(ConfigError, match=r"a pack with an evaluation.yaml"):
        cases(load([str(pack)])["greeter"])


@pytest.mark.parametrize("name", ["shop", "content"])
def test_shipped_packs_have_an_evaluation(name: str) -> None:
    pack = load([name])[name]
    assert len(cases(pack)) > 60
    assert callable(tried_by(pack))
