"""Batches whose lines are runs: real gateway app, orchestrator and batches' worker, without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.turn import Turn
from cluster.ids import SystemClock
from cluster.settings import AgentsSection, BatchesSection, GatewaySection
from serve.bulk.archive import Archive
from serve.bulk.door import Door
from serve.bulk.kinds import RUNS
from serve.bulk.pacing import NOBODY
from serve.bulk.runner import Runner
from serve.bulk.runs import Runs
from serve.bulk.workers import Workers
from serve.directory import Online
from serve.routes.batches import archive_routes
from tests.bulk import jsonl
from tests.gateways import serving
from tests.unit.test_agent_api import WorldOffice
from tests.world import World, connect

pytestmark = pytest.mark.enable_socket
KEY = "the stack's own"
SECTION = BatchesSection()


async def counting(turn: Turn) -> None:
    """Ends as its input says; `wait` waits for a word first."""
    given = turn.run.input
    if given.get("wait"):
        await turn.signal("ear", "word")
    usage = [{"cost_usd": 0.25}]
    await turn.end(given.get("end", "done"), "so it goes", {"n": given["n"], "usage": usage})


class Served:
    def __init__(self, url: str, world: World, folder: Path) -> None:
        self.url, self.world = url, world
        self.archive = Archive(SECTION, folder, SystemClock())
        self.http = httpx.AsyncClient(base_url=url)
        self._working: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Another worker, after whichever there was has been killed."""
        for task in self._working:
            task.cancel()
        self.door = Door(self.url, KEY, 10.0, 16)
        runs = Runs(self.door, hold_s=0.3)
        runner = Runner(
            self.archive.batches, self.archive.files, Workers({RUNS: runs}), _nobody,
            SystemClock(), {"workflow": ["support"]}, 16, 0.5, 3600.0,
        )  # fmt: skip
        self._working.append(asyncio.ensure_future(runner.run()))

    async def submit(self, rows: list[dict[str, Any]]) -> str:
        given = {"file": ("in.jsonl", jsonl(rows))}
        file = await self.http.post("/v1/files", files=given, data={"purpose": "batch"})
        body = {"input_file_id": file.json()["id"], "endpoint": RUNS, "completion_window": "1h"}
        made = await self.http.post("/v1/batches", json=body)
        assert made.status_code == 200, made.text
        return str(made.json()["id"])

    async def until(self, id: str, *statuses: str, completed: int = 0) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                found = (await self.http.get(f"/v1/batches/{id}")).json()
                many = found["request_counts"]["completed"] >= completed
                if found["status"] in statuses and many:
                    return dict(found)
                await asyncio.sleep(0.05)

    async def told(self, file: str) -> dict[str, dict[str, Any]]:
        text = (await self.http.get(f"/v1/files/{file}/content")).text
        return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}

    def runs(self) -> list[str]:
        return [summary.run_id for summary in self.world.journal.runs("default")]

    async def run(self, id: str) -> dict[str, Any]:
        return dict((await self.http.get(f"/v1/runs/{id}")).json())

    async def stop(self) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self.door.close()
        await self.http.aclose()
        self.archive.close()


async def _nobody() -> Online:
    return NOBODY


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    world = World(tmp_path, counting, AgentsSection())
    connect(monkeypatch, world)
    routes = partial(archive_routes, SECTION, tmp_path)
    async with serving(
        GatewaySection(), own_key=KEY, office=WorldOffice(world), extra_routes=[routes]
    ) as stack:
        made = Served(stack.url, world, tmp_path)
        made.start()
        yield made
        await made.stop()
    await world.stop()


def row(id: str, **given: Any) -> dict[str, Any]:
    body = {"workflow": "support", "input": {"n": 1, **given}}
    return {"custom_id": id, "method": "POST", "url": RUNS, "body": body}


async def test_a_run_a_row_with_what_became_of_each(served: Served) -> None:
    rows = [row("a", n=1), row("b", n=2, end="denied"), row("c", n=3) | {"expect": {"n": 4}}]
    done = await served.until(await served.submit(rows), "completed")
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert done["model"] == "support"
    right = await served.told(done["output_file_id"])
    assert right["a"]["response"]["body"]["result"]["n"] == 1
    assert right["a"]["response"]["request_id"] == right["a"]["response"]["body"]["id"]
    wrong = await served.told(done["error_file_id"])
    assert wrong["b"]["error"] == {"code": "not_done", "message": "denied: so it goes"}
    assert wrong["c"]["error"] == {"code": "not_as_expected", "message": "n is 3, not 4"}
    assert served.archive.batches.batch("default", done["id"]).usd == 0.75


async def test_after_a_kill_no_run_is_lost_or_begun_twice(served: Served) -> None:
    rows = [row(f"r{n}", n=n, wait=n >= 10) for n in range(20)]
    id = await served.submit(rows)
    await served.until(id, "in_progress", completed=10)
    before = set(served.runs())
    assert len(before) == 20
    served.start()
    for run in before:
        said = {"name": "word", "value": {}}
        await served.http.post(f"/v1/runs/{run}/signal", json=said)
    done = await served.until(id, "completed")
    assert sorted(await served.told(done["output_file_id"])) == sorted(r["custom_id"] for r in rows)
    assert set(served.runs()) == before


async def test_the_same_key_is_the_same_run_in_another_batch(served: Served) -> None:
    rows = [row("a", n=1)]
    rows[0]["body"]["key"] = "mine"
    for _ in range(2):
        done = await served.until(await served.submit(rows), "completed")
        assert done["request_counts"]["completed"] == 1
    assert len(served.runs()) == 1


async def test_a_cancelled_batch_cancels_the_runs_that_it_began(served: Served) -> None:
    id = await served.submit([row("a"), row("b", wait=True)])
    await served.until(id, "in_progress", completed=1)
    assert (await served.http.post(f"/v1/batches/{id}/cancel")).status_code == 200
    done = await served.until(id, "cancelled")
    assert list(await served.told(done["output_file_id"])) == ["a"]
    states = {(await served.run(run))["decision"] for run in served.runs()}
    assert states == {"done", "cancelled"}


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({"body": {"workflow": "none", "input": {}}}, "workflow_not_found"),
        ({"body": {"input": {}}}, "workflow_not_found"),
        ({"url": "/v1/completions"}, "invalid_url"),
    ],
)
async def test_a_wrong_line_is_named_before_anything_is_begun(
    served: Served, broken: dict[str, Any], code: str
) -> None:
    failed = await served.until(await served.submit([row("a"), row("b") | broken]), "failed")
    assert [(e["line"], e["code"]) for e in failed["errors"]["data"]] == [(2, code)]
    assert served.runs() == []


@pytest.mark.parametrize("endpoint", ["/v1/memory/ingest", "/v1/memory/space", "/v1/evaluations"])
async def test_what_is_the_operators_is_not_offered_to_clients(
    served: Served, endpoint: str
) -> None:
    body = {"input_file_id": "file-1", "endpoint": endpoint, "completion_window": "1h"}
    answer = await served.http.post("/v1/batches", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "endpoint"
