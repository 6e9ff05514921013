"""The official `openai` client against the running gateway."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

HELLO: Any = [{"role": "user", "content": "What can you do?"}]


def test_models_lists_both_engines_the_routing_names_and_the_embedder(
    client: openai.OpenAI,
) -> None:
    names = {model.id for model in client.models.list()}
    assert {"planner", "routine", "auto", "minilm"} <= names


@pytest.mark.parametrize("model", ["planner", "routine", "auto"])
def test_chat_answers_and_says_what_it_cost(client: openai.OpenAI, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=HELLO,
        max_tokens=24,
        temperature=0,
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None and 0 < answer.usage.completion_tokens <= 24
    assert raw.headers["x-mainspring-model"] in {"planner", "routine"}
    assert raw.headers["x-mainspring-route"]
    assert float(raw.headers["x-mainspring-cost-usd"]) > 0
    assert raw.headers["x-request-id"]


def test_a_stream_brings_the_same_text_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="routine",
        messages=HELLO,
        max_tokens=24,
        temperature=0,
    )
    parts = client.chat.completions.create(
        model="routine",
        messages=HELLO,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(parts)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_a_json_schema_constrains_the_answer(client: openai.OpenAI) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="planner",
        messages=HELLO,
        max_tokens=40,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "pick", "schema": schema, "strict": True},
        },
    )
    assert json.loads(answer.choices[0].message.content or "")["colour"] in {"red", "green"}


def test_a_required_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    parameters: Any = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    function: Any = {
        "name": "get_weather", "description": "The weather in a city", "parameters": parameters,
    }  # fmt: skip
    answer = client.chat.completions.create(
        model="planner",
        messages=[{"role": "user", "content": "What is the weather in Berlin?"}],
        max_tokens=60,
        temperature=0,
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
    )
    (call, *_) = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Berlin"}


def test_embeddings_are_normalised_and_near_for_near_meanings(client: openai.OpenAI) -> None:
    texts = ["where is my parcel", "my package has not come", "the roman empire fell"]
    vectors = [e.embedding for e in client.embeddings.create(model="minilm", input=texts).data]
    assert {len(v) for v in vectors} == {384}

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert cosine(vectors[0], vectors[0]) == pytest.approx(1.0, abs=1e-4)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.2


def test_an_unknown_model_is_a_404_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_a_prompt_over_the_context_is_a_400_about_the_messages(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "where is my parcel " * 2000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="routine", messages=long)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "messages"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'"text"',
        b"\xff\xfe",
        b'{"model": "auto"}',
        b'{"model": "auto", "messages": []}',
        b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "auto", "messages": [{"role": "nobody", "content": "x"}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "temperature": "hot"}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "n": 100000}',
        b'{"model": "auto", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda b: b[:60].decode("latin-1"),
)
def test_a_wrong_body_is_a_4xx_with_an_openai_shaped_error(demo: Demo, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    url = f"{demo.url}/v1/chat/completions"
    answer = httpx.post(url, content=body, headers=headers, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text


def test_health_readiness_and_metrics_answer(demo: Demo) -> None:
    assert httpx.get(f"{demo.url}/healthz", timeout=30).status_code == 200
    assert httpx.get(f"{demo.url}/readyz", timeout=60).status_code == 200
    metrics = httpx.get(f"{demo.url}/metrics", timeout=30)
    assert metrics.status_code == 200 and "mainspring_" in metrics.text


def test_seeded_requests_whose_prompts_do_not_fit_one_batch_leave_the_engine_alive(
    client: openai.OpenAI,
) -> None:
    def ask(number: int) -> str | None:
        text = f"{number}: " + "Where is my order of an oak lamp? " * 24
        answer = client.chat.completions.create(
            model="routine", messages=[{"role": "user", "content": text}], seed=number % 4,
            temperature=1.0, max_tokens=16,
        )  # fmt: skip
        return answer.choices[0].message.content

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(ask, range(48)))
    assert client.chat.completions.create(model="routine", messages=HELLO, max_tokens=4).choices
