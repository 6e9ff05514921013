"""PURE: a line of a batch's input file, and of its output, in OpenAI's form."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cluster.errors import InvalidInput
from serve.schemas import parse_body

EMBEDDINGS: Final = "/v1/embeddings"
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", EMBEDDINGS, "/v1/responses")
MAX_LINES: Final = 50_000
MAX_LINE_BYTES: Final = 1_000_000
MAX_CUSTOM_ID: Final = 512
_KEYS: Final = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True)
class Line:
    """A request of a batch: `number` is its place in the file, from 1; `body` is JSON."""

    number: int
    custom_id: str
    model: str
    body: str


@dataclass(frozen=True)
class Fault:
    """Why a line can't be worked on; `param` is the key at fault."""

    number: int
    code: str
    message: str
    param: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the batch's `errors` hold it."""
        return {
            "object": "batch_error", "code": self.code, "line": self.number,
            "message": self.message, "param": self.param,
        }  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """What became of a line: a response's status, request id and JSON body, or the code and message
    of why there is none."""

    status: int = 0
    request_id: str = ""
    body: str = "null"
    code: str = ""
    message: str = ""

    @property
    def right(self) -> bool:
        return self.status == 200


def split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file that comes in parts, without their ends. One that is longer than
    MAX_LINE_BYTES is cut behind that: it is too long, however it goes on."""
    held = b""
    for chunk in chunks:
        *whole, held = (held + chunk).split(b"\n")
        yield from whole
        held = held[: MAX_LINE_BYTES + 1]
    if held:
        yield held


class Reader:
    """Reads the lines of one file: `endpoint` is the batch's, `models` those that there are."""

    def __init__(self, endpoint: str, models: Iterable[str]) -> None:
        self._endpoint, self._models = endpoint, frozenset(models)
        self._seen: dict[str, int] = {}
        self._model = ""

    def read(self, number: int, raw: bytes) -> Line | Fault | None:
        """The request on a line, or what is wrong with it; None for an empty line."""
        if not raw.strip():
            return None
        if len(self._seen) >= MAX_LINES:
            return Fault(number, "too_many_lines", f"a batch has at most {MAX_LINES} requests")
        if len(raw) > MAX_LINE_BYTES:
            return Fault(number, "line_too_long", f"a line has at most {MAX_LINE_BYTES} bytes")
        try:
            found = parse_body(raw)
        except InvalidInput as error:
            return Fault(number, "invalid_json_line", f"not a request: {error}")
        return self._fault(number, found) or self._line(number, found)

    def _line(self, number: int, found: dict[str, Any]) -> Line:
        custom_id, body = found["custom_id"], found["body"]
        self._seen[custom_id] = number
        self._model = body["model"]
        return Line(number, custom_id, body["model"], json.dumps(body, ensure_ascii=False))

    def _fault(self, number: int, found: dict[str, Any]) -> Fault | None:
        """The first thing that is wrong with a JSON object."""
        custom_id = found.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
            right = f"custom_id is a text of 1 to {MAX_CUSTOM_ID} characters"
            return Fault(number, "invalid_custom_id", right, "custom_id")
        if custom_id in self._seen:
            where = f"{custom_id!r} is the custom_id of line {self._seen[custom_id]} already"
            return Fault(number, "duplicate_custom_id", where, "custom_id")
        if found.get("method") != "POST":
            return Fault(number, "invalid_method", "method is POST", "method")
        if found.get("url") != self._endpoint:
            told = f"url is {self._endpoint}, as the batch's endpoint"
            return Fault(number, "invalid_url", told, "url")
        if unknown := set(found) - _KEYS:
            told = f"a line has {', '.join(sorted(_KEYS))} and nothing else"
            return Fault(number, "unknown_key", told, min(unknown))
        return self._fault_in(number, found.get("body"))

    def _fault_in(self, number: int, body: Any) -> Fault | None:
        if not isinstance(body, dict):
            return Fault(number, "invalid_body", "body is a JSON object", "body")
        model = body.get("model")
        if not isinstance(model, str) or model not in self._models:
            told = f"body.model is one of {', '.join(sorted(self._models))}"
            return Fault(number, "model_not_found", told, "body.model")
        if self._model not in {"", model}:
            told = f"all lines of a batch have one model; the first one has {self._model!r}"
            return Fault(number, "mismatched_model", told, "body.model")
        if body.get("stream"):
            return Fault(number, "invalid_body", "a batch has no streams", "body.stream")
        return None


def written(batch_id: str, line: int, custom_id: str, answer: Answered) -> bytes:
    """A line of the output file, or of the error file."""
    response = error = None
    if answer.status:
        response = {
            "status_code": answer.status, "request_id": answer.request_id,
            "body": json.loads(answer.body),
        }  # fmt: skip
    if answer.code:
        error = {"code": answer.code, "message": answer.message}
    row = {
        "id": f"{batch_id}_{line}", "custom_id": custom_id, "response": response, "error": error,
    }  # fmt: skip
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"
