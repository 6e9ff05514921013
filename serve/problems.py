"""Errors as an OpenAI client expects them: one JSON shape, the right status, no inner detail."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from cluster.errors import MainspringError, NotFound

_PYDANTIC = re.compile(r"validation errors?.*?'msg': (['\"])(.*?)\1, '", re.DOTALL)
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Problem:
    """What a client is told. `param` is the request field at fault, `code` is stable."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def type(self) -> str:
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        return _TYPES.get(self.status, default)

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(), status_code=self.status, headers=headers)

    def event(self) -> bytes:
        """The same inside a stream that has already begun."""
        return b"data: " + json.dumps(self.body()).encode() + b"\n\n"


class Refused(MainspringError):
    """A request that cannot be served as it is, for a reason with a code of its own."""

    code = "refused"

    def __init__(self, http_status: int, message: str, reason: str, param: str | None) -> None:
        super().__init__(http_status, message, reason, param)
        self.http_status, self.message, self.reason, self.param = (
            http_status, message, reason, param,
        )  # fmt: skip

    def __str__(self) -> str:
        return self.message


INTERNAL = Problem(500, "something went wrong inside; the request id finds it", "internal_error")


def problem_of(error: MainspringError) -> Problem:
    """An error of ours as what the client is told. Errors of status 500 keep their text inside."""
    if isinstance(error, Refused):
        return Problem(error.http_status, error.message, error.reason, error.param)
    if isinstance(error, NotFound) and error.kind == "model":
        message = f"the model {error.id!r} does not exist; GET /v1/models lists those that do"
        return Problem(404, message, "model_not_found", "model")
    if error.status == 500:
        return INTERNAL
    return Problem(error.status, str(error), error.code, error.field, error.retry_after_s)


def engine_problem(status: int, body: bytes) -> Problem:
    """A 4xx answer of vLLM in our shape."""
    message, param = _engine_message(body)
    if "context length" in message or "longer than the maximum model length" in message:
        return Problem(400, message, "context_length_exceeded", "messages")
    if "max_tokens" in message or "max_completion_tokens" in message:
        return Problem(400, message, "invalid_value", "max_tokens")
    return Problem(status, message, "invalid_value", param)


def _engine_message(body: bytes) -> tuple[str, str | None]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "the engine refused the request", None
    inner = found.get("error", found) if isinstance(found, Mapping) else {}
    if not isinstance(inner, Mapping):
        return "the engine refused the request", None
    message, param = inner.get("message"), inner.get("param")
    text = message if isinstance(message, str) and message else "the engine refused the request"
    # A pydantic report repeats the client's whole input: only its first sentence is passed on.
    told = _PYDANTIC.search(text)
    text = told.group(2) if told else text.splitlines()[0]
    return text[:500], param.removeprefix("body.") if isinstance(param, str) else None


def install(app: FastAPI) -> None:
    """Give an app the one error shape, for its own errors and for the framework's."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, MainspringError)
        return problem_of(error).response()

    async def framework(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "unknown_url", 405: "method_not_allowed"}
        texts = {404: "there is nothing at this address", 405: "this address takes another method"}
        status = error.status_code
        message = texts.get(status, str(error.detail))
        response = Problem(status, message, codes.get(status, "invalid_request")).response()
        response.headers.update(error.headers or {})
        return response

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        return Problem(
            400, f"{where or 'request'}: {first['msg']}", "invalid_value", where
        ).response()

    app.add_exception_handler(MainspringError, ours)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, validation)
