"""Batches are worked through: each line is answered once, whatever breaks on the way."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.bulk.asking import Told
from serve.bulk.judging import judged
from serve.bulk.lines import MAX_LINE_BYTES, Answered, Fault, Line, Reader, split
from serve.bulk.pacing import NOBODY, STEP_S, Pace, next_pace
from serve.directory import Directory, Online
from tests.bulk import CHAT, Office, request
from tests.fakes import FakeClock


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(tmp_path)
    made.start()
    yield made
    await made.kill()
    made.archive.close()


async def test_every_line_is_answered_in_the_files_order(office: Office) -> None:
    asked = [request(f"r{i}") for i in range(40)]
    done = await office.ended(office.submit(asked))
    rows = office.rows(done.output_file)
    assert (done.status, done.lines, done.right_lines, done.wrong_lines) == ("completed", 40, 40, 0)
    assert [row["custom_id"] for row in rows] == [line["custom_id"] for line in asked]
    assert rows[0]["response"] == {
        "status_code": 200, "request_id": "req-1", "body": {"said": "ok"},
    }  # fmt: skip
    assert done.error_file == ""


async def test_a_refused_line_is_in_the_error_file_alone(office: Office) -> None:
    async def picky(line: Line) -> Told:
        status = 400 if line.custom_id == "bad" else 200
        return Told(status, "r", b'{"error": {"code": "invalid_value"}}')

    office.gateway.behave = picky
    done = await office.ended(office.submit([request("good"), request("bad")]))
    assert (done.status, done.right_lines, done.wrong_lines) == ("completed", 1, 1)
    assert [r["custom_id"] for r in office.rows(done.output_file)] == ["good"]
    (wrong,) = office.rows(done.error_file)
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("bad", 400)


async def test_a_busy_engine_is_asked_again(office: Office) -> None:
    async def busy_at_first(line: Line) -> Told:
        if office.gateway.asked.count(line.custom_id) == 1:
            return Told(429, "r", b'{"error": {"code": "overloaded"}}')
        return Told(200, "r", b"{}")

    office.gateway.behave = busy_at_first
    done = await office.ended(office.submit([request("a")]))
    assert done.right_lines == 1
    assert office.gateway.asked == ["a", "a"]


async def test_a_line_that_breaks_engines_is_given_up(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.bulk.asking.FIRST_PAUSE_S", 0.01)

    async def broken(_: Line) -> Told:
        return Told(500, "r", b'{"error": {"code": "internal_error"}}')

    office.gateway.behave = broken
    done = await office.ended(office.submit([request("a")]))
    assert (done.status, done.wrong_lines) == ("completed", 1)
    assert len(office.gateway.asked) == 6


async def test_after_a_kill_no_line_is_lost_or_doubled(office: Office) -> None:
    office.gateway.pause_s = 0.05
    batch = office.submit([request(f"r{i}") for i in range(60)])
    await office.until(batch, lambda b: 10 < b.right_lines < 50)
    await office.kill()
    office.runner = office.worker()
    office.start()
    done = await office.ended(batch)
    told = [row["custom_id"] for row in office.rows(done.output_file)]
    assert told == [f"r{i}" for i in range(60)]
    assert (done.lines, done.right_lines) == (60, 60)
    assert len(office.gateway.asked) <= 60 + office.ceiling


async def test_two_who_work_on_one_batch_answer_each_line_once(office: Office) -> None:
    office.gateway.pause_s = 0.02
    batch = office.submit([request(f"r{i}") for i in range(30)])
    second = asyncio.ensure_future(office.worker().run())
    try:
        done = await office.ended(batch)
    finally:
        second.cancel()
    told = [row["custom_id"] for row in office.rows(done.output_file)]
    assert told == [f"r{i}" for i in range(30)]
    assert (done.right_lines, done.wrong_lines) == (30, 0)


async def test_a_cancelled_batch_keeps_what_was_answered(office: Office) -> None:
    async def half(line: Line) -> Told:
        if line.number > 4:
            await asyncio.sleep(60)
        return Told(200, "r", b"{}")

    office.gateway.behave = half
    batch = office.submit([request(f"r{i}") for i in range(12)])
    batch = await office.until(batch, lambda b: b.right_lines == 4)
    office.archive.batches.move(batch, "cancelling", office.clock.now())
    done = await office.ended(batch)
    assert done.status == "cancelled"
    assert len(office.rows(done.output_file)) == 4
    errors = office.rows(done.error_file)
    assert len(errors) == 8
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    assert office.gateway.waiting == 0
    assert office.gateway.withdrawn == [batch.id]


async def test_a_line_that_is_not_done_yet_gives_its_place_to_others(tmp_path: Path) -> None:
    office = Office(tmp_path, ceiling=1)

    async def later(line: Line) -> Told:
        waits = line.custom_id == "slow" and office.gateway.asked.count("slow") < 3
        return Told(202) if waits else Told(200, "r", b"{}", usd=0.25)

    office.gateway.behave = later
    office.start()
    done = await office.ended(office.submit([request("slow"), request("quick")]))
    assert office.gateway.asked == ["slow", "quick", "slow", "slow"]
    assert (done.status, done.right_lines, done.usd) == ("completed", 2, 0.5)
    assert office.gateway.withdrawn == []
    await office.kill()
    office.archive.close()


async def test_an_answer_that_is_not_the_expected_one_is_told_as_wrong(office: Office) -> None:
    said = json.dumps({"choices": [{"message": {"content": " Paris\n"}}]}).encode()

    async def paris(_: Line) -> Told:
        return Told(200, "r", said)

    office.gateway.behave = paris
    rows = [request("a", expect="paris"), request("b", expect="Rome"), request("c")]
    done = await office.ended(office.submit(rows))
    assert (done.right_lines, done.wrong_lines) == (2, 1)
    (wrong,) = office.rows(done.error_file)
    assert wrong["response"]["body"] == json.loads(said)
    expected = {"code": "not_as_expected", "message": 'it is " Paris\\n", not "Rome"'}
    assert (wrong["custom_id"], wrong["error"]) == ("b", expected)


RUN = {
    "object": "run", "status": "ended", "decision": "returned", "result": {"cents": 500},
    "effects": [{"tool": "shop.label", "state": "DONE"}, {"tool": "x", "state": "DENIED"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "expect", "wrong"),
    [
        (RUN, "returned", ""),
        (RUN, "denied", 'it is "returned", not "denied"'),
        (RUN, {"decision": "returned", "done": ["shop.label"], "cents": 500}, ""),
        (RUN, {"cents": 400, "done": []}, 'cents is 500, not 400; done is ["shop.label"], not []'),
        ({"choices": [{"text": "4"}]}, 4, ""),
        ({"output": [{"content": [{"text": "a"}, {"text": "b"}]}]}, "AB", ""),
        ({"output": [None]}, "x", 'it is "", not "x"'),
        (None, {"a": 1}, "a is null, not 1"),
        ({"wrong": ""}, {"wrong": ""}, ""),
    ],
)
def test_what_is_expected_of_an_answer(body: Any, expect: Any, wrong: str) -> None:
    answer = Answered(200, "r", json.dumps(body))
    assert judged(answer, json.dumps(expect)).message == wrong
    assert judged(replace(answer, code="not_done"), json.dumps(expect)).code == "not_done"


async def test_an_expired_batch_keeps_what_was_answered(office: Office) -> None:
    async def half(line: Line) -> Told:
        if line.number > 2:
            await asyncio.sleep(60)
        return Told(200, "r", b"{}")

    office.gateway.behave = half
    done = await office.ended(office.submit([request(f"r{i}") for i in range(5)], seconds=1.5))
    assert done.status == "expired"
    assert len(office.rows(done.output_file)) == 2
    assert [r["error"]["code"] for r in office.rows(done.error_file)] == ["batch_expired"] * 3


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [
        ([], "empty_file", 0),
        ([request("a"), "{not json"], "invalid_json_line", 2),
        ([request("a"), request("b"), request("a")], "duplicate_custom_id", 3),
        ([request("a"), request("b", model="planner")], "mismatched_model", 2),
        ([request("a", model="gpt-none")], "model_not_found", 1),
        ([request("a", url="/v1/embeddings")], "invalid_url", 1),
        ([request("a", method="GET")], "invalid_method", 1),
        ([request("")], "invalid_custom_id", 1),
        ([request("a", extra=1)], "unknown_key", 1),
        (["[1, 2]"], "invalid_json_line", 1),
        ([request("a", body=3)], "invalid_body", 1),
        (["x" * (MAX_LINE_BYTES + 9)], "line_too_long", 1),
    ],
)
async def test_a_wrong_file_fails_with_its_line(
    office: Office, rows: list[Any], code: str, line: int
) -> None:
    done = await office.ended(office.submit(rows))
    assert done.status == "failed"
    assert (done.errors[0]["code"], done.errors[0]["line"]) == (code, line)
    assert office.gateway.asked == []


async def test_batches_take_turns(office: Office) -> None:
    office.gateway.pause_s = 0.1
    long = office.submit([request(f"long{i}") for i in range(300)], id="batch_1")
    await office.until(long, lambda b: b.right_lines > 0)
    short = office.submit([request(f"short{i}") for i in range(5)], id="batch_2")
    await office.ended(short)
    assert office.archive.batches.batch("t", long.id).status == "in_progress"


async def test_files_of_answers_say_the_same_when_they_are_written_again(office: Office) -> None:
    batch = office.submit([request("a"), request("b")])
    done = await office.ended(batch)
    first = office.rows(done.output_file)
    office.runner._file_of(done, True, "completed")
    assert office.rows(done.output_file) == first


def test_lines_come_whole_however_the_file_is_cut() -> None:
    text = b'{"a": 1}\n\n{"b": "\xc3\xa4"}'
    for size in range(1, len(text) + 1):
        parts = [text[i : i + size] for i in range(0, len(text), size)]
        assert list(split(parts)) == [b'{"a": 1}', b"", b'{"b": "\xc3\xa4"}']


def test_no_more_lines_than_a_batch_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.bulk.lines.MAX_LINES", 1)
    reader = Reader(CHAT, {"model": ["auto"]})
    line = b'{"custom_id": "%s", "method": "POST", "url": "%s", "body": {"model": "auto"}}'
    assert isinstance(reader.read(1, line % (b"a", CHAT.encode())), Line)
    found = reader.read(2, line % (b"b", CHAT.encode()))
    assert isinstance(found, Fault)
    assert found.code == "too_many_lines"


SLOW, FAST = Online(0.9, 3, 0.1), Online(0.2, 3, 0.1)


@pytest.mark.parametrize(
    ("online", "refused", "limit"),
    [
        (NOBODY, False, 24.0),  # all that is idle
        (FAST, False, 17.0),
        (SLOW, False, 8.0),
        (FAST, True, 8.0),
        (NOBODY, True, 8.0),
    ],
)
def test_the_pace_follows_what_online_requests_see(
    online: Online, refused: bool, limit: float
) -> None:
    pace = next_pace(Pace(16.0, 0.0), online, refused, 0.5, 64, STEP_S)
    assert pace.limit == limit


def test_the_pace_stays_within_its_bounds() -> None:
    lowest = next_pace(Pace(1.0, 0.0), SLOW, True, 0.5, 64, STEP_S)
    assert lowest.allowed == 1  # a batch always goes on
    assert next_pace(Pace(64.0, 0.0), NOBODY, False, 0.5, 64, STEP_S).allowed == 64
    assert next_pace(lowest, NOBODY, False, 0.5, 64, lowest.at + STEP_S / 2) is lowest


def test_the_pace_is_lowered_again_only_once_the_effect_is_seen() -> None:
    pace, limits = Pace(32.0, 0.0), []
    for step in range(1, 10):
        pace = next_pace(pace, SLOW, False, 0.5, 64, step * STEP_S)
        limits.append(pace.limit)
    assert limits == [16.0] * 4 + [8.0] * 4 + [4.0]


def test_what_gateways_see_of_their_clients_adds_up_until_it_is_old() -> None:
    clock = FakeClock()
    directory = Directory(clock, lease_s=8.0)
    directory.report("g1", Online(0.2, 3, 0.5))
    clock.step(5.0)
    directory.report("g2", Online(0.7, 1, 4.0))
    assert directory.online() == Online(0.7, 4, 0.5)
    clock.step(5.0)
    assert directory.online() == Online(0.7, 1, 4.0)
