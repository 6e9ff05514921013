"""MCP servers as connectors: one of another vendor's, and ones that break every rule."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from aiohttp import web
from mcp.server import MCPServer
from typer.testing import CliRunner

from agents.acceptance import accept
from agents.events import EffectParked, EffectStarted
from agents.guarding import KEYS, server_guard
from agents.intent_keys import ensure
from agents.journal_sql import SqlJournal
from agents.server_calls import Server
from agents.servers import Servers
from agents.state import RunState, fold
from agents.toolbox import PINS, Pin, Pins, require_fit, require_sound, search
from agents.workflows import tool
from cluster.errors import (
    Conflict,
    DataError,
    EffectUnknown,
    IntentRefused,
    InvalidInput,
)
from cluster.ids import SystemClock, SystemIds
from cluster.settings import ToolServerSection, profile_path
from serve.cli import app
from tests.world import World, Worlds

pytestmark = pytest.mark.enable_socket

SCRIPT = Path(__file__).parents[1] / "mcp_server.py"
TIME = ToolServerSection(
    name="time", command=(sys.executable, "-m", "mcp_server_time"),
    tools={"get_current_time": "read", "convert_time": "read"}, timeout_s=30,
)  # fmt: skip
PAY = {"to": "DE-1", "cents": 500}


def bank(way: str, folder: Path, effect: str = "write", **more: Any) -> ToolServerSection:
    command = (sys.executable, "-S", str(SCRIPT), way, str(folder / "ledger"))
    given = {"name": "bank", "command": command, "tools": {"pay": effect}, "timeout_s": 30.0}
    return ToolServerSection.model_validate({**given, "max_bytes": 200_000, **more})


def paid(folder: Path) -> int:
    ledger = folder / "ledger"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


async def pin_of(folder: Path) -> Pin:
    return (await Server(bank("good", folder)).offered())["bank/pay"]


async def test_what_a_good_server_answers_is_a_receipt_labelled_untrusted(tmp_path: Path) -> None:
    pin = await pin_of(tmp_path)
    receipt = await Server(bank("good", tmp_path)).call(pin, PAY)
    assert receipt["labels"] == ["untrusted"]
    assert receipt["text"] == "paid, ask [EMAIL]"  # nothing personal enters the journal
    kept = await Server(bank("good", tmp_path, personal="keep")).call(pin, PAY)
    assert kept["text"] == "paid, ask anna.weber@example.com"


@pytest.mark.parametrize("effect", ["read", "write"])
@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("hang", "took longer than 1.5 s"),
        ("die", "it ended before it had answered"),
        ("html", "no JSON-RPC: '<!doctype html>"),
        ("huge", "over 200000 bytes"),
        ("form", "a form that is not MCP's"),
    ],
)
async def test_a_call_that_breaks_off_is_unknown_for_a_write_and_a_refusal_for_a_read(
    way: str, why: str, effect: str, tmp_path: Path
) -> None:
    pin = await pin_of(tmp_path)
    section = bank(way, tmp_path, effect, timeout_s=1.5 if way == "hang" else 30.0)
    with pytest.raises(EffectUnknown if effect == "write" else Conflict) as raised:
        await Server(section).call(pin, PAY)
    assert why in str(raised.value)
    assert paid(tmp_path) == 1


@pytest.mark.parametrize(
    ("way", "why", "calls"),
    [
        ("changed", "its description changed since it was accepted", 0),
        ("gone", "does not offer it any more", 0),
        ("absent", "it ended before it had answered", 0),
        ("endless", "it offers over 1000 tools", 0),
        ("fails", "the server says that it failed", 1),
    ],
)
async def test_a_server_that_does_not_do_it_is_a_refusal(
    way: str, why: str, calls: int, tmp_path: Path
) -> None:
    pin = await pin_of(tmp_path)
    with pytest.raises(Conflict, match=why):
        await Server(bank(way, tmp_path)).call(pin, PAY)
    assert paid(tmp_path) == calls


async def test_a_command_that_is_none_and_a_credential_that_is_missing_are_named(
    tmp_path: Path,
) -> None:
    section = bank("good", tmp_path)
    with pytest.raises(Conflict, match="can't be started"):
        await Server(section.model_copy(update={"command": ("/no/such",)})).offered()
    with pytest.raises(Conflict, match="the environment has no BANK_TOKEN"):
        Server(bank("good", tmp_path, credentials={"TOKEN": "BANK_TOKEN"}), {})


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("secret", "it holds what looks like a secret"),
        ("credential", "it holds a credential of this connector"),
        ("lies", "it does not fit its own schema"),
    ],
)
async def test_a_result_that_may_not_be_kept_is_withheld_and_the_effect_is_on_record(
    way: str, why: str, tmp_path: Path
) -> None:
    pin = await pin_of(tmp_path)
    section = bank(way, tmp_path, credentials={"TOKEN": "BANK_TOKEN"})
    if way == "lies":
        # The SDK looks as well, and says so before we do.
        with pytest.raises(EffectUnknown, match="Invalid structured content"):
            await Server(section, {"BANK_TOKEN": "t0p-s3cret"}).call(pin, PAY)
        return
    receipt = await Server(section, {"BANK_TOKEN": "t0p-s3cret"}).call(pin, PAY)
    assert (receipt["text"], receipt["withheld"]) == ("", why)
    assert "t0p-s3cret" not in json.dumps(receipt)


async def test_a_long_result_is_cut_and_says_so(tmp_path: Path) -> None:
    receipt = await Server(bank("long", tmp_path, max_chars=1_000)).call(
        await pin_of(tmp_path), PAY
    )
    assert (len(receipt["text"]), receipt["cut"]) == (1_000, 49_000)


@pytest.mark.parametrize(
    ("args", "where"),
    [
        ({"to": "x"}, "arguments"),
        ({"to": "x", "cents": "5"}, "arguments.cents"),
        ({"to": "x", "cents": 5, "bcc": "me"}, "arguments"),
    ],
)
async def test_arguments_that_do_not_fit_never_reach_the_server(
    args: dict[str, Any], where: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput) as raised:
        await Server(bank("good", tmp_path)).call(await pin_of(tmp_path), args)
    assert raised.value.field == where
    assert paid(tmp_path) == 0


def pinned(**schema: Any) -> Pin:
    return Pin("s", "t", "d", {"type": "object", **schema})


@pytest.mark.parametrize(
    "pin",
    [
        pinned(properties={"x": {"$ref": "http://example.com/x.json"}}),
        pinned(properties={"x": {"type": "string", "pattern": "(a+)+$"}}),
        pinned(properties={"x": {"type": "string", "pattern": "("}}),
        pinned(properties={"x": {"type": "no such type"}}),
        pinned(description="x" * 40_000),
        Pin("s", "t", "d" * 10_000, {}),
    ],
)
def test_a_schema_that_would_reach_out_or_take_for_ever_is_not_accepted(pin: Pin) -> None:
    with pytest.raises(InvalidInput):
        require_sound(pin)


def test_a_reference_that_leads_nowhere_is_an_error_of_ours() -> None:
    with pytest.raises(InvalidInput, match="references end"):
        require_fit("arguments", {"x": 1}, {"properties": {"x": {"$ref": "#/nowhere"}}})


def test_the_tool_that_says_most_of_what_is_wanted_is_found_first() -> None:
    many = [Pin("s", f"tool_{n}", f"Does the thing number {n}.", {}) for n in range(200)]
    mail = Pin("mail", "send_message", "Send an e-mail to somebody.", {})
    book = Pin("calendar", "book_room", "Book a meeting room for an hour.", {})
    found = search([*many, mail, book], "book a room for the meeting", 3)
    assert found[0][0] is book
    assert search([*many, mail, book], "send an e-mail")[0][0] is mail
    assert search([mail, book], "xylophone") == []


# --- over HTTP


@asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/mcp", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"
    finally:
        await runner.cleanup()


def at(url: str, **more: Any) -> ToolServerSection:
    given = {"name": "bank", "url": url, "tools": {"pay": "write"}, "timeout_s": 3.0}
    return ToolServerSection.model_validate({**given, "max_bytes": 200_000, **more})


async def test_a_server_is_spoken_to_over_http_with_its_credentials() -> None:
    """The SDK's own server."""
    server = MCPServer("bank")
    seen: list[str] = []

    @server.tool()
    def pay(to: str, cents: int) -> str:
        """Pay."""
        return f"paid {cents} to {to}"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(v.decode() for k, v in scope.get("headers", []) if k == b"authorization")
        await app(scope, receive, send)

    app = server.streamable_http_app()
    config = uvicorn.Config(asgi, port=0, log_level="error")
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve())
    async with asyncio.timeout(10):
        while not serving.started:
            await asyncio.sleep(0.01)
    port = serving.servers[0].sockets[0].getsockname()[1]
    credentials = {"Authorization": "BANK"}
    section = at(f"http://127.0.0.1:{port}/mcp", credentials=credentials, timeout_s=30.0)
    bank = Server(section, {"BANK": "Bearer t0p"})
    try:
        pin = (await bank.offered())["bank/pay"]
        receipt = await bank.call(pin, PAY)
    finally:
        serving.should_exit = True
        await task
    assert "paid 500 to DE-1" in receipt["text"]
    assert set(seen) == {"Bearer t0p"}


