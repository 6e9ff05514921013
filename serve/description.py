"""How routes that read their body themselves are described in the OpenAPI document."""

from typing import Any, Final

from pydantic import BaseModel

OPENAPI_PATH: Final = "/openapi.json"


def described(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What a route adds to its description: a JSON body of this kind."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": required, "content": {"application/json": {
        "schema": _inlined(schema, schema.pop("$defs", {}))
    }}}}  # fmt: skip


def _inlined(schema: Any, known: dict[str, Any]) -> Any:
    """The schema with its references replaced by what they mean, so that it stands by itself."""
    if isinstance(schema, list):
        return [_inlined(part, known) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(known[schema["$ref"].rpartition("/")[2]], known)
    return {key: _inlined(value, known) for key, value in schema.items()}
