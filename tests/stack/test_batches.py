"""Batches on the real stack, with the official client, while their worker is killed."""

import json
import time
from typing import Any

import httpx
import openai
import pytest
from psutil import Process

from tests.bulk import jsonl, request
from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
COUNT = 120


def test_a_batch_whose_worker_is_killed_loses_and_doubles_nothing(
    client: openai.OpenAI, demo: Demo
) -> None:
    rows = [request(f"r{i}", model="routine") for i in range(COUNT)]
    for row in rows:
        row["body"]["max_tokens"] = 8
    file = client.files.create(file=("in.jsonl", jsonl(rows)), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    until(client, made.id, lambda b: b.request_counts.completed > COUNT // 10)
    (worker,) = [p for p in Process(demo.pid).children(recursive=True) if "Bulk" in p.name()]
    worker.kill()
    done = until(client, made.id, lambda b: b.status == "completed")
    assert (done.request_counts.total, done.request_counts.completed) == (COUNT, COUNT)
    text = client.files.content(done.output_file_id or "").text
    found = [json.loads(line) for line in text.splitlines()]
    assert [line["custom_id"] for line in found] == [f"r{i}" for i in range(COUNT)]
    assert all(line["response"]["body"]["choices"][0]["message"]["content"] for line in found)
    billed = httpx.get(f"{demo.url}/v1/usage", params={"by": "run", "run": made.id}).json()
    assert billed["data"][0]["requests"] >= COUNT


def until(client: openai.OpenAI, id: str, good: Any, seconds: float = 120.0) -> Any:
    """The batch once it is `good`."""
    deadline = time.monotonic() + seconds
    while not good(found := client.batches.retrieve(id)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found
