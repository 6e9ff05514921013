"""What the router learns from: questions kept with consent, and what people said of the answers."""

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from agents.journal import Verdict
from cluster.errors import InvalidInput, MainspringError
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection, QuestionsSection
from serve.books import Books
from serve.budgets import UNLIMITED, Caller, Worst
from serve.calls import Call, drawn
from serve.cli import app
from serve.ledger import Used
from serve.opinions import Opinion
from serve.quality_feedback import examples_of
from serve.questions import MAX_CHARS, MAX_WAITING, Asked, JudgedQuestion, Keeper, Questions
from tests.fakes import FakeClock
from tests.gateways import eventually, serving

HERE = "default"


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    opened = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    yield opened
    await opened.close()


def _kept(tmp_path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(next(tmp_path.rglob("accounts.db"))) as connection:
        return connection.execute("SELECT tenant, question FROM questions ORDER BY at").fetchall()


def _call(number: int = 0, **values: object) -> Call:
    return Call({}, f"req_{number}", 0.0, 9.0, **{"tenant": HERE, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["auto", "small"])
async def test_a_judged_question_of_a_tenant_that_consents_is_there_to_learn_from(
    tmp_path: Path, books: Books, model: str
) -> None:
    keeper = Keeper(books.questions, QuestionsSection(tenants=(HERE,)), SystemClock())
    said = [{"role": "user", "content": "Write to ada@example.com, please."}]
    async with serving(GatewaySection(), books=books, questions=keeper) as stack:
        status, _, headers = await stack.chat(model=model, messages=said)
        assert status == 200
        await keeper.close()
        await eventually(lambda: bool(_kept(tmp_path)))
        given = {"request_id": headers["x-request-id"], "verdict": "accepted"}
        async with stack.client.post(f"{stack.url}/v1/feedback", json=given) as response:
            assert response.status == 200
    (judged,) = books.questions.judged()
    assert (judged.question, judged.model) == ("Write to [EMAIL], please.", "small")
    assert judged.verdict == "accepted"


@pytest.mark.parametrize(
    ("tenants", "fields", "headers"),
    [
        ((), {}, {}),
        (("acme",), {}, {}),
        ((HERE,), {"mainspring": {"class": "batch"}}, {}),
        ((HERE,), {"response_format": {"type": "json_object"}}, {}),
        ((HERE,), {}, {"cache-control": "No-Store"}),
        ((HERE,), {"messages": [{"role": "user", "content": " "}]}, {}),
    ],
)
async def test_nothing_else_is_kept(
    tmp_path: Path, books: Books, tenants: tuple[str, ...], fields: dict[str, object],
    headers: dict[str, str],
) -> None:  # fmt: skip
    keeper = Keeper(books.questions, QuestionsSection(tenants=tenants), SystemClock())
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], **fields}
    async with serving(GatewaySection(), books=books, questions=keeper) as stack:
        url = f"{stack.url}/v1/chat/completions"
        async with stack.client.post(url, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
        await keeper.close()
    assert _kept(tmp_path) == []


async def test_only_its_share_is_kept_the_same_on_every_gateway(
    tmp_path: Path, books: Books
) -> None:
    section = QuestionsSection(tenants=(HERE,), share=0.3)
    for _ in range(2):
        keeper = Keeper(books.questions, section, SystemClock())
        for number in range(400):
            keeper.offer(_call(number), "Hello")
        await keeper.close()
    count = len(_kept(tmp_path))
    assert 80 < count < 160
    assert count == sum(drawn(f"req_{n}", 0.3, "question") for n in range(400))


async def test_what_is_kept_has_bounds(tmp_path: Path, books: Books) -> None:
    section = QuestionsSection(tenants=(HERE,), most=3, days=1.0)
    clock = FakeClock()
    keeper = Keeper(Questions(books.questions._accounts, clock), section, clock)
    for number in range(5):
        keeper.offer(_call(number), f"{number} " + "x" * 9_000)
        await keeper.close()
        clock.step(1.0)
    kept = [question for _, question in _kept(tmp_path)]
    assert [question[0] for question in kept] == ["2", "3", "4"]
    assert all(len(question) == MAX_CHARS for question in kept)


def test_old_ones_go_and_other_tenants_are_left_alone(tmp_path: Path, books: Books) -> None:
    clock = FakeClock()
    questions = Questions(books.questions._accounts, clock)
    day = 86_400.0
    questions.keep([Asked("acme", "r0", clock.now(), "theirs")], 5.0, 10)
    questions.keep([Asked(HERE, "r0", clock.now(), "old")], 5.0, 10)
    clock.step(6 * day)
    questions.keep([Asked(HERE, "r1", clock.now(), "new")], 5.0, 10)
    assert sorted(_kept(tmp_path)) == [("acme", "theirs"), (HERE, "new")]


async def test_a_full_queue_and_a_broken_database_cost_questions_and_nothing_else(
    tmp_path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(books.questions, QuestionsSection(tenants=(HERE,)), SystemClock())
    for number in range(MAX_WAITING + 50):
        keeper.offer(_call(number), "Hello")
    await keeper.close()
    assert len(_kept(tmp_path)) == MAX_WAITING

    def fails(*_: object) -> None:
        raise MainspringError("the disk is full")

    monkeypatch.setattr(books.questions, "keep", fails)
    keeper.offer(_call(9_999), "Hello")
    await keeper.close()
    monkeypatch.undo()
    keeper.offer(_call(10_000), "Hello again")
    await keeper.close()
    assert len(_kept(tmp_path)) == MAX_WAITING + 1


def test_forgotten_questions_are_in_no_file(tmp_path: Path, books: Books) -> None:
    secret = "kumquat marmalade"
    asked = [Asked(HERE, f"r{n}", time.time() - 9 + n, f"{n} {secret}") for n in range(3)]
    books.questions.keep(asked, 9.0, 10)
    with sqlite3.connect(next(tmp_path.rglob("accounts.db"))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert _in_files(tmp_path, secret)
    assert books.questions.forget("acme") == (0, True)
    assert books.questions.forget(HERE, "r1") == (1, True)
    assert [question[0] for _, question in _kept(tmp_path)] == ["0", "2"]
    assert books.questions.forget(HERE) == (2, True)
    assert not _in_files(tmp_path, secret)


def _in_files(folder: Path, words: str) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return any(words.encode() in path.read_bytes() for path in files)


def _said(number: int, model: str, verdict: Verdict | None, score: float | None = None):  # type: ignore[no-untyped-def]
    return JudgedQuestion(HERE, f"req_{number}", f"Question {number}", model, verdict, score)


def test_a_label_is_what_was_said_of_the_model_that_answered() -> None:
    judged = [
        _said(n, "big" if n % 2 else "small", None if n % 5 == 0 else "accepted", 0.4)
        for n in range(100)
    ]
    judged += [_said(1_000, "rare", "accepted")]
    taught, held = examples_of(judged, "taught"), examples_of(judged, "held back")
    assert taught.models == held.models == ("big", "small")
    assert not set(taught.texts) & set(held.texts)
    assert len(taught.texts) + len(held.texts) == 100
    for part in (taught, held):
        numbers = np.array([int(text.split()[1]) for text in part.texts])
        assert (part.labelled == np.stack([numbers % 2 == 1, numbers % 2 == 0], axis=1)).all()
        assert (part.right[part.labelled] == (numbers % 5 != 0)).all()
    assert examples_of(judged, "taught", {"small": "tiny"}).models == ("big", "tiny")


def test_too_few_labels_are_counted_in_what_is_refused() -> None:
    judged = [_said(n, "small", "rejected") for n in range(30)] + [_said(99, "big", "accepted")]
    with pytest.raises(InvalidInput, match=r"1 of big, 30 of small.*at least 20"):
        examples_of(judged, "taught")
    with pytest.raises(InvalidInput, match="none"):
        examples_of([], "taught")


async def test_a_head_is_trained_judged_and_promoted_from_feedback(
    tmp_path: Path, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People like both models' small talk, and of sums only the larger model's."""
    rng = np.random.default_rng(0)
    asked: list[Asked] = []
    settled: list[tuple[str, str, Verdict]] = []
    for number in range(400):
        hard, model = bool(rng.random() < 0.5), ("big", "small")[int(rng.random() < 0.5)]
        question = f"How much is {number} * {number % 7} / 3 = ?" if hard else f"Good day {number}"
        asked.append(Asked(HERE, f"req_{number}", time.time() - 999 + number, question))
        right = not hard or model == "big"
        settled.append((f"req_{number}", model, "accepted" if right else "rejected"))
    books.questions.keep(asked, 9.0, 1_000)
    for request, model, verdict in settled:
        used = Used(
            request_id=request, model=model, status=200, tokens_in=5, tokens_out=5, cost_nano=0
        )
        hold = await books.admission.enter(Caller(HERE, "k"), UNLIMITED, Worst(0, 0), 9.0)
        await books.admission.leave(hold, used)
        books.opinions.say(HERE, "k", request, Opinion(verdict))
    monkeypatch.setenv("MAINSPRING_DATA_DIR", str(tmp_path))
    out = str(tmp_path / "head")
    metrics = json.loads(_ok("router", "train", "--from-feedback", "--out", out))
    assert metrics["models"]["small"]["labels"] + metrics["models"]["big"]["labels"] > 280
    assert metrics["apgr"] is None
    held = json.loads(_ok("router", "evaluate", out, "--from-feedback"))
    assert 50 < held["examples"] < 120
    assert held["models"]["small"]["squared_error"] < 0.1 < held["models"]["small"]["right"] < 0.9
    assert "version 1 is in use" in _ok("router", "promote", out, "--from-feedback")
    assert "kept version 1" in _run("router", "promote", out, "--from-feedback").output
    assert "400 questions are gone" in _ok("router", "forget")
    refused = _run("router", "train", "--from-feedback", "--out", out)
    assert refused.exit_code and isinstance(refused.exception, InvalidInput)


@pytest.mark.parametrize("words", [[], ["--from", "x.jsonl", "--from-feedback"]])
def test_examples_come_from_one_place(words: list[str], tmp_path: Path) -> None:
    done = _run("router", "train", *words, "--out", str(tmp_path))
    assert isinstance(done.exception, InvalidInput)
    assert "--from-feedback" in str(done.exception)


def _run(*words: str) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(CliRunner().invoke, app, list(words)).result()


def _ok(*words: str) -> str:
    done = _run(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return str(done.output)
