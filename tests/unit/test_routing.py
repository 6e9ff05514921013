"""Which model a request goes to, as tables."""

from typing import Any

import pytest

from cluster.errors import NotFound
from cluster.settings import ModelSection
from serve.catalog import Catalog
from serve.routing import LONG_PROMPT_CHARS, Features, Load, features_of, route
from serve.schemas import ChatRequest


def _model(name: str, tier: str, context: int) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": name, "source": "x", "tier": tier, "max_model_len": context,
            "usd_per_mtok_in": 1.0, "usd_per_mtok_out": 1.0,
        }
    )  # fmt: skip


CATALOG = Catalog((_model("big", "planner", 8192), _model("small", "routine", 1024)))
IDLE = Load(replicas=1, in_work=0, capacity=10)
FULL = Load(replicas=1, in_work=10, capacity=10)
GONE = Load(replicas=0, in_work=0, capacity=0)
BOTH = {"big": IDLE, "small": IDLE}


def request(content: str = "Hello", **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content}]
    return ChatRequest.model_validate({"model": "auto", "messages": messages, **fields})


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("asked", "first", "reason"),
    [
        (request(), "small", "short and plain"),
        (request(response_format=SCHEMA), "big", "structured answer"),
        (request(response_format={"type": "json_object"}), "big", "structured answer"),
        (request(response_format={"type": "text"}), "small", "short and plain"),
        (request(tools=[TOOL]), "big", "tools offered"),
        (request(tools=[TOOL], tool_choice="none"), "small", "short and plain"),
        (request(tools=[]), "small", "short and plain"),
        (request("x" * (LONG_PROMPT_CHARS + 1)), "big", "long prompt"),
        (request("Please plan my move"), "big", "words of planning"),
        (request("I like airplanes"), "small", "short and plain"),
        (request(model="auto-fast", tools=[TOOL]), "small", "auto-fast"),
        (request(model="auto-plan"), "big", "auto-plan"),
        (request(max_tokens=2000), "big", "too long for small"),
    ],
)
def test_what_a_request_asks_for_decides_the_tier(
    asked: ChatRequest, first: str, reason: str
) -> None:
    chosen = route(features_of(asked), CATALOG, BOTH)
    assert chosen.models[0] == first
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("load", "models", "reason"),
    [
        (BOTH, ("small", "big"), "short and plain"),
        ({"big": IDLE, "small": GONE}, ("big",), "small is not alive"),
        ({"big": IDLE}, ("big",), "small is not alive"),
        ({"big": IDLE, "small": FULL}, ("big", "small"), "small is full"),
        ({"big": FULL, "small": FULL}, ("small", "big"), "short and plain"),
        ({"big": GONE, "small": GONE}, (), "no engine is alive"),
    ],
)
def test_life_and_room_decide_the_order(
    load: dict[str, Load], models: tuple[str, ...], reason: str
) -> None:
    chosen = route(features_of(request()), CATALOG, load)
    assert chosen.models == models
    assert reason in chosen.reason


def test_named_model_is_never_replaced() -> None:
    load = {"big": IDLE, "small": FULL}
    assert route(features_of(request(model="small")), CATALOG, load).models == ("small",)
    gone = route(features_of(request(model="small")), CATALOG, {"big": IDLE, "small": GONE})
    assert gone.models == ()
    assert "not alive" in gone.reason


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound):
        route(features_of(request(model="gpt-4")), CATALOG, BOTH)


def test_prediction_is_the_price_of_prompt_and_answer() -> None:
    features = Features(model="big", prompt_chars=3_996, answer_tokens=500)
    assert features.prompt_tokens == 1_000
    assert route(features, CATALOG, BOTH).predicted_usd == pytest.approx(0.0015)


def test_text_parts_count_like_text() -> None:
    parts = [{"type": "text", "text": "plan a trip"}, {"type": "image_url", "image_url": {}}]
    messages = [{"role": "user", "content": parts}]
    asked = ChatRequest.model_validate({"model": "auto", "messages": messages, "n": 2})
    features = features_of(asked)
    assert features.prompt_chars == len("plan a trip")
    assert features.planning_words
    assert features.answer_tokens == 512


def test_only_the_last_user_message_is_searched_for_words() -> None:
    messages = [
        {"role": "system", "content": "You plan things"},
        {"role": "user", "content": "Plan!"},
        {"role": "assistant", "content": "done, I made the plan"},
        {"role": "user", "content": "Thanks"},
    ]
    asked = ChatRequest.model_validate({"model": "auto", "messages": messages})
    assert not features_of(asked).planning_words


def test_a_replayed_tool_loop_stays_with_one_model() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "42"}
    rounds: list[dict[str, Any]] = [
        {"tools": [TOOL]},
        {"tools": [TOOL]},
        {"tool_choice": "none"},
        {},
    ]
    chosen = set()
    for count, fields in enumerate(rounds):
        trace = [{"role": "user", "content": "Hello"}, *[called, result] * count]
        asked = ChatRequest.model_validate({"model": "auto", "messages": trace, **fields})
        chosen.add(route(features_of(asked), CATALOG, BOTH).models[0])
    assert chosen == {"big"}
