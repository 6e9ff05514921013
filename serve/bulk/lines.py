"""PURE: a line of a batch's input file, and of its output, in OpenAI's form."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cluster.errors import InvalidInput
from serve.bulk.kinds import KINDS, Known
from serve.schemas import parse_body

MAX_LINES: Final = 50_000
MAX_LINE_BYTES: Final = 1_000_000
MAX_CUSTOM_ID: Final = 512
EXPECT: Final = "expect"
_KEYS: Final = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True)
class Line:
    """A request of a batch: `number` is its place in the file, from 1; `body` is JSON, and so is
    `expect`, what its answer is held to, where the line says that."""

    number: int
    custom_id: str
    model: str
    body: str
    expect: str = ""


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
    """What became of a line: a response's status, request id and JSON body; the code and message of
    why there is none, or why it is not right. `usd` is what it cost, as far as no ledger's entry
    names its batch."""

    status: int = 0
    request_id: str = ""
    body: str = "null"
    code: str = ""
    message: str = ""
    usd: float = 0.0

    @property
    def right(self) -> bool:
        return self.status == 200 and not self.code


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
    """Reads the lines of one file: `endpoint` is the batch's, `known` the names that there are."""

    def __init__(self, endpoint: str, known: Known) -> None:
        self._endpoint, self._field = endpoint, KINDS[endpoint].field
        self._known = frozenset(known[self._field]) if self._field in known else None
        self._seen: dict[str, int] = {}
        self._name = ""

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
        self._name = body[self._field]
        expect = json.dumps(found[EXPECT], ensure_ascii=False) if EXPECT in found else ""
        return Line(number, custom_id, self._name, json.dumps(body, ensure_ascii=False), expect)

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
        if unknown := set(found) - _KEYS - {EXPECT}:
            told = f"a line has {', '.join(sorted(_KEYS))}, perhaps {EXPECT}, and nothing else"
            return Fault(number, "unknown_key", told, min(unknown))
        return self._fault_in(number, found.get("body"))

    def _fault_in(self, number: int, body: Any) -> Fault | None:
        if not isinstance(body, dict):
            return Fault(number, "invalid_body", "body is a JSON object", "body")
        field, name = self._field, body.get(self._field)
        if not isinstance(name, str) or not name:
            return Fault(number, f"{field}_not_found", f"body.{field} is a text", f"body.{field}")
        if self._known is not None and name not in self._known:
            told = f"body.{field} is one of {', '.join(sorted(self._known))}"
            return Fault(number, f"{field}_not_found", told, f"body.{field}")
        if self._name not in {"", name}:
            told = f"all lines of a batch have one {field}; the first one has {self._name!r}"
            return Fault(number, f"mismatched_{field}", told, f"body.{field}")
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
