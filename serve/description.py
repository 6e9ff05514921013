"""The OpenAPI description of handlers that read their body themselves."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

OPENAPI_PATH: Final = "/openapi.json"
_READS: Final = "mainspring_reads"

Handler = TypeVar("Handler", bound=Callable[..., Any])


def reads(kind: type[BaseModel]) -> Callable[[Handler], Handler]:
    """Says of a handler that it reads a JSON body of this kind."""

    def told(handler: Handler) -> Handler:
        setattr(handler, _READS, kind)
        return handler

    return told


def describe(app: FastAPI) -> None:
    """Add to the app's description what its handlers read."""
    for route in app.routes:
        if isinstance(route, APIRoute) and (kind := getattr(route.endpoint, _READS, None)):
            route.openapi_extra = _body(kind)


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    """The schema with its references replaced by what they mean, so that it stands by itself."""
    if isinstance(schema, list):
        return [_inlined(part, known) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {key: _inlined(value, known) for key, value in schema.items()}
