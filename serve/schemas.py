"""The parts of a request that the gateway itself understands. Everything else passes untouched.

vLLM checks the rest: a second full copy of its schema would only drift from it.
"""

import json
import re
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.errors import InvalidInput

MAX_DEPTH = 64
_TYPE = re.compile(r"str|int|float|bool|list\[.*\]|dict\[.*\]")
MAX_CHOICES = 64
MAX_PRIORITY = 1_000

Task = Literal["chat", "classify", "extract", "summarize", "plan", "reason", "code"]
Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """A body whose every key is ours: another one is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Options(Body):
    """The `mainspring` object of a request. `session` keeps a conversation on one replica. Work of
    the class `batch` is work that nobody waits for: it yields to all other. With `fallback` another
    model may answer while the named one has to start.

    `quality_target` is the share of right answers that is wanted; `auto` then takes the cheapest
    model that is sure to reach it. `max_cost_usd` leaves out every model that may cost more. `task`
    is the kind of work; a session keeps its model until it changes. `language` (ISO 639-1) leaves
    out the models that do not speak it, where others do."""

    deadline_ms: int | None = Field(None, ge=1, le=3_600_000)
    session: str | None = Field(None, max_length=256)
    work: Literal["interactive", "batch"] = Field("interactive", alias="class")
    fallback: bool = False
    quality_target: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    max_cost_usd: float | None = Field(None, gt=0, allow_inf_nan=False)
    task: Task | None = None
    language: str | None = Field(None, pattern=r"^[a-z]{2}$")


class Message(BaseModel):
    """One chat message; its further keys are the engine's business."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(BaseModel):
    """What a client may ask of a stream."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """`POST /v1/chat/completions`, as far as routing, limits and metering need it."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str = Field(min_length=1, max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=4096)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    user: str | None = None
    priority: int | None = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    mainspring: Options = Options()

    @property
    def limit(self) -> int | None:
        """Most tokens to generate for one choice, when the client said so."""
        return self.max_completion_tokens or self.max_tokens


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=256)
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises InvalidInput for anything else: other encodings, NaN,
    numbers beyond a double, nesting deeper than MAX_DEPTH, lone surrogates."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        if isinstance(value, dict) and _depth_within(value, MAX_DEPTH):
            encode(value)
            return value
    except UnicodeError:
        raise InvalidInput("body", "bytes", "JSON in UTF-8") from None
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidInput("body", text, "a JSON object") from None
    raise InvalidInput("body", type(value).__name__, f"a JSON object, nested {MAX_DEPTH} at most")


def encode(payload: dict[str, Any]) -> bytes:
    """JSON for the engine. Raises ValueError for what JSON or UTF-8 cannot hold."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False).encode("utf-8")


def read(kind: type[Model], payload: dict[str, Any]) -> Model:
    """The payload as `kind`. Raises InvalidInput that names the first field at fault."""
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # Of a value that may be of several types, pydantic names the type that it tried.
        named = (str(part) for part in first["loc"])
        where = ".".join(part for part in named if not _TYPE.fullmatch(part)) or "body"
        value = "nothing" if first["type"] == "missing" else first["input"]
        raise InvalidInput(where, value, first["msg"]) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _depth_within(value: object, limit: int) -> bool:
    layer: list[object] = [value]
    for _ in range(limit):
        inner: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return True
        layer = inner
    return False
