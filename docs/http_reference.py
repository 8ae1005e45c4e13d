"""The page of the HTTP API, from the server's OpenAPI document."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from chatapi import settings
from chatapi.appliance import Appliance
from chatapi.engines import registry
from chatapi.interfaces.http.app import create_app
from chatapi.interfaces.http.problems import EVERYWHERE, MEANINGS

NOTE = "<!-- Written by docs/generate.py; do not edit. -->"
HTTP_HEAD = f"""{NOTE}
# HTTP API

Every route of the server, from its OpenAPI document. A running server has the document at `/openapi.json`.
[HTTP and curl](../integrations/curl.md) shows how the routes are used, [Realtime API](../integrations/realtime.md) the
WebSocket `/v1/realtime`, which OpenAPI cannot describe.

An error is `application/problem+json` (RFC 9457) with a stable `code`; under `/v1` it has OpenAI's form.
Statuses 429 and 503 carry `Retry-After`. As soon as the server has an [API key](../keys-and-https.md), every route
needs one.
"""


def openapi() -> dict[str, Any]:
    """The OpenAPI document of a server with every route."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [*(f"{role.name}.engine=fake" for role in registry.SHIPPED), f"data={folder}"]
        app = create_app(Appliance(settings.load(chosen, environ={}).settings))
        document: dict[str, Any] = json.loads(json.dumps(app.openapi()))
        return document


def http_page(document: dict[str, Any]) -> str:
    parts = [HTTP_HEAD, "Every route may answer with these statuses too:\n", "| status | meaning |", "| --- | --- |"]
    parts += [*(f"| {status} | {MEANINGS[status]} |" for status in EVERYWHERE), ""]
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}\n", f"{operation['summary']}. {needs(operation)}\n"]
            parts += list(parameters(operation))
            parts += list(bodies(operation, schemas))
            parts += list(responses(operation))
    parts += ["## Schemas\n"]
    for name in sorted(schemas):
        schema = schemas[name]
        if schema.get("properties"):
            parts += [f"### {name}\n", f"{cell(schema.get('description', ''))}\n", *members(schema), ""]
    return "\n".join(parts).rstrip() + "\n"


def needs(operation: dict[str, Any]) -> str:
    """The scope that a key needs, as a sentence."""
    scopes = [f"`{scope}`" for each in operation["security"] for scope in each.get("key", [])]
    return f"Needs the scope {' or '.join(scopes)}." if scopes else "Any key is enough."


def parameters(operation: dict[str, Any]) -> Iterator[str]:
    found = operation.get("parameters", [])
    if found:
        yield "| parameter | in | type | meaning |"
        yield "| --- | --- | --- | --- |"
        for each in found:
            schema = each["schema"]
            described = dict.fromkeys(filter(None, (schema.get("description"), each.get("description"))))
            meaning = cell(" ".join(described))
            yield f"| `{each['name']}` | {each['in']} | {shape(schema)} | {meaning} |"
        yield ""


def bodies(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    files = [f"`{name}`" for name, each in content.items() if each["schema"].get("format") == "binary"]
    if files:
        yield f"Body {', '.join(files)}: the file itself.\n"
    for media_type, each in content.items():
        schema = each["schema"]
        if schema.get("format") == "binary":
            continue
        if "$ref" in schema:
            yield f"Body `{media_type}`: {shape(schema)}.\n"
        else:
            yield f"Body `{media_type}`:\n"
            yield from members(schema)
            yield ""


def members(schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's members."""
    required = schema.get("required", [])
    yield "| member | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, each in schema["properties"].items():
        given = "required" if name in required else value(each.get("default"))
        yield f"| `{name}` | {shape(each)} | {given} | {cell(each.get('description', ''))} |"


def value(given: Any) -> str:
    return "" if given is None else f"`{json.dumps(given)}`"


def shape(schema: dict[str, Any]) -> str:
    """The type of a value in words, with its limits."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            found = [shape(each) for each in schema[union] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(found))
    if schema.get("type") == "array":
        return f"list of {shape(schema.get('items', {})) or 'values'}"
    if schema.get("format") == "binary":
        return "file"
    return schema.get("type", "any") + limits(schema)


def limits(schema: dict[str, Any]) -> str:
    below = schema.get("minimum", schema.get("minLength", schema.get("exclusiveMinimum")))
    above = schema.get("maximum", schema.get("maxLength", schema.get("exclusiveMaximum")))
    unit = " characters" if "minLength" in schema or "maxLength" in schema else ""
    if below is not None and above is not None:
        return f", {below} to {above}{unit}"
    if above is not None:
        return f", at most {above}{unit}"
    return "" if below is None else f", at least {below}{unit}"


def responses(operation: dict[str, Any]) -> Iterator[str]:
    yield "| status | media type | meaning |"
    yield "| --- | --- | --- |"
    for status, response in sorted(operation["responses"].items()):
        if int(status) in EVERYWHERE:
            continue
        kinds = ", ".join(f"`{each}`" for each in response.get("content", {}))
        yield f"| {status} | {kinds} | {cell(response['description'])} |"
    yield ""


def cell(text: str) -> str:
    """A text as it may stand in a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
