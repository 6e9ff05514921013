"""A model at another house: off without consent, nothing personal there, a budget of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cluster.errors import ConfigError
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection, OutsideSection, Settings
from serve.books import Books
from serve.budget_table import Budget
from serve.outside import TENANT, Rendering
from tests.gateways import FakeEngine, Stack, running, serving

pytestmark = pytest.mark.enable_socket
MAIL = "ann.weber@example.com"
SAYS = [{"role": "user", "content": f"Write to {MAIL} or +49 30 23125104."}]


def _section(url: str, **changes: Any) -> OutsideSection:
    given = {
        "id": "away", "url": url, "model": "far-1", "consent": ["default"], "usd_per_day": 1.0,
        "usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0, "at_once": 2, **changes,
    }  # fmt: skip
    return OutsideSection.model_validate(given)


@asynccontextmanager
async def _serving(
    books: Books | None = None, **changes: Any
) -> AsyncIterator[tuple[Stack, FakeEngine]]:
    async with running(FakeEngine("far-1")) as far:
        outside = [_section(far.url, **changes)]
        async with serving(GatewaySection(), outside=outside, books=books) as stack:
            yield stack, far


async def _echo(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Says what it was told."""
    said = {"role": "assistant", "content": body["messages"][-1]["content"]}
    choice = {"index": 0, "message": said, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return web.json_response({"choices": [choice], "usage": usage})


async def _spelt(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Says what it was told, a character at a time, compressed as a real server may."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    response.enable_compression()
    await response.prepare(request)
    for letter in body["messages"][-1]["content"]:
        delta = {"choices": [{"index": 0, "delta": {"content": letter}, "finish_reason": None}]}
        await response.write(f"data: {json.dumps(delta)}\n\n".encode())
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    last = {"choices": [], "usage": usage}
    for piece in (json.dumps(end), json.dumps(last), "[DONE]"):
        await response.write(f"data: {piece}\n\n".encode())
    return response


async def test_a_named_model_answers_and_nothing_personal_went_there() -> None:
    async with _serving() as (stack, far):
        far.behave = _echo
        extra = {"mainspring": {"task": "chat"}, "ignore_eos": True, "priority": 3}
        status, answer, headers = await stack.chat(model="away", messages=SAYS, **extra)
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == SAYS[0]["content"]
        assert headers["x-mainspring-model"] == "away"
        assert float(headers["x-mainspring-cost-usd"]) == pytest.approx(20e-6)
        (sent,) = far.seen
        assert sent["messages"][0]["content"] == "Write to [EMAIL_1] or [PHONE_1]."
        assert set(sent) == {"messages", "max_tokens", "model"}
        assert sent["model"] == "far-1"


async def test_a_stream_puts_back_what_comes_in_pieces() -> None:
    async with _serving() as (stack, far):
        far.behave = _spelt
        events = await stack.events(model="away", messages=SAYS)
        pieces = [json.loads(e) for e in events if e.startswith("{")]
        said = "".join(
            choice["delta"].get("content") or "" for p in pieces for choice in p["choices"]
        )
        assert said == SAYS[0]["content"]
        assert events[-1] == "[DONE]"
        assert MAIL not in json.dumps(far.seen)


async def test_without_consent_it_is_not_asked() -> None:
    async with _serving(consent=[]) as (stack, far):
        status, answer, _ = await stack.chat(model="away", messages=SAYS)
        assert (status, answer["error"]["param"]) == (400, "model")
        stack.replicas.clear()
        assert (await stack.chat(model="auto"))[0] == 503
        assert far.seen == []


async def test_auto_goes_there_only_while_none_of_ours_can() -> None:
    async with _serving() as (stack, far):
        assert (await stack.chat(model="auto"))[2]["x-mainspring-model"] == "small"
        stack.replicas.clear()
        status, _, headers = await stack.chat(model="auto")
        assert (status, headers["x-mainspring-model"]) == (200, "away")
        assert "away, outside, stands in" in headers["x-mainspring-route"]
        assert len(far.seen) == 1
        # Who names one of ours does not mean another house.
        assert (await stack.chat(model="small"))[0] == 503
        # Nor does who allows less than it may cost there.
        cheap = {"mainspring": {"max_cost_usd": 0.0000001}}
        assert (await stack.chat(model="auto", **cheap))[0] == 400
        assert len(far.seen) == 1


async def test_what_goes_there_has_a_budget_of_its_own(tmp_path: Path) -> None:
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    books.budgets.put(Budget(TENANT, "key", "away", "day", 5_000_000))  # 0.005 USD
    async with _serving(books) as (stack, far):
        told = [await stack.chat(model="away") for _ in range(9)]
        # Each comes to 0.002 USD; the third is charged what was left.
        assert [status for status, _, _ in told] == [*[200] * 3, *[429] * 6]
        assert len(far.seen) == 3
        status, answer, _ = told[-1]
        assert (status, answer["error"]["code"]) == (429, "budget_exceeded")
        assert (await stack.chat(model="small"))[0] == 200
    await books.close()


async def test_what_it_does_wrong_is_said_and_costs_nothing() -> None:
    async with _serving() as (stack, far):

        async def page(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            return web.Response(text="<html>hello</html>")

        far.behave = page
        assert (await stack.chat(model="away"))[0] == 503

        async def no_key(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
            return web.json_response({"error": {"message": "bad key sk-123"}}, status=401)

        far.behave = no_key
        for _ in range(8):
            status, answer, _ = await stack.chat(model="away")
            assert status == 503
            assert "sk-123" not in json.dumps(answer)
        assert len(far.seen) < 9  # it is left alone after some
        assert (await stack.chat(model="small"))[0] == 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"model": "away", "prompt": "x"}, "model"),
        ("/v1/chat/completions", {"model": "away", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:x"}}]}]}, "messages"),
    ],
)  # fmt: skip
async def test_what_does_not_go_outside(path: str, fields: dict[str, Any], param: str) -> None:
    async with _serving() as (stack, far):
        async with stack.client.post(f"{stack.url}{path}", json=fields) as response:
            assert response.status == 400
            assert param in (await response.json())["error"]["param"]
        assert far.seen == []


async def test_it_is_listed_and_its_places_are_bounded() -> None:
    async with _serving() as (stack, _):
        async with stack.client.get(f"{stack.url}/v1/models") as response:
            cards = {card["id"]: card for card in (await response.json())["data"]}
        assert cards["away"]["tier"] == "outside"


def test_only_the_beginning_of_a_placeholder_is_held() -> None:
    rendering = Rendering(lambda text: text.replace("[EMAIL_1]", MAIL))

    def fed(content: str, finish: str | None = None, index: int = 0) -> str:
        delta = {"index": index, "delta": {"content": content}, "finish_reason": finish}
        out = rendering.feed(f"data: {json.dumps({'choices': [delta]})}\n\n".encode())
        told: str = json.loads(out.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
        return told

    assert fed("see [") == "see "
    assert fed("other", index=1) == "other"
    assert fed("EMAIL_1] and") == f"{MAIL} and"
    assert fed(" [1, 2] or [x") == " [1, 2] or "
    assert fed("", "stop") == "[x"


def test_settings_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.outside import Outside

    with pytest.raises(ConfigError, match="NOT_SET"):
        Outside(None, [_section("http://x", api_key_env="NOT_SET")], None, None, SystemClock())  # type: ignore[arg-type]
    model = {
        "id": "away", "source": "x", "tier": "outside", "usd_per_mtok_in": 1,
        "usd_per_mtok_out": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="list them under outside"):
        Settings.model_validate({"models": [model]})


# --- names that a model of ours reads

PEOPLE = "Tell Priya Nair of 4 Elm Row that Jonas is late."


def reader(**told: Any) -> Any:
    """An engine that lists these as JSON."""

    async def reads(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        content = told["text"] if "text" in told else json.dumps(told)
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return web.json_response({"choices": [choice], "usage": usage})

    return reads


async def test_names_that_our_model_reads_do_not_go_there_and_come_back() -> None:
    async with _serving(names_by="small") as (stack, far):
        far.behave = _echo
        names = ["Priya Nair", "Jonas", "Nobody Else", "P", ""]
        stack.small.behave = reader(names=names, addresses=["4 Elm Row"])
        said = [{"role": "user", "content": PEOPLE}]
        status, answer, _ = await stack.chat(model="away", messages=said)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, PEOPLE)
        (sent,) = far.seen
        told = sent["messages"][0]["content"]
        assert told == "Tell [NAME_1] of [ADDRESS_1] that [NAME_2] is late."
        (asked,) = stack.small.seen
        assert asked["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "told", [{"text": "I will not"}, {"names": ["Priya"]}, {"names": 7, "addresses": []}]
)
async def test_without_what_our_model_says_nothing_goes_there(told: dict[str, Any]) -> None:
    async with _serving(names_by="small") as (stack, far):
        stack.small.behave = reader(**told)
        assert (await stack.chat(model="away", messages=SAYS))[0] == 503
        stack.replicas.clear()
        assert (await stack.chat(model="away", messages=SAYS))[0] == 503
        assert far.seen == []


async def test_a_name_across_the_cut_of_a_long_text_is_found() -> None:
    async with _serving(names_by="small") as (stack, far):
        far.behave = _echo
        stack.small.behave = reader(names=["Priya Nair"], addresses=[])
        long = "x " * 745 + "Priya Nair" + " y" * 800
        await stack.chat(model="away", messages=[{"role": "user", "content": long}])
        assert "Priya" not in json.dumps(far.seen) and len(stack.small.seen) == 3
        status, _, _ = await stack.chat(
            model="away", messages=[{"role": "user", "content": "x " * 20_000}]
        )
        assert (status, len(far.seen)) == (503, 1)


def test_who_looks_for_names_is_one_of_ours() -> None:
    given = {
        "models": [
            {"id": t, "tier": t, "source": "x", "usd_per_mtok_in": 0, "usd_per_mtok_out": 0}
            for t in ("planner", "routine")
        ],
        "outside": [_section("http://far", names_by="nobody").model_dump()],
    }
    with pytest.raises(ValueError, match=r"outside.away.names_by: 'nobody'"):
        Settings.model_validate(given)
