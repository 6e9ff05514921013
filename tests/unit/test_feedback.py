"""From the command line: people find runs, say whether they were right, and export them."""

import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from agents.journal import MAX_LINE, MAX_TEXT, Feedback, Verdict
from cluster.errors import Conflict, DataError, InvalidInput, NotFound
from serve.cli import app, main
from serve.distill.chats import read_chats
from tests.fakes import ticket
from tests.traced import Models, Shop
from tests.world import connect


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    shop = Shop(tmp_path, Models())
    connect(monkeypatch, shop)
    yield shop
    await shop.stop()


def _call(*words: str) -> Result:
    # In a thread of its own, as another process would: commands run event loops themselves.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(CliRunner().invoke, app, list(words)).result()


def _ok(*words: str) -> str:
    done = _call(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return str(done.output)


def _listed(*words: str) -> list[list[str]]:
    return [line.split() for line in _ok("runs", "list", *words).splitlines()[1:]]


async def test_a_run_is_found_judged_and_exported_while_the_stack_works_on(
    shop: Shop, tmp_path: Path
) -> None:
    run = (await shop.run()).run_id
    assert _listed() == [[run, "support", "T-006", "replied", "-"]]
    assert f"{run}: accepted by ann" in _ok(
        "feedback", run, "--verdict", "accepted", "--by", "ann", "--note", "well said"
    )
    assert _listed() == [[run, "support", "T-006", "replied", "accepted"]]
    (judged,) = shop.journal.judgements(run)
    assert judged.feedback == Feedback("accepted", "ann", "well said")
    out = tmp_path / "chats.jsonl"
    report = json.loads(_ok("distill", "export", "--out", str(out)))
    assert (report["chats"], report["by_task"]) == (2, {"plan": 1, "draft": 1})
    assert [c.task for c in read_chats(out)] == ["plan", "draft"]
    assert (await shop.run("another", "T-001")).ended is not None


async def test_runs_are_listed_newest_first_by_decision_and_limit(shop: Shop) -> None:
    first, second, third = [(await shop.run(key)).run_id for key in ("1", "2", "3")]
    other = await shop.run("4", tenant="other")
    assert [r[0] for r in _listed()] == [third, second, first]
    assert [r[0] for r in _listed("--limit", "1")] == [third]
    # The second refund of one order goes to a person.
    assert [r[0] for r in _listed("--decision", "replied")] == [first]
    assert [r[0] for r in _listed("--decision", "escalated", "--limit", "1")] == [third]
    assert other.run_id not in _ok("runs", "list")
    assert [r[0] for r in _listed("--tenant", "other")] == [other.run_id]
    _ok("feedback", other.run_id, "--verdict", "rejected", "--by", "ann", "--tenant", "other")


async def test_a_correction_is_kept_without_the_customers_data(shop: Shop, tmp_path: Path) -> None:
    run = (await shop.run()).run_id
    people = json.loads(Path("infra/support/desk.json").read_text("utf-8"))["customers"]
    (person,) = [p for p in people if p["id"] == ticket("T-006")["customer"]]
    said = tmp_path / "said.txt"
    first = person["name"].split()[0]
    said.write_text(
        f"Dear {first}, ask {person['email']} about order LO-48055. Yours, {person['name'].lower()}"
    )
    _ok(
        *("feedback", run, "--verdict", "corrected", "--by", "ann"),
        *("--text-file", str(said), "--note", f"{person['name']} called"),
    )
    (judged,) = shop.journal.judgements(run)
    assert judged.feedback.text.startswith("Dear [NAME_")
    assert "LO-48055" in judged.feedback.text
    assert judged.feedback.note == "[NAME_1] called"
    kept = (tmp_path / "journal.db").read_bytes() + (tmp_path / "journal.db-wal").read_bytes()
    for secret in (person["name"], first, person["email"]):
        assert secret.encode() not in kept
        assert secret.lower().encode() not in kept


async def test_without_the_desk_no_words_are_kept(shop: Shop, tmp_path: Path) -> None:
    run = (await shop.run()).run_id
    for file in tmp_path.glob("desk.db*"):
        file.rename(tmp_path / f"away-{file.name}")
    done = _call("feedback", run, "--verdict", "rejected", "--by", "ann", "--note", "Priya called")
    assert isinstance(done.exception, NotFound)
    assert shop.journal.judgements(run) == []
    assert not (tmp_path / "desk.db").exists()
    _ok("feedback", run, "--verdict", "rejected", "--by", "ann")


async def test_feedback_on_what_is_not_there_not_ended_or_anothers_is_refused(shop: Shop) -> None:
    theirs = (await shop.run(tenant="other")).run_id
    opened, _ = shop.journal.create("default", "o", "support", "a", {"tenant": "default"})
    for run, error in (("run_0", NotFound), (theirs, NotFound), (opened, Conflict)):
        done = _call("feedback", run, "--verdict", "accepted", "--by", "ann")
        assert isinstance(done.exception, error), run
        assert run in str(done.exception)
    assert shop.journal.judgements(theirs) == []


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * (4 * MAX_TEXT + 1), b"", b" \n"])
async def test_a_text_file_that_can_not_be_used_is_named(
    shop: Shop, tmp_path: Path, content: bytes | None
) -> None:
    run = (await shop.run()).run_id
    said = tmp_path / "said.txt"
    if content is not None:
        said.write_bytes(content)
    done = _call(
        *("feedback", run, "--verdict", "corrected", "--by", "ann", "--text-file", str(said))
    )
    assert isinstance(done.exception, InvalidInput)
    assert done.exception.field == ("text" if content in {b"", b" \n"} else "text-file")
    assert shop.journal.judgements(run) == []


