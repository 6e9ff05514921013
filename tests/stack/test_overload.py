"""The live engines stop for who has gone, and take priorities and the class of work; a stack
that is drained begins nothing new, and can be taken back."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from serve.directory import LOOK_S
from serve.watch import POLL_S
from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

STOPS_S = 1.0
TOLD_S = LOOK_S + POLL_S + 1.0  # the count's own way here: engine, directory, gateway, /metrics
LONG = {
    "model": "routine", "stream": True, "max_tokens": 900, "ignore_eos": True, "n": 8,
    "messages": [{"role": "user", "content": "Say all that you know."}],
}  # fmt: skip


@pytest.fixture
def http(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url, timeout=60) as client:
        yield client


def running(http: httpx.Client) -> float:
    """Requests that the routine engine generates for, as its own scheduler counts them."""
    name = 'mainspring_engine_running{model="routine"} '
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took, seconds; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("stream", [True, False, False, False])
def test_the_engine_stops_within_a_second_of_its_client_leaving(
    http: httpx.Client, demo: Demo, stream: bool
) -> None:
    until(lambda: running(http) == 0, 20)
    with httpx.Client(base_url=demo.url, timeout=60) as leaving:
        body = {**LONG, "stream": stream}
        request = leaving.build_request("POST", "/v1/chat/completions", json=body)
        if stream:
            answer = leaving.send(request, stream=True)
            assert answer.status_code == 200, answer.read()
            chunks = answer.iter_bytes()  # an iterator that nobody holds closes the connection
            next(chunks)
            until(lambda: running(http) > 0, 10)
            answer.close()
        else:
            request.extensions["timeout"] = {"read": 1.5, "connect": 5, "write": 5, "pool": 5}
            with pytest.raises(httpx.ReadTimeout):
                leaving.send(request)
    until(lambda: running(http) == 0, STOPS_S + TOLD_S)


def test_batch_work_and_priorities_are_taken_by_the_live_engine(http: httpx.Client) -> None:
    body = {"model": "routine", "max_tokens": 4, "messages": LONG["messages"]}
    for fields in ({"priority": -5}, {"mainspring": {"class": "batch"}}, {"priority": 9}):
        assert http.post("/v1/chat/completions", json={**body, **fields}).status_code == 200
    refused = http.post("/v1/chat/completions", json={**body, "priority": 10**9})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")


def test_a_drained_stack_turns_work_away_until_it_is_taken_back(
    http: httpx.Client, demo: Demo
) -> None:
    body = {"model": "routine", "max_tokens": 4, "messages": LONG["messages"]}
    done = demo.mainspring("drain", "--deadline", "60")
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        refused = http.post("/v1/chat/completions", json=body)
        assert (refused.status_code, "drained" in refused.text) == (503, True)
        assert int(refused.headers["retry-after"]) > 0
        assert http.get("/readyz").status_code == 503
    finally:
        back = demo.mainspring("drain", "--resume")
    assert back.returncode == 0, back.stdout + back.stderr
    until(lambda: http.post("/v1/chat/completions", json=body).status_code == 200, 10)


def test_one_look_tells_how_the_stack_does(demo: Demo) -> None:
    shown = demo.mainspring("status", "--json")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert not json.loads(shown.stdout)["silent"]


def test_the_logs_of_its_processes_are_shown_as_one(demo: Demo) -> None:
    shown = demo.mainspring("logs", "--level", "INFO")
    assert shown.returncode == 0, shown.stderr
    assert "engine routine answers at" in shown.stdout
    assert demo.mainspring("logs", "--run", "no-such-run").stdout.strip() == ""
