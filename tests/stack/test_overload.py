"""The live engines take priorities and the class of work."""

from collections.abc import Iterator

import httpx
import pytest

from serve.directory import LOOK_S
from serve.watch import POLL_S
from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

STOPS_S = 1.0
TOLD_S = LOOK_S + POLL_S + 1.0  # the count's own way here: engine, directory, gateway, /metrics
LONG = {
    "model": "routine", "stream": True, "max_tokens": 700, "ignore_eos": True,
    "messages": [{"role": "user", "content": "Say all that you know."}],
}  # fmt: skip


@pytest.fixture
def http(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url, timeout=60) as client:
        yield client


def test_batch_work_and_priorities_are_taken_by_the_live_engine(http: httpx.Client) -> None:
    body = {"model": "routine", "max_tokens": 4, "messages": LONG["messages"]}
    for fields in ({"priority": -5}, {"mainspring": {"class": "batch"}}, {"priority": 9}):
        assert http.post("/v1/chat/completions", json={**body, **fields}).status_code == 200
    refused = http.post("/v1/chat/completions", json={**body, "priority": 10**9})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")
