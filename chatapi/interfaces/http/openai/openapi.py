"""Parts of the OpenAPI document for OpenAI's routes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def events(description: str) -> dict[str, Any]:
    """The schema of a stream of server-sent events without names."""
    data = {"type": "string"}
    return {
        "schema": {"type": "object", "description": description, "properties": {"data": data}, "required": ["data"]}
    }


def form_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A form body with a file and these parameters; names of lists end in `[]`."""
    schema = kind.model_json_schema()
    defined = schema.pop("$defs", {})
    parts: dict[str, Any] = {"file": {"type": "string", "format": "binary"}}
    for name, described in schema["properties"].items():
        listed = described.get("type") == "array"
        parts[f"{name}[]" if listed else name] = _inlined(described, defined)
    form = {
        "type": "object",
        "properties": parts,
        "required": ["file", *schema.get("required", [])],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A JSON body with these parameters."""
    schema = kind.model_json_schema()
    defined = schema.pop("$defs", {})
    inlined = _inlined(schema, defined)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: Any, defined: dict[str, Any]) -> Any:
    """The schema with its references replaced by their definitions."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(defined[schema["$ref"].rpartition("/")[2]], defined)
        return {name: _inlined(value, defined) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(each, defined) for each in schema]
    return schema
