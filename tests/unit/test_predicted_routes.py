"""Requests whose way a trained quality head and their session decide, through the gateway."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.errors import Unavailable
from cluster.ids import SystemClock, SystemIds
from cluster.settings import AccountsSection, GatewaySection
from memory.embed import DIMENSION
from serve.books import Books
from serve.features import Features
from serve.predictor import LOOK_S, Predictor
from serve.quality_training import Examples, train, write
from serve.quality_versions import Versions
from serve.sessions import KEPT_S, Sessions
from tests.fakes import FakeClock
from tests.gateways import Stack, refusing, serving

EASY = "Hello, nice to meet you"
HARD = "How much is 12 * 34 / 7 = ?"
TOOL = {"type": "function", "function": {"name": "look_up"}}


def _learnt(count: int) -> tuple[Examples, NDArray[np.float32]]:
    """Sums, which only the big model gets right, and greetings, which both do."""
    rng = np.random.default_rng(1)
    hard = rng.random(count) < 0.5
    texts = [HARD.replace("12", str(rng.integers(999))) if h else EASY for h in hard]
    ease = np.array([[0.97, 0.1], [0.97, 0.97]])[1 - hard.astype(int)]
    return Examples(("big", "small"), texts, rng.random((count, 2)) < ease), _vectors(texts)


def _vectors(texts: list[str]) -> NDArray[np.float32]:
    return np.full((len(texts), DIMENSION), DIMENSION**-0.5, dtype=np.float32)


@dataclass
class Encoder:
    """Embeds at once, unless it fails or hangs; remembers what it was asked."""

    asked: list[str] = field(default_factory=list)
    trouble: str = ""

    async def __call__(self, texts: list[str]) -> Any:
        self.asked += texts
        if self.trouble == "fails":
            raise Unavailable("the encoder", "it does not answer")
        if self.trouble == "hangs":
            await asyncio.Event().wait()
        return _vectors(texts) if self.trouble != "wrong" else np.zeros((1, 3))


@dataclass
class Routed:
    """A gateway with a head in use, and its encoder."""

    stack: Stack
    encoder: Encoder
    heads: Path

    async def ask(self, text: str = EASY, **fields: Any) -> tuple[str, str]:
        """The model that answered, and why."""
        said = {"messages": [{"role": "user", "content": text}], "model": "auto"}
        status, body, headers = await self.stack.chat(**{**said, **fields})
        assert status == 200, body
        return headers["x-mainspring-model"], headers["x-mainspring-route"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "router"
    examples, vectors = _learnt(100)
    head, parts = train(examples, vectors)
    write(folder / "1", parts, head.metrics)
    (folder / "current").write_text("1\n", encoding="utf-8")
    return folder


@pytest.fixture
async def routed(trained: Path) -> AsyncIterator[Routed]:
    encoder = Encoder()
    section = GatewaySection(request_timeout_s=5.0)
    cheap = {"usd_per_mtok_in": 0.1, "usd_per_mtok_out": 0.2}
    async with serving(section, small=cheap, embed=encoder, heads=trained) as stack:
        yield Routed(stack, encoder, trained)


@pytest.mark.parametrize(
    ("text", "options", "model", "reason"),
    [
        (EASY, {}, "small", "predicted gain"),
        (HARD, {}, "big", "predicted gain"),
        (EASY, {"quality_target": 0.8}, "small", "the cheapest that reaches quality 0.8"),
        (HARD, {"quality_target": 0.6}, "big", "the cheapest that reaches quality 0.6"),
        (HARD, {"quality_target": 1.0}, "big", "quality 1 cannot be promised"),
    ],
)
async def test_the_head_in_use_decides_and_its_numbers_are_told(
    routed: Routed, text: str, options: dict[str, Any], model: str, reason: str
) -> None:
    answered, route = await routed.ask(text, mainspring=options)
    assert (answered, reason in route) == (model, True), route
    assert route.count("(at least 0.") == route.count(" USD") == 2
    assert routed.encoder.asked == [text]


async def test_the_ledger_has_the_numbers_of_the_route(trained: Path, tmp_path: Path) -> None:
    books = Books(AccountsSection(), tmp_path, SystemClock(), SystemIds())
    encoder = Encoder()
    section = GatewaySection(request_timeout_s=5.0)
    async with serving(section, books=books, embed=encoder, heads=trained) as stack:
        _, route = await Routed(stack, encoder, trained).ask(HARD)
    await books.close()
    with closing(sqlite3.connect(tmp_path / "accounts.db")) as ledger:
        assert ledger.execute("SELECT reason FROM usage_rows").fetchall() == [(route,)]
    assert route.count("(at least 0.") == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "big"},
        {"model": "auto-fast"},
        {"tools": [TOOL]},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_nothing_is_embedded_where_the_request_decides(
    routed: Routed, fields: dict[str, Any]
) -> None:
    await routed.ask(HARD, **fields)
    assert routed.encoder.asked == []


async def test_nothing_is_embedded_for_one_model(routed: Routed) -> None:
    del routed.stack.replicas[1]
    assert (await routed.ask(HARD))[0] == "small"
    assert routed.encoder.asked == []


async def test_nothing_is_embedded_without_a_head(tmp_path: Path) -> None:
    encoder = Encoder()
    async with serving(GatewaySection(), embed=encoder, heads=tmp_path / "none") as stack:
        _, route = await Routed(stack, encoder, tmp_path).ask(HARD)
    assert (route.split(";")[0], encoder.asked) == ("short and plain", [])


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("fails", "the encoder or the quality head fails"),
        ("hangs", "the encoder is late"),
        ("wrong", "the encoder or the quality head fails"),
    ],
)
async def test_routing_goes_on_without_its_encoder_and_says_so(
    routed: Routed, trouble: str, words: str
) -> None:
    routed.encoder.trouble = trouble
    model, route = await routed.ask(HARD, mainspring={"quality_target": 0.8})
    assert model == "big"
    assert f"quality 0.8 cannot be promised; {words}" in route
    assert words in (await routed.ask(EASY))[1]


async def test_a_head_is_taken_up_once_promoted_and_a_broken_one_is_told(
    trained: Path, tmp_path: Path
) -> None:
    clock, folder = FakeClock(), tmp_path / "router"
    predictor = Predictor(Versions(folder), Encoder(), clock)
    assert await predictor.predict(HARD, ["big", "small"], 5.0) == ({}, "")
    trained_copy = folder / "1"
    trained_copy.mkdir(parents=True)
    for name in ("quality.npz", "metrics.json"):
        (trained_copy / name).write_bytes((trained / "1" / name).read_bytes())
    (folder / "current").write_text("1\n", encoding="utf-8")
    assert await predictor.predict(HARD, ["big", "small"], 5.0) == ({}, "")
    clock.step(LOOK_S)
    found, _ = await predictor.predict(HARD, ["big", "small"], 5.0)
    assert found["big"].low > found["small"].chance
    assert (await predictor.predict(HARD, ["big", "new"], 5.0))[1].endswith("does not know new")
    (folder / "current").write_text("2\n", encoding="utf-8")
    clock.step(LOOK_S)
    assert await predictor.predict(HARD, ["big"], 5.0) == ({}, "the quality head cannot be read")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality_target", 1.1),
        ("quality_target", "high"),
        ("max_cost_usd", 0),
        ("max_cost_usd", -1.0),
        ("task", "guess"),
    ],
)
async def test_a_wrong_wish_is_refused_by_its_name(routed: Routed, name: str, value: Any) -> None:
    status, body, _ = await routed.stack.chat(model="auto", mainspring={name: value})
    assert (status, body["error"]["param"]) == (400, f"mainspring.{name}")


async def test_a_request_that_may_cost_more_than_it_allows_is_refused(routed: Routed) -> None:
    status, body, _ = await routed.stack.chat(model="auto", mainspring={"max_cost_usd": 1e-5})
    assert (status, body["error"]["param"]) == (400, "mainspring.max_cost_usd")
    assert "expected at least 0.000" in body["error"]["message"]
    assert routed.stack.big.seen == routed.stack.small.seen == []
    await routed.ask(mainspring={"max_cost_usd": 1.0})


def _round(turns: int) -> list[dict[str, Any]]:
    """A conversation in which a tool was called `turns` times; the last result has just come."""
    said: list[dict[str, Any]] = [{"role": "user", "content": HARD}]
    for number in range(turns):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "look_up"}}
        said += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "x" * 400, "tool_call_id": f"c{number}"},
        ]
    return said


TRACE: list[dict[str, Any]] = [
    {"messages": _round(0), "tools": [TOOL]},
    {"messages": _round(1), "tools": [TOOL]},
    {"messages": _round(2), "tools": [TOOL]},
    {"messages": _round(2)},
    {"messages": [*_round(2), {"role": "user", "content": EASY}]},
    {"messages": [*_round(2), {"role": "user", "content": "Plan it"}], "tools": [TOOL]},
    {"messages": _round(3), "response_format": {"type": "json_object"}},
    {"messages": [{"role": "user", "content": EASY}]},
]


async def test_a_replayed_agent_trace_never_switches_its_model(routed: Routed) -> None:
    models = [(await routed.ask(**step, mainspring={"session": "a"}))[0] for step in TRACE]
    assert models == ["big"] * len(TRACE)
    assert routed.encoder.asked == []


async def test_a_session_stays_where_it_fell_back_to_while_its_tools_are_called(
    routed: Routed,
) -> None:
    routed.stack.big.behave = refusing(500)
    assert (await routed.ask(**TRACE[0], mainspring={"session": "b"}))[0] == "small"
    routed.stack.big.behave = None
    for step in TRACE[1:]:
        model, route = await routed.ask(**step, mainspring={"session": "b"})
        assert (model, route.split(";")[0]) == ("small", "small has the session")


@pytest.mark.parametrize(
    ("then", "model"),
    [
        ({"text": HARD}, "small"),
        ({"text": HARD, "mainspring": {"session": "another"}}, "big"),
        ({"text": HARD, "mainspring": {}}, "big"),
        ({"text": HARD, "mainspring": {"session": "c", "task": "code"}}, "big"),
        ({"text": HARD, "mainspring": {"session": "c", "quality_target": 0.8}}, "big"),
        ({"text": EASY, "tools": [TOOL]}, "big"),
        ({"text": EASY, "model": "auto-plan"}, "big"),
    ],
)
async def test_a_session_changes_its_model_only_with_its_work(
    routed: Routed, then: dict[str, Any], model: str
) -> None:
    assert (await routed.ask(EASY, mainspring={"session": "c"}))[0] == "small"
    assert (await routed.ask(**{"mainspring": {"session": "c"}, **then}))[0] == model


def test_sessions_end_with_time_and_the_longest_unused_go_first() -> None:
    clock, asked = FakeClock(), Features("auto", 10, 10)
    sessions = Sessions(clock, most=2)
    for name in ("a", "b", "a", "c"):
        sessions.answered("t", name, asked, "small")
    assert [sessions.model("t", i, asked) for i in ("a", "b", "c")] == ["small", "", "small"]
    assert sessions.model("other", "a", asked) == ""
    clock.step(KEPT_S)
    assert sessions.model("t", "a", asked) == ""
