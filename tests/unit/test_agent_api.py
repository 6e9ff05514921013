"""Agents and runs over HTTP: the real gateway app and the real orchestrator, without Ray."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.chat import Completion
from agents.turn import Turn
from agents.workflows import conversation
from cluster.errors import Unavailable
from cluster.ids import SystemClock
from cluster.settings import AgentsSection, GatewaySection, MemorySection, ModelSection
from serve.catalog import Catalog
from serve.gateway import build_app
from serve.metering import Meter
from serve.router import Router
from tests.fakes import ticket
from tests.memories import Desk, Shelf
from tests.world import World, connect

T = "T-001"


class Echo:
    """A model that says what it was told last, and how much it was told before."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []
        self.broken = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def complete(self, model: str, messages: Any, **_: Any) -> Completion:
        await self.hold.wait()
        if self.broken:
            self.broken -= 1
            raise Unavailable("model", "away")
        self.asked.append(list(messages))
        text = f"{len(messages)}: {messages[-1]['content']}"
        return Completion(text, model, "named", 10, 5, 0.001, 0.1)


async def listening(turn: Turn) -> None:
    told = await turn.signal("ear", "word")
    await turn.end("heard", "", {"told": told})


class WorldOffice:
    """`serve.office.Named` over the world's orchestrator."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, method: str, *args: Any, timeout_s: float = 15.0) -> Any:
        called = getattr(self._world.actor("orchestrator"), method).remote(*args)
        return await asyncio.wait_for(called, timeout_s)


class Api:
    def __init__(self, world: World, client: httpx.AsyncClient, echo: Echo) -> None:
        self.world, self.client, self.echo = world, client, echo

    async def post(self, path: str, key: str = "", **body: Any) -> tuple[int, dict[str, Any]]:
        headers = {"idempotency-key": key} if key else {}
        answer = await self.client.post(f"/v1/{path}", json=body, headers=headers)
        return answer.status_code, answer.json()

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        answer = await self.client.get(f"/v1/{path}")
        return answer.status_code, answer.json()

    async def until(self, run: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while True:
                _, body = await self.get(f"runs/{run}")
                if body["status"] == status:
                    return body
                await asyncio.sleep(0.01)

    async def events(self, path: str, **headers: str) -> list[dict[str, Any]]:
        text = (await self.client.get(f"/v1/{path}", headers=headers)).text
        return parsed(text)


def parsed(text: str) -> list[dict[str, Any]]:
    blocks = [b for b in text.split("\n\n") if b and not b.startswith(":")]
    return [dict(line.split(": ", 1) for line in b.split("\n")) for b in blocks]


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    echo = Echo()
    desk = Desk(tmp_path, MemorySection(), Shelf())
    world = World(
        tmp_path, listening, AgentsSection(),
        conversation=partial(conversation.work, parts=desk.talk(echo)),
    )  # fmt: skip
    connect(monkeypatch, world)
    world.connector.open_tickets([ticket(T)])
    app = build_app(GatewaySection(request_timeout_s=2.0), *_empty(), office=WorldOffice(world))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield Api(world, client, echo)
    await world.stop()
    await desk.memory.close()


def _empty() -> tuple[Catalog, Router, Meter]:
    models = tuple(
        ModelSection.model_validate(
            {"id": t, "source": "x", "tier": t, "usd_per_mtok_in": 1, "usd_per_mtok_out": 1}
        )
        for t in ("planner", "routine")
    )
    catalog = Catalog(models)
    meter = Meter(catalog)
    return catalog, Router(catalog, list, meter, SystemClock(), "s"), meter


async def test_an_agent_answers_and_remembers_what_was_said_over_a_restart(api: Api) -> None:
    status, agent = await api.post("agents", id="ann", instructions="Be brief.", model="planner")
    assert (status, agent["id"], agent["status"]) == (201, "ann", "active")
    status, first = await api.post("agents/ann/messages", content="hello")
    assert (status, first["content"]) == (200, "2: hello")
    assert first["run"]["decision"] == "answered"
    await api.world.stop()
    api.world.start()
    _, second = await api.post("agents/ann/messages", content="again")
    assert second["content"] == "4: again"
    assert [m["content"] for m in api.echo.asked[-1]] == ["Be brief.", "hello", "2: hello", "again"]
    _, seen = await api.get("agents/ann")
    assert seen["turns"] == 2
    assert [(t["message"], t["reply"]) for t in seen["last_turns"]] == [
        ("hello", "2: hello"), ("again", "4: again"),
    ]  # fmt: skip
    _, replay = await api.get("agents/ann/replay")
    assert replay["same"] is True
    assert replay["last_turns"] == seen["last_turns"]


async def test_a_message_is_one_run_however_often_it_is_sent_with_its_key(api: Api) -> None:
    await api.post("agents", id="ann")
    first = await api.post("agents/ann/messages", "k1", content="hello")
    again = await api.post("agents/ann/messages", "k1", content="hello")
    assert first == again
    assert len(api.echo.asked) == 1


async def test_of_messages_sent_at_once_each_is_answered_in_order(api: Api) -> None:
    await api.post("agents", id="ann")
    sent = [api.post("agents/ann/messages", content=f"m{i}") for i in range(4)]
    answers = [body["content"] for _, body in await asyncio.gather(*sent)]
    assert sorted(answers) == ["1: m0", "3: m1", "5: m2", "7: m3"]


async def test_a_streamed_message_tells_what_happens_and_ends_with_the_answer(api: Api) -> None:
    await api.post("agents", id="ann")
    async with api.client.stream(
        "POST", "/v1/agents/ann/messages", json={"content": "hi", "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = parsed((await response.aread()).decode())
    kinds = [e.get("event") for e in events]
    begun = ["run_started", "run_claimed"]
    assert kinds == [*begun, "phase_done", "phase_done", "run_ended", "answer", None]
    assert json.loads(events[-2]["data"])["content"] == "1: hi"
    assert events[-1]["data"] == "[DONE]"


async def test_an_answer_that_takes_long_is_a_run_to_look_at(api: Api) -> None:
    await api.post("agents", id="ann")
    api.echo.hold.clear()
    status, body = await api.post("agents/ann/messages", content="slow")
    assert (status, body["content"], body["run"]["status"]) == (202, None, "open")
    api.echo.hold.set()
    run = await api.until(body["run"]["id"], "ended")
    assert run["result"]["text"] == "1: slow"


async def test_a_stopped_agent_takes_no_message_and_its_runs_end(api: Api) -> None:
    await api.post("agents", id="ear", workflow="support")
    _, body = await api.post("agents/ear/messages", input={"ticket": T})
    assert body["run"]["status"] == "waiting"
    status, stopped = await api.post("agents/ear/stop")
    assert (status, stopped["status"], stopped["cancelled_runs"]) == (200, "stopped", 1)
    run = await api.until(body["run"]["id"], "ended")
    assert run["decision"] == "cancelled"
    status, refused = await api.post("agents/ear/messages", content="hello?")
    assert (status, refused["error"]["code"]) == (409, "conflict")


async def test_a_forked_agent_remembers_what_was_and_goes_on_by_itself(api: Api) -> None:
    await api.post("agents", id="ann")
    for text in ("one", "two"):
        _, last = await api.post("agents/ann/messages", content=text)
    run = last["run"]["id"]
    status, fork = await api.post("agents/ann/fork", id="bob", run=run, after=1)
    assert (status, fork["id"]) == (201, "bob")
    async with asyncio.timeout(5):
        while (await api.get("agents/bob"))[1]["turns"] < 2:
            await asyncio.sleep(0.01)
    _, said = await api.post("agents/bob/messages", content="three")
    assert said["content"] == "5: three"
    assert (await api.get("agents/ann"))[1]["turns"] == 2
    assert (await api.get("agents/bob/replay"))[1]["same"] is True


async def test_agents_are_listed_by_id_a_page_at_a_time(api: Api) -> None:
    for name in ("c", "a", "b/1"):
        await api.post("agents", id=name)
    _, page = await api.get("agents?limit=2")
    assert ([a["id"] for a in page["data"]], page["has_more"]) == (["a", "b/1"], True)
    _, rest = await api.get("agents?limit=2&after=b/1")
    assert ([a["id"] for a in rest["data"]], rest["has_more"]) == (["c"], False)
    assert (await api.get("agents/b/1"))[1]["id"] == "b/1"


async def test_registering_again_changes_nothing_and_another_agent_is_refused(api: Api) -> None:
    first = await api.post("agents", id="ann", instructions="x")
    assert await api.post("agents", id="ann", instructions="x") == first
    status, refused = await api.post("agents", id="ann", instructions="y")
    assert (status, refused["error"]["code"]) == (409, "conflict")


async def test_a_run_is_begun_followed_told_something_and_ends(api: Api) -> None:
    status, run = await api.post("runs", "k", workflow="support", input={"ticket": T})
    assert (status, run["object"], run["workflow"]) == (202, "run", "support")
    assert (await api.post("runs", "k", workflow="support", input={"ticket": T}))[1]["id"] == (
        run["id"]
    )
    waiting = await api.until(run["id"], "waiting")
    assert waiting["waiting_for"]["signal"] == "word"
    following = asyncio.ensure_future(api.events(f"runs/{run['id']}/events?after=1"))
    await asyncio.sleep(0.05)
    status, _ = await api.post(f"runs/{run['id']}/signal", name="word", value={"n": 1}, by="ann")
    assert status == 200
    events = await asyncio.wait_for(following, 10)
    assert [e["event"] for e in events] == [
        "run_claimed", "wait_begun", "signal_sent", "wait_ended", "run_claimed", "run_ended",
    ]  # fmt: skip
    ids = [int(e["id"]) for e in events]
    assert ids == list(range(2, 8))
    resumed = await api.events(f"runs/{run['id']}/events", **{"Last-Event-ID": "5"})
    assert resumed == events[4:]
    ended = await api.until(run["id"], "ended")
    assert ended["result"] == {"told": {"value": {"n": 1}, "by": "ann"}}


async def test_a_caller_says_which_input_is_outside_text_and_a_fork_knows_it(api: Api) -> None:
    given = {"ticket": T, "mail": "words of others"}
    _, run = await api.post("runs", workflow="support", input=given, untrusted=["mail"])
    await api.until(run["id"], "waiting")
    await api.post(f"runs/{run['id']}/cancel", by="ann")
    _, fork = await api.post(f"runs/{run['id']}/fork", after=1)
    for id in (run["id"], fork["id"]):
        state = await api.world.orchestrator.read(id)
        assert (state.options.untrusted, str(state.label)) == (("mail",), "untrusted/personal")


async def test_runs_are_paused_resumed_cancelled_retried_and_forked(api: Api) -> None:
    _, run = await api.post("runs", workflow="support", input={"ticket": T}, deadline_s=60)
    await api.until(run["id"], "waiting")
    assert (await api.post(f"runs/{run['id']}/pause", by="ann"))[1]["status"] == "paused"
    status, refused = await api.post(f"runs/{run['id']}/pause")
    assert (status, refused["error"]["type"]) == (409, "invalid_request_error")
    assert (await api.post(f"runs/{run['id']}/resume"))[1]["status"] == "waiting"
    assert (await api.post(f"runs/{run['id']}/cancel", reason="enough"))[0] == 200
    ended = await api.until(run["id"], "ended")
    assert (ended["decision"], ended["reason"]) == ("cancelled", "enough")
    status, again = await api.post(f"runs/{run['id']}/retry")
    assert (status, again["forked_from"]) == (201, run["id"])
    status, fork = await api.post(f"runs/{run['id']}/fork", after=2)
    assert (status, fork["forked_from"]) == (201, run["id"])
    status, refused = await api.post(f"runs/{run['id']}/fork", key="a key", after=2)
    assert (status, refused["error"]["param"]) == (400, "idempotency-key")
    _, listed = await api.get("runs?status=waiting")
    assert {r["id"] for r in listed["data"]} <= {again["id"], fork["id"]}
    for made in (again, fork):
        await api.until(made["id"], "waiting")


async def test_schedules_are_kept_listed_and_removed(api: Api) -> None:
    spec = {"name": "nightly", "cron": "0 3 * * *", "workflow": "support", "agent": "night"}
    status, made = await api.post("schedules", **spec)
    assert status == 201
    assert made["next_at"] % 86_400 == 3 * 3_600
    assert [s["name"] for s in (await api.get("schedules"))[1]["data"]] == ["nightly"]
    assert (await api.client.delete("/v1/schedules/nightly")).status_code == 204
    assert (await api.client.delete("/v1/schedules/nightly")).status_code == 404
    assert (await api.get("schedules"))[1]["data"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("agents", {"id": "a b"}, 400, "id"),
        ("agents", {"workflow": "nothing"}, 400, "workflow"),
        ("agents", {"id": 7}, 400, "id"),
        ("agents", {"colour": "red"}, 400, "colour"),
        ("agents/nobody/messages", {"content": "x"}, 404, None),
        ("agents/nobody/messages", {}, 400, "content"),
        ("agents/nobody/stop", {}, 404, None),
        ("agents/nobody/fork", {"run": "r", "after": 1}, 404, None),
        ("runs", {"workflow": "nothing"}, 400, "workflow"),
        ("runs", {"workflow": "support", "deadline_s": 0}, 400, "deadline_s"),
        ("runs", {"workflow": "support", "priority": "urgent"}, 400, "priority"),
        ("runs", {"workflow": "support", "attempts": 0}, 400, "attempts"),
        ("runs", {"workflow": "support", "input": []}, 400, "input"),
        ("runs", {"workflow": "support", "agent": ""}, 202, None),
        ("runs", {"workflow": "support", "agent": "a\n"}, 400, "agent"),
        ("runs/run_none/cancel", {}, 404, None),
        ("runs/run_none/signal", {"name": "x"}, 404, None),
        ("runs/run_none/signal", {"value": {}}, 400, "name"),
        ("runs/run_none/fork", {"after": "x"}, 400, "after"),
        ("schedules", {"name": "n", "cron": "x", "workflow": "support", "agent": "a"}, 400, "cron"),
        (
            "schedules",
            {"name": "n", "cron": "0 0 30 2 *", "workflow": "support", "agent": "a"}, 400, "cron",
        ),
        (
            "schedules",
            {"name": "n", "cron": "* * * * *", "workflow": "support", "agent": "a", "zone": "Oz"},
            400, "zone",
        ),
    ],
)  # fmt: skip
async def test_what_can_not_be_done_is_told_with_the_field_at_fault(
    api: Api, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    told, answer = await api.post(path, **body)
    assert told == status
    if status >= 400:
        assert answer["error"]["param"] == param
        assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path",
    ["runs/run_none", "runs/run_none/events", "agents/nobody", "agents/nobody/replay"],
)
async def test_what_is_not_there_is_not_found(api: Api, path: str) -> None:
    assert (await api.get(path))[0] == 404


@pytest.mark.parametrize("after", ["-1", "99", "x"])
async def test_a_stream_is_not_resumed_from_an_event_that_is_not_there(
    api: Api, after: str
) -> None:
    _, run = await api.post("runs", workflow="support", input={"ticket": T})
    await api.until(run["id"], "waiting")
    status, body = await api.get(f"runs/{run['id']}/events?after={after}")
    assert (status, body["error"]["param"]) == (400, "after")


async def test_another_tenants_run_looks_like_none(api: Api) -> None:
    run = await api.world.orchestrator.submit("other", "k", "support", "a", {"ticket": T})
    for path in (f"runs/{run}", f"runs/{run}/events"):
        assert (await api.get(path))[0] == 404
    assert (await api.post(f"runs/{run}/cancel"))[0] == 404
    assert run not in str((await api.get("runs"))[1])


async def test_the_metrics_tell_of_runs_turns_and_steps(api: Api) -> None:
    await api.post("agents", id="ann")
    await api.post("agents/ann/messages", content="hello")
    text = (await api.client.get("/metrics")).text
    assert 'mainspring_runs{status="ended"} 1.0' in text
    who = 'orchestrator="orchestrator"'
    whole = f'{who},outcome="whole",priority="interactive"'
    assert f"mainspring_turn_seconds_count{{{whole}}} 1.0" in text
    assert f'mainspring_turn_wait_seconds_count{{{who},priority="interactive"}} 1.0' in text
    assert "mainspring_requests" in text
