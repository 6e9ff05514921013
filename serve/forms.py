"""The forms in which a model is asked: chat, completions, responses. vLLM speaks all three.

What the gateway decides by, it reads as a chat request, whatever the form: one routing, one limit,
one bill. The body itself is passed on in its own form.

Of responses the stateless part is served: nothing is stored, so nothing can be fetched, continued
or worked on in the background by its id.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from cluster.errors import InvalidInput
from cluster.settings import ModelSection
from serve.calls import CHAT_PATH
from serve.metering import Metering, StreamMeter, Usage, usage_of
from serve.problems import Refused
from serve.schemas import MAX_CHOICES, MAX_PRIORITY, ChatRequest, Options, StreamOptions, read

COMPLETIONS_PATH: Final = "/v1/completions"
RESPONSES_PATH: Final = "/v1/responses"
MAX_PROMPTS: Final = 64
USUAL_COMPLETION_TOKENS: Final = 16  # vLLM's own, as OpenAI's
_EVENT_END: Final = b"\n\n"
_COMPLETED: Final = (b'"type":"response.completed"', b'"type":"response.incomplete"')

Payload = dict[str, Any]


def _off(value: Any) -> bool:
    """Nothing is asked for by that value."""
    return value is None or value is False or value in ([], {}, "", "none", "auto")


def _refused(value: Any) -> bool:
    return not _off(value)


def _not_text(value: Any) -> bool:
    return not _off(value) and value != ["text"]


@dataclass(frozen=True)
class Form:
    """`view` reads a body as a chat request, `sent` is what the engine gets of it. `refused` are
    the parameters that no engine here serves, with what says whether they ask for anything;
    `limit_name` is what the form calls the most tokens to write."""

    path: str
    kind: type[BaseModel]
    view: Callable[[Payload], ChatRequest]
    sent: Callable[[Payload], Payload]
    meter: Callable[[ModelSection, bool], Metering]
    refused: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    limit_name: str = "max_tokens"

    def read(self, payload: Payload) -> ChatRequest:
        """What the gateway decides by. InvalidInput for a wrong field, Refused (400,
        `unsupported_parameter`) for one that is not served."""
        for name, asks in self.refused.items():
            if asks(payload.get(name)):
                raise unsupported(name)
        return self.view(payload)


def unsupported(name: str, what: str = "") -> Refused:
    """The error for a parameter that is not served here."""
    told = what or "this parameter is not supported by this gateway"
    return Refused(400, f"{name}: {told}", "unsupported_parameter", name)


class CompletionRequest(BaseModel):
    """`POST /v1/completions`, as far as routing, limits and metering need it."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=256)
    prompt: str | list[str] | list[int] | list[list[int]]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    priority: int | None = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    user: str | None = None
    mainspring: Options = Options()

    def prompts(self) -> list[str]:
        """The prompts as texts; one of token ids is as long as its ids are many."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return ["x" * 4 * len(self.prompt)]
        return [p if isinstance(p, str) else "x" * 4 * len(p) for p in self.prompt]  # type: ignore[arg-type]


class ResponsesRequest(BaseModel):
    """`POST /v1/responses`, as far as routing, limits and metering need it."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=256)
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    priority: int | None = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    user: str | None = None
    mainspring: Options = Options()


def _chat_view(payload: Payload) -> ChatRequest:
    return read(ChatRequest, payload)


def _completion_view(payload: Payload) -> ChatRequest:
    asked = read(CompletionRequest, payload)
    prompts = asked.prompts()
    if not 0 < len(prompts) <= MAX_PROMPTS:
        raise InvalidInput("prompt", f"{len(prompts)} prompts", f"1 to {MAX_PROMPTS}")
    return ChatRequest(
        model=asked.model, messages=[_said(prompt) for prompt in prompts],
        stream=asked.stream, stream_options=asked.stream_options,
        max_tokens=asked.max_tokens or USUAL_COMPLETION_TOKENS,
        n=(asked.n or 1) * len(prompts), user=asked.user, priority=asked.priority,
        mainspring=asked.mainspring,
    )  # fmt: skip


def _responses_view(payload: Payload) -> ChatRequest:
    asked = read(ResponsesRequest, payload)
    for tool in asked.tools or ():
        if tool.get("type") != "function":
            raise unsupported("tools", f"tools of type {tool.get('type')!r} are not served")
    kind = ((asked.text or {}).get("format") or {}).get("type")
    items = [asked.input] if isinstance(asked.input, str) else asked.input
    if not items:
        raise InvalidInput("input", "an empty list", "a text or at least one item")
    said = [_said(text) for item in items for text in _texts(item)]
    return ChatRequest(
        model=asked.model, messages=[_said(asked.instructions or "", "system"), *said],
        stream=asked.stream, stream_options=StreamOptions(include_usage=True),
        max_tokens=asked.max_output_tokens, user=asked.user, priority=asked.priority,
        response_format={"type": kind} if kind else None, tools=asked.tools,
        tool_choice=asked.tool_choice, mainspring=asked.mainspring,
    )  # fmt: skip


def _said(text: str, role: str = "user") -> Any:
    return {"role": role, "content": text}


def _texts(item: str | dict[str, Any]) -> Iterable[str]:
    """The texts of an input item: a message's, what a function was called with or gave."""
    if isinstance(item, str):
        yield item
        return
    content = item.get("content")
    parts = content if isinstance(content, list) else [content, item.get("output")]
    for part in (*parts, item.get("arguments")):
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


def _counted(payload: Payload) -> Payload:
    """The body, but that a stream ends with its usage."""
    sent = {k: v for k, v in payload.items() if k != "mainspring"}
    if payload.get("stream"):
        sent["stream_options"] = {**(payload.get("stream_options") or {}), "include_usage": True}
    return sent


def _unstored(payload: Payload) -> Payload:
    return {**{k: v for k, v in payload.items() if k != "mainspring"}, "store": False}


class ResponsesMeter(StreamMeter):
    """A stream of responses: named events, of which the last but for none holds the usage."""

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        *whole, self._rest = self._rest.split(_EVENT_END)
        for event in whole:
            self._events += 1
            if any(mark in event.replace(b" ", b"")[:4_000] for mark in _COMPLETED):
                self._note(event)
        return b"".join(event + _EVENT_END for event in whole)

    def _note(self, event: bytes) -> None:
        line = next((part for part in event.split(b"\n") if part.startswith(b"data: ")), b"")
        try:
            told = json.loads(line[len(b"data: ") :])["response"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(told, dict) and isinstance(told.get("usage"), dict):
            self._usage: Usage | None = usage_of(told)
            self._counted = True


CHAT: Final = Form(
    CHAT_PATH, ChatRequest, _chat_view, _counted, StreamMeter,
    {
        "audio": _refused, "modalities": _not_text, "web_search_options": _refused,
        "store": _refused, "prediction": _refused, "functions": _refused,
        "function_call": _refused,
    },
)  # fmt: skip
COMPLETION: Final = Form(
    COMPLETIONS_PATH, CompletionRequest, _completion_view, _counted, StreamMeter,
    {"suffix": _refused, "best_of": lambda value: value not in (None, 1)},
)  # fmt: skip
RESPONSES: Final = Form(
    RESPONSES_PATH, ResponsesRequest, _responses_view, _unstored, ResponsesMeter,
    {
        name: _refused
        for name in (
            "store", "previous_response_id", "conversation", "background", "prompt",
            "context_management", "moderation",
        )
    },
    "max_output_tokens",
)  # fmt: skip
FORMS: Final = (CHAT, COMPLETION, RESPONSES)