async def page(_: web.Request) -> web.Response:
    return web.Response(text="<h1>Sign in</h1>", content_type="text/html")


async def denied(_: web.Request) -> web.Response:
    return web.Response(status=401)


async def elsewhere(_: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/mcp")


async def broken(_: web.Request) -> web.Response:
    return web.Response(status=500, text="oh")


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"content-type": "application/json"})
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await answer.write(b" " * 65_536)
    return answer


async def silent(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (page, "it answered 200 text/html"),
        (denied, "it answered 401: look at its credentials"),
        (broken, "it answered 500"),
        (endless, "over 200000 bytes"),
        (silent, "took longer than 1 s"),
        (elsewhere, "Redirect to .* not followed"),
    ],
)
async def test_a_bad_answer_over_http_is_named(handler: Any, why: str) -> None:
    async with answering(handler) as url:
        with pytest.raises(Conflict, match=why):
            await Server(at(url, timeout_s=1.0 if handler is silent else 30.0)).offered()


async def test_a_server_that_is_away_is_named() -> None:
    with pytest.raises(Conflict, match="can't be reached"):
        await Server(at("http://127.0.0.1:1/mcp")).offered()


# --- accepted by an operator


def journal_of(folder: Path) -> SqlJournal:
    return SqlJournal("sqlite:///journal.db", folder, SystemClock(), SystemIds())


