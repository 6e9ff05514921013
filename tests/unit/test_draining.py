"""A stack that is drained begins nothing new, and says when it is done; one that is upgraded is
backed up first."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from agents import journal_schema
from cluster.errors import DataError, Unavailable
from cluster.settings import GatewaySection, load
from serve import draining
from serve.bulk import schema as bulk_schema
from serve.bulk.pacing import Pace, next_pace
from serve.cli import app
from serve.directory import Directory, Online
from serve.draining import Left, drain
from serve.running import Claim
from serve.upgrading import upgrade
from tests.fakes import FakeClock
from tests.gateways import SECRET, serving
from tests.world import Worlds

HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.enable_socket
async def test_a_draining_gateway_turns_new_work_away_and_ends_what_is_begun() -> None:
    now = [False]
    async with serving(GatewaySection(), draining=lambda: now[0], own_key=SECRET) as stack:
        url = f"{stack.url}/v1/chat/completions"
        body = {**HELLO, "stream": True}
        async with stack.client.post(url, json=body) as begun:
            now[0] = True
            async with stack.client.post(url, json=HELLO) as response:
                assert response.status == 503
                assert int(response.headers["retry-after"]) > 0
                assert "drained" in (await response.json())["error"]["message"]
            async with stack.client.get(f"{stack.url}/readyz") as response:
                assert response.status == 503
            async with stack.client.get(f"{stack.url}/v1/models") as response:
                assert response.status == 200
            # An agent whose turn is under way still gets its answers.
            own = {"authorization": f"Bearer {SECRET}"}
            async with stack.client.post(url, json=HELLO, headers=own) as response:
                assert response.status == 200
            assert (await begun.read()).endswith(b"[DONE]\n\n")
        now[0] = False
        assert (await stack.chat())[0] == 200


def test_the_directory_tells_gateways_and_batches() -> None:
    directory = Directory(FakeClock())
    assert not directory.report("g", Online()).draining
    directory.drain(True)
    assert directory.report("g", Online(0.1, 2)).draining
    assert (directory.online().draining, directory.online().in_work) == (True, 2)
    held = next_pace(Pace(8.0, 0.0), directory.online(), False, 1.0, 64, now=10.0)
    assert (held.allowed, held.why) == (0, "the stack is being drained")
    directory.drain(False)
    later = next_pace(held, directory.online(), False, 1.0, 64, now=11.0)
    assert later.allowed > 0


async def test_a_held_orchestrator_begins_no_turn_until_it_is_let_go(worlds: Worlds) -> None:
    async def work(turn: Any) -> None:
        await turn.end("done", "", {})

    world = worlds.make(work)
    assert await world.orchestrator.drain(True) == 0
    run = await world.submit("k", "T-001")
    assert await world.orchestrator.wait([run], 0.2) == []
    assert "before host work" not in world.trace
    assert await world.orchestrator.drain(False) in (0, 1)
    (state,) = await world.ended(run)
    assert state.ended is not None and state.ended.decision == "done"


class _Stack:
    """Answers for its actors: each look finds one request less."""

    def __init__(self, requests: int) -> None:
        self.requests, self.asked = requests, []  # type: ignore[var-annotated]

    def ask(self, name: str, method: str, *args: Any) -> Any:
        self.asked.append((name, method, *args))
        if method == "online":
            self.requests -= self.requests > 0
            return Online(in_work=self.requests)
        return 0


def test_draining_waits_for_what_is_in_work_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_LOOK_S", 0.01)
    monkeypatch.setattr(draining, "NOTICED_S", 0.02)
    stack, told = _Stack(3), []  # type: ignore[var-annotated]
    left = drain(stack.ask, "directory", ["a", "b"], 5.0, told.append)
    assert left.nothing
    assert [n.requests for n in told] == [2, 1, 0]
    assert stack.asked[0] == ("directory", "drain", True)
    assert drain(_Stack(10**9).ask, "directory", ["a"], 0.05, told.append).requests > 0
    stack.asked.clear()
    draining.resume(stack.ask, "directory", ["a"])
    assert stack.asked == [("a", "drain", False), ("directory", "drain", False)]
    assert str(Left(1, 2)) == "1 requests and 2 turns in work"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return tmp_path


def test_an_upgrade_backs_up_and_says_what_it_did(folder: Path) -> None:
    list(upgrade(load()))
    engine = create_engine(f"sqlite:///{folder}/data/journal.db")
    done = CliRunner().invoke(app, ["upgrade", "--out", "before.tar.gz"])
    assert done.exit_code == 0, done.output
    assert (folder / "before.tar.gz").is_file()
    assert "journal: schema" in done.output and "as it was" in done.output
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_versions SET version = 999"))
    with pytest.raises(DataError, match="newer version"):
        list(upgrade(load()))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_versions")).scalar() == 999
    engine.dispose()


def test_an_upgrade_that_can_not_go_through_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last component's migration fails: the first one's, which would not, is not applied."""
    list(upgrade(load()))
    newer = (*journal_schema.MIGRATIONS, "CREATE TABLE added (id TEXT)")
    monkeypatch.setattr(journal_schema, "MIGRATIONS", newer)
    broken = (*bulk_schema.MIGRATIONS, "CREATE TABLE halfway (id TEXT); ALTER TABLE nowhere ADD x")
    monkeypatch.setattr(bulk_schema, "MIGRATIONS", broken)
    done = CliRunner().invoke(app, ["upgrade"])
    assert isinstance(done.exception, Unavailable) and "nowhere" in str(done.exception)
    assert list(folder.glob("*.tar.gz")) == []
    for component in ("journal", "batches"):
        connection = sqlite3.connect(folder / "data" / f"{component}.db")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        connection.close()
        assert not tables & {"added", "halfway"}
    monkeypatch.setattr(bulk_schema, "MIGRATIONS", broken[:-1])
    version = len(newer)
    told = f"journal: schema {version - 1} -> {version}"
    assert told in CliRunner().invoke(app, ["upgrade", "--check"]).output
    assert told in CliRunner().invoke(app, ["upgrade"]).output
    assert f"schema {version}, as it was" in CliRunner().invoke(app, ["upgrade", "--check"]).output
    assert len(list(folder.glob("*.tar.gz"))) == 1


def test_a_running_stack_is_not_upgraded(folder: Path) -> None:
    list(upgrade(load()))
    claim = Claim(folder / "data")
    done = CliRunner().invoke(app, ["upgrade"])
    claim.release()
    assert done.exit_code != 0
    assert "another Mainspring" in str(done.exception)
    assert list(folder.glob("*.tar.gz")) == []
