"""Which model a request goes to, as tables."""

from typing import Any

import pytest

from cluster.errors import InvalidInput, NotFound
from cluster.settings import ModelSection
from serve.catalog import Catalog
from serve.features import Features, features_of
from serve.ranking import Quality
from serve.routing import LONG_PROMPT_CHARS, Known, Load, route
from serve.schemas import ChatRequest


def _model(name: str, tier: str, context: int, usd: float = 1.0) -> ModelSection:
    return ModelSection.model_validate(
        {
            "id": name, "source": "x", "tier": tier, "max_model_len": context,
            "usd_per_mtok_in": usd, "usd_per_mtok_out": usd,
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


TRIO = Catalog(
    (
        _model("big", "planner", 8192, 4.0),
        _model("middle", "routine", 2048, 2.0),
        _model("small", "routine", 1024, 1.0),
    )
)
ALL = {"big": IDLE, "middle": IDLE, "small": IDLE}
SURE = {"big": Quality(0.95, 0.9), "middle": Quality(0.9, 0.8), "small": Quality(0.6, 0.5)}
EQUAL = {"big": Quality(0.95, 0.9), "middle": Quality(0.9, 0.8), "small": Quality(0.86, 0.7)}
WORST = {"big": 0.04, "middle": 0.02, "small": 0.01}


def wishing(model: str = "auto", content: str = "Hello", **wishes: Any) -> ChatRequest:
    return request(content, model=model, mainspring=wishes)


@pytest.mark.parametrize(
    ("asked", "quality", "models", "reason"),
    [
        (wishing(), SURE, ("middle", "big", "small"), "predicted gain 0.35"),
        (wishing(), EQUAL, ("small", "big", "middle"), "predicted gain 0.09"),
        (wishing(content="Plan it"), EQUAL, ("small", "big", "middle"), "predicted gain 0.09"),
        (wishing(quality_target=0.4), SURE, ("small", "middle", "big"), "the cheapest that"),
        (wishing(quality_target=0.5), SURE, ("small", "middle", "big"), "reaches quality 0.5"),
        (wishing(quality_target=0.7), SURE, ("middle", "big", "small"), "reaches quality 0.7"),
        (wishing(quality_target=0.85), SURE, ("big", "middle", "small"), "reaches quality 0.85"),
        (wishing(quality_target=0.99), SURE, ("big", "middle", "small"), "0.99 cannot be promised"),
    ],
)  # fmt: skip
def test_predicted_quality_decides_where_the_request_does_not(
    asked: ChatRequest, quality: dict[str, Quality], models: tuple[str, ...], reason: str
) -> None:
    chosen = route(features_of(asked), TRIO, ALL, Known(quality))
    assert chosen.models == models
    assert reason in chosen.reason
    first = quality[models[0]]
    assert f"{models[0]} {first.chance:.2f} (at least {first.low:.2f}) 0.00" in chosen.reason


@pytest.mark.parametrize(
    ("asked", "first", "reason"),
    [
        (wishing(), "middle", "short and plain; the encoder is late; middle 0.0005"),
        (wishing(quality_target=0.5), "big", "quality 0.5 cannot be promised; the encoder is late"),
        (wishing("auto-fast", quality_target=0.5), "middle", "quality 0.5 cannot be promised"),
        (request(tools=[TOOL], mainspring={"quality_target": 0.5}), "big", "cannot be promised"),
    ],
)
def test_without_a_prediction_rules_decide_and_nothing_is_promised(
    asked: ChatRequest, first: str, reason: str
) -> None:
    chosen = route(features_of(asked), TRIO, ALL, Known(blind="the encoder is late"))
    assert chosen.models[0] == first
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("quality", "load", "first", "reason"),
    [
        (SURE, {**ALL, "middle": FULL}, "big", "middle is full"),
        (SURE, {"big": IDLE, "small": IDLE}, "big", "predicted gain 0.35"),
        ({"big": SURE["big"]}, ALL, "middle", "short and plain"),
    ],
)
def test_a_prediction_yields_to_what_is_alive_and_has_room(
    quality: dict[str, Quality], load: dict[str, Load], first: str, reason: str
) -> None:
    chosen = route(features_of(wishing()), TRIO, load, Known(quality))
    assert chosen.models[0] == first
    assert reason in chosen.reason


@pytest.mark.parametrize(
    ("asked", "models"),
    [
        (wishing(max_cost_usd=0.04), ("middle", "small", "big")),
        (wishing("auto-plan", max_cost_usd=0.03), ("middle", "small")),
        (wishing("auto-plan", max_cost_usd=0.01), ("small",)),
        (wishing("middle", max_cost_usd=0.02), ("middle",)),
    ],
)
def test_models_that_may_cost_more_are_left_out(
    asked: ChatRequest, models: tuple[str, ...]
) -> None:
    assert route(features_of(asked), TRIO, ALL, Known(worst_usd=WORST)).models == models


@pytest.mark.parametrize("model", ["auto", "auto-plan", "big"])
def test_a_request_that_may_cost_more_everywhere_is_refused(model: str) -> None:
    asked = features_of(wishing(model, max_cost_usd=0.009))
    with pytest.raises(InvalidInput, match=r"max_cost_usd is 0.009; expected at least 0.0[14]0000"):
        route(asked, TRIO, ALL, Known(worst_usd=WORST))


@pytest.mark.parametrize(
    ("task", "first"),
    [("chat", "middle"), ("classify", "middle"), ("plan", "big"), ("code", "big")],
)
def test_the_task_decides_the_tier(task: str, first: str) -> None:
    chosen = route(features_of(wishing(content="plan or not", task=task)), TRIO, ALL)
    assert chosen.models[0] == first
    assert f"task {task}" in chosen.reason


@pytest.mark.parametrize(
    ("load", "kept", "models"),
    [
        (ALL, "small", ("small", "big", "middle")),
        ({**ALL, "small": FULL}, "small", ("small", "big", "middle")),
        ({**ALL, "big": FULL}, "small", ("small", "middle", "big")),
        ({**ALL, "small": GONE}, "small", ("big", "middle")),
        (ALL, "", ("big", "middle", "small")),
    ],
)
def test_a_session_keeps_its_model_while_that_is_alive(
    load: dict[str, Load], kept: str, models: tuple[str, ...]
) -> None:
    asked = features_of(request("Plan it", tools=[TOOL]))
    assert route(asked, TRIO, load, Known(kept=kept)).models == models