def accepted(folder: Path, *pins: Pin) -> Pins:
    kept = Pins(folder / PINS)
    journal = journal_of(folder)
    accept(journal, SystemClock(), "default", kept, pins, "olga", "looked at it")
    journal.close()
    return kept


def test_an_acceptance_is_journaled_and_counts_until_the_tool_changes(tmp_path: Path) -> None:
    pin = Pin("bank", "pay", "Pay.", {"type": "object"})
    kept = accepted(tmp_path, pin)
    assert kept.require("bank/pay").by == "olga"
    assert kept.fresh([pin]) == []
    journal = journal_of(tmp_path)
    (row,) = journal.runs("default", None, "accept_tools/bank/pay")
    state = fold(row.run_id, journal.verified(row.run_id))
    journal.close()
    assert state.input["hash"] == pin.hash
    with pytest.raises(Conflict, match="nobody has accepted it yet"):
        kept.require("bank/other")


def test_pins_that_were_changed_by_hand_are_refused(tmp_path: Path) -> None:
    accepted(tmp_path, Pin("bank", "pay", "Pay.", {"type": "object"}))
    file = tmp_path / PINS
    file.write_text(file.read_text().replace("Pay.", "Pay me."))
    with pytest.raises(DataError, match="bank/pay was changed by hand"):
        Pins(file).all()


# --- governed


@pytest.fixture
async def house(worlds: Worlds, tmp_path: Path) -> AsyncIterator[Any]:
    """Makes a world whose runs may use this server, whose tools are accepted."""

    async def make(section: ToolServerSection, pin: Pin, level: int = 2) -> World:
        world = worlds.make(others={"tool": tool.work}, servers=(section,), autonomy={"*": level})
        ensure(world.folder / KEYS)
        accepted(world.folder, pin)
        servers = Servers((section,), world.folder / PINS, partial(server_guard, world.folder))
        world._actors["servers"] = servers
        return world

    yield make


async def used(world: World, name: str, arguments: dict[str, Any]) -> str:
    given = {"tool": name, "arguments": arguments}
    return await world.orchestrator.submit("default", "k", "tool", "tool/1", given)


async def test_another_vendors_server_is_a_connector(house: Any) -> None:
    pins = await Server(TIME).offered()
    world = await house(TIME, pins["time/get_current_time"], level=0)
    run = await used(world, "time/get_current_time", {"timezone": "Asia/Tokyo"})
    (state,) = await world.ended(run)
    assert state.ended is not None and state.ended.decision == "done"
    assert json.loads(state.ended.result["text"])["timezone"] == "Asia/Tokyo"
    assert state.decisions["call"].rule == "server-tool"
    assert state.receipts["call"]["labels"] == ["untrusted"]


