"""The OpenAPI document: FastAPI's, with the request bodies that are not declared to it, and each route's scopes."""

from __future__ import annotations

import copy
from collections.abc import Callable, ItemsView, Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from chatapi import auth
from chatapi.interfaces.http.problems import MEANINGS, MEDIA_TYPE
from chatapi.interfaces.http.response_models import ProblemDocument

REFERENCE = "#/components/schemas/{model}"
BINARY = {"type": "string", "format": "binary"}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of the application."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = found["components"]["schemas"]
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                operation["security"] = _security(method.upper(), path)
                # FastAPI describes its own handler of validation errors, where a route does not describe ours.
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
                for content in _contents(operation):
                    content["schema"] = _hoisted(content["schema"], schemas)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = found
    return app.openapi_schema


class Deferred(dict[str, Any]):
    """A part of the document that is made with it, not when the routes are."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self._make = make

    def __bool__(self) -> bool:
        return True

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """What `make` returns; FastAPI reads it by this method first."""
        if not len(self):
            self.update(self._make())
        return super().items()


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route of our own API."""
    schema = {"schema": model_schema(ProblemDocument)}
    return {status: {"description": MEANINGS[status], "content": {MEDIA_TYPE: schema}} for status in statuses}


def events(description: str) -> dict[str, Any]:
    """A stream of server-sent events without names."""
    data = {"type": "string"}
    return {
        "schema": {"type": "object", "description": description, "properties": {"data": data}, "required": ["data"]}
    }


def form_body(kind: type[BaseModel], file: str = "file", required: bool = True) -> dict[str, Any]:
    """A form body with a file and these parameters; names of lists end in `[]`."""
    schema = model_schema(kind)
    parts: dict[str, Any] = {file: BINARY}
    for name, described in schema["properties"].items():
        parts[f"{name}[]" if described.get("type") == "array" else name] = described
    form = {"type": "object", "properties": parts, "additionalProperties": False, "$defs": schema.get("$defs", {})}
    if required:
        form["required"] = [file, *schema.get("required", [])]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A JSON body with these parameters."""
    return Deferred(
        lambda: {"requestBody": {"required": True, "content": {"application/json": {"schema": model_schema(kind)}}}}
    )


def model_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model, for parts that FastAPI does not generate; `document` moves it to the shared ones."""
    # The caller may change it.
    return copy.deepcopy(_generated_schema(kind))


@cache
def _generated_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Every application of the process needs the same schemas, and most routes several times the same one."""
    return kind.model_json_schema(ref_template=REFERENCE)


def _security(method: str, path: str) -> list[dict[str, list[str]]]:
    """A route's scopes, as alternatives; the empty one is for a server without keys."""
    scopes = auth.http_operation(method, path).scopes
    return [*({"key": [scope]} for scope in scopes), {}] if scopes else [{"key": []}, {}]


def _contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The contents of an operation's body and responses."""
    for described in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from (content for content in described.get("content", {}).values() if "schema" in content)


def _hoisted(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Moves the models inside a schema to `schemas`. Returns a reference to a schema that is a model itself."""
    schemas.update(schema.pop("$defs", {}))
    if "properties" not in schema or "title" not in schema:
        return schema
    schemas[schema["title"]] = schema
    return {"$ref": REFERENCE.format(model=schema["title"])}