async def test_errors_are_one_line_and_an_exit_status(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await shop.run()
    monkeypatch.setattr(
        sys, "argv", ["mainspring", "distill", "export", "--out", str(tmp_path / "out.jsonl")]
    )
    with ThreadPoolExecutor(1) as pool, pytest.raises(SystemExit) as ended:
        pool.submit(main).result()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mainspring: tenant is 'default'")
    assert "mainspring feedback RUN --verdict accepted" in line
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_journal_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    assert _listed() == []


@pytest.mark.parametrize(
    ("field", "verdict", "given"),
    [
        ("verdict", "maybe", {"by": "ann"}),
        ("verdict", "", {"by": "ann"}),
        ("by", "accepted", {"by": " "}),
        ("by", "accepted", {"by": "x" * (MAX_LINE + 1)}),
        ("note", "accepted", {"by": "ann", "note": "x" * (MAX_LINE + 1)}),
        ("note", "accepted", {"by": "ann", "note": "a\0b"}),
        ("text", "corrected", {"by": "ann"}),
        ("text", "corrected", {"by": "ann", "text": " \n"}),
        ("text", "corrected", {"by": "ann", "text": "x" * (MAX_TEXT + 1)}),
        ("text", "accepted", {"by": "ann", "text": "Better so."}),
    ],
)
def test_feedback_that_says_nothing_is_refused(
    field: str, verdict: Verdict, given: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        Feedback(verdict, **given)
    assert caught.value.field == field


async def test_a_run_is_drawn_with_what_was_done_and_what_it_cost(shop: Shop) -> None:
    run = (await shop.run()).run_id
    drawn = _ok("runs", "show", run)
    lines = {" ".join(line.split()[2:4]): line for line in drawn.splitlines()}
    for told in ("accepted", "plan", "2:refund refund", "reply", "ended"):
        assert any(told in line for line in lines.values()), (told, drawn)
    assert f"{shop.journal.verify(run)} events, hash chain whole" in drawn


async def test_a_run_of_nobody_or_of_somebody_else_is_not_drawn(shop: Shop) -> None:
    run = (await shop.run()).run_id
    for words in (["run-9"], [run, "--tenant", "other"]):
        failed = _call("runs", "show", *words)
        assert isinstance(failed.exception, NotFound)


async def test_a_chain_that_was_changed_is_not_drawn_as_whole(shop: Shop) -> None:
    run = (await shop.run()).run_id
    with shop.journal._database.transaction() as connection:
        connection.execute(text("UPDATE events SET at = at + 1 WHERE seq = 3"))
    failed = _call("runs", "show", run)
    assert isinstance(failed.exception, DataError)


async def test_a_verdict_teaches_memory_and_a_later_one_takes_its_place(
    shop: Shop, tmp_path: Path
) -> None:
    run = (await shop.run()).run_id
    said = tmp_path / "said.txt"
    for told in ("A cracked carafe is replaced.", "A cracked carafe is paid back at once."):
        said.write_text(f"Dear Priya,\n{told} Your order is LO-48055.")
        _ok("feedback", run, "--verdict", "corrected", "--by", "ann", "--text-file", str(said))
        with sqlite3.connect(tmp_path / "memory-log.db") as log:
            query = "SELECT body FROM memory_records WHERE kind = 'ticket' AND tier = 'long_term'"
            ((body,),) = log.execute(query).fetchall()
        assert f'"answer": "{told}"' in body or f'"answer":"{told}"' in body
        assert "Priya" not in body and "48055" not in body
