"""The JSON that the fake language model answers with: the smallest value that a schema allows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from chatapi.errors import Unprocessable

KEYWORDS = (
    "$ref", "$defs", "$schema", "title", "description", "const", "enum", "anyOf", "oneOf", "type", "properties",
    "required", "items", "minItems", "minimum", "additionalProperties", "default",
)  # fmt: skip
"""Keywords of JSON schemas that the fake language model supports."""
MOST_VALUES = 200
"""Most values, nested or in sequence, of its JSON."""


def matching_json(schema: Mapping[str, Any], user_text: str) -> str:
    """JSON that matches the schema. Raises Unprocessable (invalid_json_schema)."""
    try:
        return json.dumps(_matching_value(schema, user_text, schema, itertools.count()), ensure_ascii=False)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unprocessable(
            f"the fake language model does not support this JSON schema: {error}",
            code="invalid_json_schema",
            details={"param": "response_format"},
        ) from error


def _matching_value(schema: Mapping[str, Any], user_text: str, whole: Mapping[str, Any], steps: Iterator[int]) -> Any:
    """The smallest value that matches a schema."""
    if next(steps) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    if unsupported := set(schema).difference(KEYWORDS):
        raise ValueError(", ".join(sorted(unsupported)))

    def inner(part: Any) -> Any:
        return _matching_value(part, user_text, whole, steps)

    if "$ref" in schema:
        return inner(_part(whole, schema["$ref"]))
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    if "anyOf" in schema or "oneOf" in schema:
        return inner((schema.get("anyOf") or schema["oneOf"])[0])
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: inner(properties.get(name, {"type": "string"})) for name in schema.get("required", properties)}
    if kind == "array":
        return [inner(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    plain = {
        "string": user_text,
        "integer": schema.get("minimum", 0),
        "number": schema.get("minimum", 0),
        "boolean": False,
    }
    return None if kind == "null" else plain[kind]


def _part(whole: Any, reference: str) -> Any:
    for step in reference.removeprefix("#").split("/")[1:]:
        whole = whole[step]
    return whole
