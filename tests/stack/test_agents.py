"""Agents and runs of a running stack, over HTTP and from the command line."""

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@pytest.fixture
def http(demo: Demo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{demo.url}/v1", timeout=60) as client:
        yield client


def ended(http: httpx.Client, run: str, seconds: float = 60.0) -> dict[str, object]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        body: dict[str, object] = http.get(f"/runs/{run}").json()
        if body["status"] == "ended":
            return body
        time.sleep(0.1)
    raise TimeoutError(run)


@pytest.mark.parametrize("isolated", [False, True])
def test_an_agent_answers_with_its_model_and_remembers(http: httpx.Client, isolated: bool) -> None:
    name = f"desk-{isolated}"
    spec = {"id": name, "model": "routine", "instructions": "Be brief.", "isolated": isolated}
    assert http.post("/agents", json=spec).status_code == 201
    for number in (1, 2):
        answer = http.post(f"/agents/{name}/messages", json={"content": f"hello {number}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["run"]["decision"] == "answered"
        assert answer.json()["content"]
    seen = http.get(f"/agents/{name}").json()
    assert [t["message"] for t in seen["last_turns"]] == ["hello 1", "hello 2"]
    assert http.get(f"/agents/{name}/replay").json()["same"] is True


def test_a_message_streams_its_runs_events_and_the_answer(http: httpx.Client) -> None:
    http.post("/agents", json={"id": "streamer", "model": "routine"})
    body = {"content": "hello", "stream": True}
    with http.stream("POST", "/agents/streamer/messages", json=body) as response:
        lines = [line for line in response.iter_lines() if line.startswith(("event", "data"))]
    assert "event: run_started" in lines
    assert json.loads(lines[-2].removeprefix("data: "))["run"]["decision"] == "answered"
    assert lines[-1] == "data: [DONE]"


def test_a_support_run_is_begun_over_http_and_seen_from_the_command_line(
    demo: Demo, http: httpx.Client
) -> None:
    asked = {"workflow": "support", "input": {"ticket": "T-001", "head": "support"}}
    run = http.post("/runs", json=asked).json()["id"]
    over = ended(http, run)
    assert over["decision"] in {"replied", "escalated"}
    environment = {**demo.environment, "MAINSPRING_DATA_DIR": str(demo.home / "demo")}
    other = Demo(demo.url, demo.home, {}, demo.output, environment, demo.pid)
    followed = other.mainspring("runs", "follow", run)
    assert followed.returncode == 0, followed.stderr
    assert "run_started" in followed.stdout
    assert "run_ended" in followed.stdout
    shown = other.mainspring("runs", "show", run)
    assert "hash chain whole" in shown.stdout


def test_a_follower_of_a_run_is_told_over_the_orchestrators_death(
    demo: Demo, http: httpx.Client
) -> None:
    """The orchestrator is killed while a stream is open and runs are under way."""
    asked = {"workflow": "support", "input": {"ticket": "T-002", "head": "support"}}
    runs = [http.post("/runs", json=asked).json()["id"] for _ in range(6)]
    killed: list[int] = []
    with http.stream("GET", f"/runs/{runs[-1]}/events") as response:
        kinds = []
        for line in response.iter_lines():
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if not killed:
                killed = [pid for pid in orchestrators() if _kill(pid)]
    assert killed, "no orchestrator was found to kill"
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_ended"
    for run in runs:
        assert ended(http, run)["decision"] in {"replied", "escalated"}
    with sqlite3.connect(f"file:{demo.home}/demo/journal.db?mode=ro", uri=True) as journal:
        marks = ",".join("?" * len(runs))
        query = f"SELECT count(*) FROM runs WHERE run_id IN ({marks}) AND status = 'ended'"
        assert journal.execute(query, runs).fetchone() == (len(runs),)


def test_a_run_is_paused_resumed_and_cancelled_from_the_command_line_while_it_goes_on(
    demo: Demo, http: httpx.Client
) -> None:
    environment = {**demo.environment, "MAINSPRING_DATA_DIR": str(demo.home / "demo")}
    other = Demo(demo.url, demo.home, {}, demo.output, environment, demo.pid)
    asked = {"workflow": "support", "input": {"ticket": "T-003", "head": "support"}}
    run = http.post("/runs", json=asked).json()["id"]
    over = ended(http, run)
    refused = other.mainspring("runs", "cancel", run, "--by", "ann")
    assert refused.returncode == 1
    assert "has ended" in refused.stderr
    if over["decision"] == "escalated":
        again = other.mainspring("runs", "retry", run, "--by", "ann")
        assert again.returncode == 0, again.stderr
        assert ended(http, again.stdout.split()[0])["forked_from"] == run
    forked = other.mainspring("runs", "fork", run, "--after", "1")
    assert forked.returncode == 0, forked.stderr
    assert ended(http, forked.stdout.split()[0])["forked_from"] == run


def test_metrics_hold_those_of_the_runs(demo: Demo) -> None:
    text = httpx.get(f"{demo.url}/metrics", timeout=30).text
    assert 'mainspring_runs{status="ended"}' in text
    assert "mainspring_step_seconds_bucket" in text
    assert 'mainspring_memory_records{tier="long_term"}' in text
    assert 'mainspring_memory_leaks_total{what="expired"} 0.0' in text


def orchestrators() -> list[int]:
    """The processes that Ray names after the orchestrator."""
    import psutil

    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if any("ray::Orchestrator" in word for word in p.info["cmdline"] or ())
    ]


def _kill(pid: int) -> bool:
    os.kill(pid, signal.SIGKILL)
    return True


async def test_mcp_clients_reach_the_stack_by_both_transports(demo: Demo) -> None:
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters

    words = ["-m", "serve.cli", "mcp", "--url", demo.url]
    own = StdioServerParameters(command=sys.executable, args=words, env=demo.environment)
    ways: list[str | StdioServerParameters] = [f"{demo.url}/mcp", own]
    for number, way in enumerate(ways):
        async with Client(way) as client:
            given = {"text": f"The {number} key hangs by the door", "why": "a test"}
            kept = await client.call_tool("remember", given)
            assert not kept.is_error, kept.content
            asked = {"text": f"where does the {number} key hang"}
            found = await client.call_tool("recall", asked)
            assert given["text"] in str(found.content)
            agents = await client.call_tool("list_agents", {})
            assert not agents.is_error, agents.content
            wrong = await client.call_tool("send_message", {"agent": "nobody", "content": "hi"})
            assert wrong.is_error and "nobody" in str(wrong.content)


def test_a_conversation_recalls_what_it_was_asked_to_keep(http: httpx.Client) -> None:
    http.post("/agents", json={"id": "keeper", "model": "routine"})
    said = {"content": "Remember: the spare key of the blue shed hangs by the door."}
    assert http.post("/agents/keeper/messages", json=said).status_code == 200
    kept = http.get("/memory", params={"session": "keeper", "tier": "long_term"}).json()["data"]
    assert [record["text"] for record in kept] == [said["content"]]
    asked = {"content": "Where does the spare key of the blue shed hang?"}
    answer = http.post("/agents/keeper/messages", json=asked).json()
    assert answer["run"]["decision"] == "answered"
    summed = {"workflow": "compression", "input": {"session": "keeper"}}
    run = http.post("/runs", json=summed).json()["id"]
    assert ended(http, run)["decision"] == "not_due"
