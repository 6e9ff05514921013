"""Errors in the shape that an OpenAI client expects."""

import json
import pickle

import pytest

from cluster.errors import (
    DataError,
    DeadlineExceeded,
    Hurried,
    InvalidInput,
    MainspringError,
    NotFound,
    Overloaded,
    Unauthorized,
    Unavailable,
)
from serve.door import TooLarge
from serve.problems import Refused, engine_problem, problem_of
from serve.schemas import MAX_DEPTH, ChatRequest, parse_body, read


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param"),
    [
        (InvalidInput("n", 0, "1 or more"), 400, "invalid_request_error", "invalid_value", "n"),
        (NotFound("model", "x"), 404, "invalid_request_error", "model_not_found", "model"),
        (NotFound("run", "x"), 404, "invalid_request_error", "not_found", None),
        (Unauthorized(), 401, "authentication_error", "invalid_api_key", None),
        (Overloaded("m", "full"), 429, "rate_limit_error", "overloaded", None),
        (Unavailable("m", "down"), 503, "server_error", "unavailable", None),
        (DeadlineExceeded("m", 2), 504, "server_error", "deadline_exceeded", None),
        (Hurried("m", 2), 408, "invalid_request_error", "deadline_exceeded", None),
        (Refused(400, "no", "why", "tools"), 400, "invalid_request_error", "why", "tools"),
        (TooLarge(10), 413, "invalid_request_error", "request_too_large", None),
    ],
)
def test_each_error_has_its_shape(
    error: MainspringError, status: int, kind: str, code: str, param: str | None
) -> None:
    problem = problem_of(error)
    body = json.loads(bytes(problem.response().body))["error"]
    assert (problem.status, body["type"], body["code"], body["param"]) == (
        status, kind, code, param,
    )  # fmt: skip
    assert body["message"]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_inner_errors_keep_their_text_inside() -> None:
    problem = problem_of(DataError("/secret/journal.db", "page 7"))
    assert problem.status == 500
    assert "secret" not in json.dumps(problem.body())


def test_retry_after_is_whole_seconds() -> None:
    assert problem_of(Overloaded("m", "full", 0.2)).response().headers["retry-after"] == "1"
    assert problem_of(Unavailable("m", "down", 2.4)).response().headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("maximum context length is 1024", "context_length_exceeded", "messages"),
        ("max_tokens must be at least 1", "invalid_value", "max_tokens"),
        ("Grammar error", "invalid_value", "response_format"),
    ],
)
def test_engine_refusals_are_reshaped(message: str, code: str, param: str) -> None:
    body = {"error": {"message": message, "param": "response_format", "code": 400}}
    problem = engine_problem(400, json.dumps(body).encode())
    assert (problem.status, problem.code, problem.param) == (400, code, param)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": 3}', b'{"error": {}}', b"null"]
)
def test_unreadable_engine_refusals_still_say_something(body: bytes) -> None:
    assert engine_problem(400, body).message == "the engine refused the request"


def test_engine_reports_are_cut_to_a_line() -> None:
    body = json.dumps({"error": {"message": "bad\n" + "input " * 999}}).encode()
    assert engine_problem(422, body).message == "bad"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"3", b'{"a": NaN}', b'{"a": 1e999}', b"\xff\xfe", b'{"a": "\\ud800"}',
        b"[" * 100_000, b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_bodies_that_are_not_clean_json_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_body(body)
    assert caught.value.field == "body"


HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"messages": HELLO}, "model"),
        ({"model": 3, "messages": HELLO}, "model"),
        ({"model": "auto"}, "messages"),
        ({"model": "auto", "messages": []}, "messages"),
        ({"model": "auto", "messages": "hi"}, "messages"),
        ({"model": "auto", "messages": [{"role": "king", "content": ""}]}, "messages.0.role"),
        ({"model": "auto", "messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"model": "auto", "messages": HELLO, "stream": "yes"}, "stream"),
        ({"model": "auto", "messages": HELLO, "n": 100_000}, "n"),
        ({"model": "auto", "messages": HELLO, "mainspring": {"x": 1}}, "mainspring.x"),
    ],
)
def test_wrong_fields_are_named(payload: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(ChatRequest, payload)
    assert caught.value.field == field


def test_engine_validation_reports_keep_the_sentence_and_drop_the_input() -> None:
    report = (
        "2 validation errors:\n  {'type': 'float_parsing', 'loc': ('body', 'temperature'), "
        "'msg': 'Input should be a valid number', 'input': 'my secret'}\n  {'msg': 'x', 'y': 1}"
    )
    body = json.dumps({"error": {"message": report, "param": "body.temperature"}}).encode()
    problem = engine_problem(400, body)
    assert (problem.message, problem.param) == ("Input should be a valid number", "temperature")