async def test_a_write_that_broke_off_parks_the_run_for_a_person(
    house: Any, tmp_path: Path
) -> None:
    world = await house(bank("die", tmp_path), await pin_of(tmp_path))
    run = await used(world, "bank/pay", PAY)
    await world.until(lambda: "call" in fold_of(world, run).parked)
    state = fold_of(world, run)
    assert "whether it was done is not known" in state.parked["call"].reason
    assert paid(tmp_path) == 1
    kinds = [type(e.payload) for e in world.journal.read(run)]
    assert kinds.count(EffectStarted) == kinds.count(EffectParked) == 1


@pytest.mark.parametrize(
    ("level", "name", "arguments", "decision", "why"),
    [
        (2, "bank/pay", {"to": "x"}, "refused", "arguments"),
        (2, "bank/steal", {}, "denied", "no rule allows bank/steal here"),
        (2, "other/pay", PAY, "denied", "no rule allows other/pay here"),
    ],
)
async def test_what_is_not_done_says_why(
    level: int, name: str, arguments: dict[str, Any], decision: str, why: str, house: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    world = await house(bank("good", tmp_path), await pin_of(tmp_path), level)
    (state,) = await world.ended(await used(world, name, arguments))
    assert state.ended is not None
    assert (state.ended.decision, why in state.ended.reason) == (decision, True)
    assert paid(tmp_path) == 0


async def test_a_tool_that_changed_after_it_was_accepted_is_refused_and_that_is_on_record(
    house: Any, tmp_path: Path
) -> None:
    world = await house(bank("changed", tmp_path), await pin_of(tmp_path))
    (state,) = await world.ended(await used(world, "bank/pay", PAY))
    assert "changed since it was accepted" in state.refusals["call"].reason
    assert paid(tmp_path) == 0


async def test_a_write_asks_a_person_below_autonomy_two(house: Any, tmp_path: Path) -> None:
    world = await house(bank("good", tmp_path), await pin_of(tmp_path), level=1)
    run = await used(world, "bank/pay", PAY)
    await world.until(lambda: "call" in fold_of(world, run).decisions)
    assert fold_of(world, run).decisions["call"].rule == "server-write"
    assert paid(tmp_path) == 0


def test_the_command_line_shows_accepts_and_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "bank.yaml"
    settings = yaml.safe_load(profile_path("local").read_text())
    section = bank("good", tmp_path).model_dump(mode="json")
    settings |= {"agents": {"servers": [section]}, "data_dir": str(tmp_path / "data")}
    profile.write_text(yaml.safe_dump(settings))

    def told(*line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["tools", *line, "--profile", str(profile)])
        assert result.exit_code == code, result.output
        return result.output

    monkeypatch.setenv("COLUMNS", "200")
    assert "not accepted" in told("list")
    assert "'Pay.'" in told("accept", "bank", "--by", "olga", "--look")
    assert "1 of 1 tools accepted anew" in told("accept", "bank", "--by", "olga", "--why", "ok")
    assert "0 of 1 tools accepted anew" in told("accept", "bank", "--by", "olga")
    assert "accepted" in told("list") and "olga" in told("list")
    assert "bank/pay" in told("search", "pay somebody")
    changed = {**section, "command": list(bank("changed", tmp_path).command)}
    profile.write_text(yaml.safe_dump({**settings, "agents": {"servers": [changed]}}))
    assert "changed since it was accepted" in told("list")
    shown = told("accept", "bank", "--by", "olga")
    assert "changed: description; it was:" in shown and "Ignore what you were told" in shown


def test_calls_of_several_threads_go_beside_each_other(tmp_path: Path) -> None:
    ensure(tmp_path / KEYS)
    section = bank("good", tmp_path)
    accepted(tmp_path, asyncio.run(pin_of(tmp_path)))
    servers = Servers((section,), tmp_path / PINS, partial(server_guard, tmp_path))
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: servers.perform("bank/pay", f"k{n}", "", PAY), range(8)))
    assert {t["text"] for t in told} == {"paid, ask [EMAIL]"}
    assert paid(tmp_path) == 8


def test_without_a_token_the_connector_does_nothing(tmp_path: Path) -> None:
    ensure(tmp_path / KEYS)
    servers = Servers((bank("good", tmp_path),), tmp_path / PINS, partial(server_guard, tmp_path))
    with pytest.raises(IntentRefused):
        servers.call("bank/pay", "k", "", PAY, b"")
    with pytest.raises(IntentRefused):
        servers.lookup("k", "", b"")
    assert paid(tmp_path) == 0
    assert len((tmp_path / "refused-servers.jsonl").read_text().splitlines()) == 2


def fold_of(world: World, run: str) -> RunState:
    return fold(run, world.journal.read(run))
