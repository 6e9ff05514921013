"""Memory and agents as MCP tools, asked by the SDK's own client: through the gateway's `/mcp`, in
memory as over stdio, and from a process of its own. Everything but the model is real."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from agents.workflows import conversation
from cluster.errors import DeadlineExceeded, Unavailable
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection, MemorySection, ModelSection
from memory.records import Record
from serve.books import Books
from serve.catalog import Catalog
from serve.client import Client as Mainspring
from serve.gateway import build_app
from serve.mcp_server import MAX_CHARS, Tools, fitted, server_of
from serve.metering import Meter
from serve.problems import Refused
from serve.router import Router
from serve.routes.memory import memory_routes
from tests.fakes import ScriptedChat
from tests.memories import START, Desk, Shelf
from tests.world import Worlds

pytestmark = pytest.mark.enable_socket

URL = "http://127.0.0.1:8000"
TOOLS = [
    "forget_memory", "get_memory", "list_agents", "list_memories", "recall", "remember",
    "run_status", "send_message", "update_memory",
]  # fmt: skip


class Asked:
    """`serve.office.Named` over an object of this process."""

    def __init__(self, whom: Any) -> None:
        self._whom = whom

    async def ask(self, method: str, *args: Any, timeout_s: float = 15.0) -> Any:
        return await getattr(self._whom, method)(*args)


class House:
    """A gateway with memory and one agent, and keys."""

    def __init__(self, folder: Path, desk: Desk, worlds: Worlds) -> None:
        self.desk = desk
        self.books = Books(AccountsSection(), folder, SystemClock(), SystemIds())
        chat = ScriptedChat({"planner": ["Good day."]})
        talk = partial(conversation.work, parts=desk.talk(chat))
        self.world = worlds.make(others={"conversation": talk})
        model = {"source": "x", "usd_per_mtok_in": 1, "usd_per_mtok_out": 1}
        models = tuple(
            ModelSection.model_validate({"id": t, "tier": t, **model})
            for t in ("planner", "routine")
        )
        catalog = Catalog(models)
        meter = Meter(catalog)
        self.app: FastAPI = build_app(
            GatewaySection(), catalog, Router(catalog, list, meter, SystemClock(), "s"), meter,
            office=Asked(self.world.orchestrator), tenant="shop", books=self.books,
            extra_routes=(partial(memory_routes, Asked(desk.memory), desk.clock),),
        )  # fmt: skip

    def key(self, *scopes: str, tenant: str = "shop") -> str:
        return self.books.keyring.create(tenant, "test", scopes)[1]

    def api(self, key: str = "") -> Mainspring:
        return Mainspring(URL, key, transport=httpx.ASGITransport(self.app))

    @asynccontextmanager
    async def over_http(self, key: str = "", **headers: str) -> AsyncIterator[Client]:
        """The official client at `/mcp`."""
        bearer = {"authorization": f"Bearer {key}"} if key else {}
        transport = httpx2.ASGITransport(app=self.app)
        async with httpx2.AsyncClient(transport=transport, headers=bearer | headers) as http:
            async with Client(streamable_http_client(f"{URL}/mcp", http_client=http)) as client:
                yield client

    @asynccontextmanager
    async def in_memory(self, key: str = "") -> AsyncIterator[Client]:
        """The official client at the server that `mainspring mcp` runs."""
        server = server_of(Tools(lambda headers: self.api(key)).all())
        async with Client(server) as client:
            yield client


@pytest.fixture
async def house(tmp_path: Path, worlds: Worlds) -> AsyncIterator[House]:
    desk = Desk(tmp_path, MemorySection(), Shelf())
    house = House(tmp_path, desk, worlds)
    yield house
    await house.books.close()
    await desk.memory.close()


async def told(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    text = getattr(content, "text", "")
    assert not result.is_error, text
    return json.loads(text)


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(getattr(result.content[0], "text", ""))


@pytest.mark.parametrize("way", ["over_http", "in_memory"])
async def test_memory_and_agents_are_tools(house: House, way: str) -> None:
    async with getattr(house, way)() as client:
        offered = (await client.list_tools()).tools
        assert sorted(tool.name for tool in offered) == TOOLS
        assert all(0 < len(tool.description or "") < 120 for tool in offered)
        assert len(json.dumps([t.model_dump(mode="json") for t in offered])) < 8_000
        made = await told(
            client, "remember", text="Ann likes tea", subject="ann", why="she said so"
        )
        (hit,) = (await told(client, "recall", text="what tea does Ann like", subject="ann"))[
            "data"
        ]
        assert hit["record"]["id"] == made["id"] and hit["reason"]
        new = await told(
            client, "update_memory", id=made["id"], text="Ann likes coffee", why="asked"
        )
        assert (await told(client, "get_memory", id=new["id"]))["parents"] == [made["id"]]
        listed = await told(client, "list_memories", subject="ann")
        assert [row["text"] for row in listed["data"]] == ["Ann likes coffee"]
        receipt = await told(client, "forget_memory", subject="ann", why="she asked for it")
        assert receipt["erased"]
        assert await told(client, "recall", text="Ann likes coffee") == {"data": []}
        async with house.api() as api:
            await api._ask("POST", "agents", {"id": "ann", "model": "planner"})
        assert [a["id"] for a in (await told(client, "list_agents"))["data"]] == ["ann"]
        answer = await told(client, "send_message", agent="ann", content="Hello")
        assert answer["content"] == "Good day."
        run = await told(client, "run_status", run=answer["run"]["id"])
        assert run["decision"] == "answered"


@pytest.mark.parametrize("way", ["over_http", "in_memory"])
@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("remember", {"text": "tea"}, "promotion"),
        ("remember", {"text": "\x00", "session": "s"}, "NUL"),
        ("recall", {"text": ""}, "visible character"),
        ("recall", {"text": "tea", "k": 0}, "greater than or equal to 1"),
        ("recall", {}, "Field required"),
        ("get_memory", {"id": "x"}, "32 hex digits"),
        ("get_memory", {"id": "../agents"}, "nothing at this address"),
        ("get_memory", {"id": ".."}, "id"),
        ("get_memory", {"id": "0" * 32}, "memory record"),
        ("forget_memory", {"why": "x"}, "subject"),
        ("update_memory", {"id": "0" * 32, "text": "x", "why": ""}, "why"),
        ("run_status", {"run": "none"}, "run"),
        ("send_message", {"agent": "nobody", "content": "hi"}, "agent"),
        ("list_agents", {"limit": 1_000}, "less than or equal to 100"),
        ("rm", {}, "rm"),
    ],
)
async def test_what_is_refused_is_a_tools_error_with_its_sentence(
    house: House, way: str, tool: str, arguments: dict[str, Any], says: str
) -> None:
    async with getattr(house, way)() as client:
        try:
            text = await refused(client, tool, **arguments)
        except Exception as error:  # the protocol's own word on a tool that there is not
            assert tool == "rm"
            text = str(error)
        assert says in text
        assert "Traceback" not in text


async def test_a_key_opens_its_tenants_records_and_its_scopes_alone(house: House) -> None:
    mine, theirs = house.key("memory"), house.key("memory", tenant="other")
    talker = house.key("agents")
    async with house.over_http(mine) as client:
        made = await told(client, "remember", text="our secret", why="asked")
        assert "scope 'agents'" in await refused(client, "list_agents")
    async with house.over_http(theirs) as client:
        assert "memory record" in await refused(client, "get_memory", id=made["id"])
        assert (await told(client, "recall", text="our secret"))["data"] == []
    async with house.over_http(talker) as client:
        assert "scope 'memory'" in await refused(client, "get_memory", id=made["id"])
        assert (await told(client, "list_agents"))["data"] == []
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url=URL) as http:
        answer = await http.post("/mcp", json=body)
        wrong = await http.post("/mcp", json=body, headers={"authorization": "Bearer no"})
    assert (answer.status_code, wrong.status_code) == (401, 401)
    async with house.in_memory("no key of ours") as client:
        assert "key" in await refused(client, "list_agents")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"content-type": "text/plain"}, 400),
    ],
)
async def test_another_sites_page_gets_nothing_from_a_gateway_on_loopback(
    house: House, headers: dict[str, str], status: int
) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(house.app), base_url=URL) as http:
        sent = {"accept": "application/json", "content-type": "application/json", **headers}
        answer = await http.post("/mcp", content='{"jsonrpc":"2.0"}', headers=sent)
        looked = await http.get("/mcp")
    assert answer.status_code == status
    assert looked.status_code == 405


async def test_results_are_cut_to_size_and_say_so(house: House) -> None:
    records = [
        Record("shop", "note", f"n{n}", f"lamp {n} " + "very " * 1_000, START) for n in range(20)
    ]
    await house.desk.memory.remember(records)
    async with house.over_http() as client:
        listed = await told(client, "list_memories", limit=20)
    assert listed["left_out"] + len(listed["data"]) == 20
    assert len(json.dumps(listed, ensure_ascii=False, separators=(",", ":"))) <= MAX_CHARS
    assert listed["data"][0]["text"].endswith("characters)")
    assert len(fitted({"run": {str(n): "x" * 1_000 for n in range(40)}})) <= MAX_CHARS


async def test_the_command_speaks_over_stdio_and_says_when_nobody_answers(tmp_path: Path) -> None:
    command = ["-m", "serve.cli", "mcp", "--url", "http://127.0.0.1:9"]
    started = StdioServerParameters(command=sys.executable, args=command)
    async with Client(started) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == TOOLS
        assert "no answer from http://127.0.0.1:9" in await refused(client, "list_agents")


async def test_from_python_everything_is_a_call_of_one_client(house: House) -> None:
    async with house.api(house.key("memory", "agents")) as api:
        made = await api.remember("Bo likes tea", subject="bo", by="ann", why="he said so")
        (hit,) = await api.recall("which tea does Bo like?")
        assert hit["record"]["id"] == made["id"]
        said = await api.remember("and honey", session="s1", kind="turn")
        assert (await api.promote(said["id"], by="ann", why="asked"))["tier"] == "long_term"
        path = Path((await api.export("mine"))["path"])
        lines = path.read_text("utf-8").splitlines()
        assert (await api.import_(lines, by="ann"))["known"] == len(lines)
        assert len((await api.listed())["data"]) == 2
        assert (await api.forget([said["id"]], by="ann", why="asked"))["erased"]
        with pytest.raises(Refused) as caught:
            await api.send("nobody", "hello")
        assert (caught.value.http_status, caught.value.reason) == (404, "not_found")


@pytest.mark.parametrize(
    ("failure", "error"),
    [(httpx.ReadTimeout("late"), DeadlineExceeded), (httpx.ConnectError("no"), Unavailable)],
)
async def test_who_does_not_answer_is_told_as_such(failure: Exception, error: Any) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise failure

    async with Mainspring(URL, transport=httpx.MockTransport(fail)) as api:
        with pytest.raises(error):
            await api.agents()
