"""Changed settings taken up by the live stack while it answers, and its logs by their ids."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture
def profile(demo: Demo) -> Iterator[Path]:
    """The running stack's, put back and in force afterwards."""
    path = Path(demo.environment["MAINSPRING_PROFILE"])
    before = path.read_text("utf-8")
    yield path
    path.write_text(before, "utf-8")
    back = demo.mainspring("reload")
    assert back.returncode == 0, back.stdout + back.stderr


def _write(path: Path, **sections: Any) -> None:
    values = yaml.safe_load(path.read_text("utf-8"))
    path.write_text(yaml.safe_dump({**values, **sections}), "utf-8")


def test_settings_are_taken_up_while_clients_go_on(
    demo: Demo, profile: Path, client: openai.OpenAI
) -> None:
    failed: list[str] = []
    done: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                with client.chat.completions.create(
                    model="routine", max_tokens=64, stream=True,
                    messages=[{"role": "user", "content": f"Tell me of {time.monotonic()}"}],
                ) as stream:  # fmt: skip
                    chunks = list(stream)
                done.append(len(chunks))
                if chunks[-1].choices and not chunks[-1].choices[0].finish_reason:
                    failed.append("no end")
            except openai.OpenAIError as error:
                failed.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        assert _status(demo, 5_000) == 200
        _write(profile, gateway={"max_body_bytes": 2_000}, tenant="another")
        reloaded = demo.mainspring("reload")
    finally:
        over.set()
        for thread in clients:
            thread.join(120)
    assert reloaded.returncode == 3, reloaded.stdout + reloaded.stderr
    assert "in force: gateway.max_body_bytes, the policy" in reloaded.stdout
    assert "need a restart: tenant" in reloaded.stdout
    assert _status(demo, 5_000) == 413
    assert _status(demo, 100) == 200
    assert failed == [] and len(done) > 4


def test_a_wrong_profile_changes_nothing(demo: Demo, profile: Path) -> None:
    before = profile.read_text("utf-8")
    _write(profile, gateway={"max_body_bytes": -1})
    wrong = demo.mainspring("reload")
    assert wrong.returncode != 0
    assert "gateway.max_body_bytes" in wrong.stderr
    assert _status(demo, 5_000) == 200
    profile.write_text(before, "utf-8")


def test_the_logs_find_what_is_of_one_request_and_of_one_run(demo: Demo) -> None:
    with httpx.Client(base_url=demo.url, timeout=30) as http:
        body = {"model": "nobody", "messages": [{"role": "user", "content": "hello"}]}
        refused = http.post(
            "/v1/chat/completions", json=body, headers={"x-request-id": "req-of-a-test"}
        )
        assert refused.status_code == 404
        run = http.get("/v1/runs", params={"limit": 1}).json()["data"][0]["id"]
    found = _logged(demo, "--request", "req-of-a-test")
    assert len(found) == 1 and "POST /v1/chat: 404" in found[0]
    assert any("worked in" in line or "waits" in line for line in _logged(demo, "--run", run))


def _logged(demo: Demo, *words: str) -> list[str]:
    """What the command shows; a process may write a moment later."""
    deadline = time.monotonic() + 10
    while True:
        shown = demo.mainspring("logs", *words)
        assert shown.returncode == 0, shown.stderr
        if (lines := shown.stdout.splitlines()) or time.monotonic() > deadline:
            return lines


def _status(demo: Demo, length: int) -> int:
    """Of a request whose body has so many bytes more than it needs."""
    body = {"model": "routine", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    content = json.dumps(body) + " " * length
    headers = {"content-type": "application/json"}
    url = f"{demo.url}/v1/chat/completions"
    return httpx.post(url, content=content, headers=headers, timeout=60).status_code
