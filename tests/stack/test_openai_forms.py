"""The official client's completions and responses, tokens, and curl as the README has it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.stack.conftest import Demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
CURLS = re.findall(r"^    (curl (?:.|\\\n)*?[^\\])$", README, re.MULTILINE)
WEATHER: Any = {
    "type": "function", "name": "get_weather", "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                   "required": ["city"]},
}  # fmt: skip


def test_completions_answer_and_stream_with_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="routine", prompt="What can you", max_tokens=8)
    assert whole.choices[0].text
    assert whole.usage is not None and 0 < whole.usage.completion_tokens <= 8
    several = client.completions.create(model="routine", prompt=["a", "b"], max_tokens=4, n=1)
    assert [choice.index for choice in several.choices] == [0, 1]
    chunks = list(client.completions.create(
        model="auto", prompt="What can you", max_tokens=8, stream=True,
        stream_options={"include_usage": True},
    ))  # fmt: skip
    assert "".join(c.choices[0].text for c in chunks if c.choices)
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


def test_responses_answer_and_stream(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(
        model="routine", input="What can you do?", instructions="Be brief.", max_output_tokens=24
    )
    whole = raw.parse()
    assert whole.output_text
    assert whole.usage is not None and whole.usage.output_tokens > 0
    assert float(raw.headers["x-mainspring-cost-usd"]) > 0
    said: list[str] = []
    with client.responses.stream(
        model="auto", input=[{"role": "user", "content": "What can you do?"}],
        max_output_tokens=24,
    ) as stream:  # fmt: skip
        for event in stream:
            if event.type == "response.output_text.delta":
                said.append(event.delta)
        final = stream.get_final_response()
    assert "".join(said) == final.output_text
    assert final.usage is not None and final.usage.output_tokens > 0


def test_responses_fill_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": False,
    }  # fmt: skip
    form: Any = {"format": {"type": "json_schema", "name": "answer", "schema": schema,
                            "strict": True}}  # fmt: skip
    found = client.responses.create(
        model="planner", input="Is it ok?", max_output_tokens=32, text=form
    )
    assert found.output_text.replace(" ", "") in {'{"ok":true}', '{"ok":false}'}


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
def test_what_responses_do_not_serve_is_refused_by_name(
    client: openai.OpenAI, asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="routine", input="hi", **asked)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", param)


def test_a_text_becomes_tokens_and_a_text_again(demo: Demo) -> None:
    asked = {"model": "routine", "prompt": "What can you do?", "add_special_tokens": False}
    found = httpx.post(f"{demo.url}/tokenize", json=asked).json()
    assert found["count"] == len(found["tokens"]) > 0
    back = {"model": "routine", "tokens": found["tokens"]}
    assert httpx.post(f"{demo.url}/detokenize", json=back).json()["prompt"] == asked["prompt"]


@pytest.mark.parametrize("command", CURLS)
def test_curl_of_the_readme_answers(demo: Demo, command: str) -> None:
    here = command.replace("http://127.0.0.1:8000", demo.url).replace("curl ", "curl -sS -m 60 ", 1)
    if "REQUEST" in here:
        hello = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
        answer = httpx.post(f"{demo.url}/v1/chat/completions", json=hello, timeout=60)
        here = here.replace("REQUEST", answer.headers["x-request-id"])
    if "RUN" in here:
        listed = httpx.get(f"{demo.url}/v1/runs", params={"limit": 1}).json()
        here = here.replace("RUN", listed["data"][0]["id"])
    done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout and '"error"' not in done.stdout, done.stdout[:500]


def test_the_readme_has_curl_commands() -> None:
    assert len(CURLS) >= 5
