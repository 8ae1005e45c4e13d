"""JSON that a request brings: how much of it is taken, and what is wrong with it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from starlette.requests import Request

from chatapi.audio import Source
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.json_bounds import DEEPEST, check_values, whole_number
from chatapi.text.sentence_splitter import is_text

LARGE = 64 << 10
"""Bytes from which a body is read on a thread, so that nobody waits for it."""
MOST_VALUES = 200_000
"""Commas and brackets of a body: a value costs far more memory than the few bytes that it is written in."""
PART = 256 << 10
"""Characters of base64 decoded at a time; whole groups of four."""
JSON_NAMES = {
    "list": "array",
    "str": "string",
    "NoneType": "null",
    "int": "number",
    "float": "number",
    "bool": "boolean",
}
"""What JSON calls the values of Python's types."""

T = TypeVar("T")


def media_type(request: Request) -> str:
    """Of the body, in small letters and without parameters; empty: nobody said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, wanted: str, understood: Callable[[dict[str, Any]], T]) -> T:
    """What `understood` makes of the object that the body is to be, with what is `wanted` in it.

    Raises Unsupported, BadInput (invalid_json), TooLarge (too_many_values), Unprocessable.
    """
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Unsupported(
            f"the media type {kind or '(none)'} is not taken; send application/json", code="unsupported_media_type"
        )
    spool = Spool.of(request)
    body = await spool.body(request)
    if isinstance(body, bytes) and len(body) < LARGE:
        return understood(_object(body, wanted))
    limiter = None if isinstance(body, bytes) else spool.parsing
    return await anyio.to_thread.run_sync(lambda: understood(_object(body, wanted)), limiter=limiter)


def decoded(text: str) -> bytes:
    """What standard base64 holds. Raises ValueError. A large text is decoded in parts, so that a thread which does so
    lets others run in between."""
    if len(text) <= PART:
        return base64.b64decode(text, validate=True)
    parts = []
    for first in range(0, len(text), PART):
        part = text[first : first + PART]
        if "=" in part and first + PART < len(text):
            raise ValueError("padding before the end")
        parts.append(base64.b64decode(part, validate=True))
    return b"".join(parts)


def _object(source: Source, wanted: str) -> dict[str, Any]:
    body = _content(source)
    if not body.strip():
        raise BadInput(f"the body is empty; send a JSON object with {wanted}", code="invalid_json")
    check_values(body, MOST_VALUES)
    try:
        values = json.loads(body, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {_broken(error)}", code="invalid_json") from None
    if not isinstance(values, dict):
        kind = JSON_NAMES[type(values).__name__]
        raise Unprocessable(f"the body is a JSON {kind}; an object with {wanted} is needed")
    return values


def _content(source: Source) -> bytes:
    """All of it."""
    if isinstance(source, bytes):
        return source
    assert not isinstance(source, Path)  # noqa: S101 - bodies are bytes or opened files
    source.seek(0)
    return source.read()


def _broken(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"what stands at line {error.lineno}, column {error.colno} does not belong there"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it holds a number that is too long"


def check_plain(values: Any) -> None:
    """Nothing in it that only Python takes for JSON. Raises BadInput (invalid_json)."""
    level, depth = [values], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise BadInput(f"the body is nested more than {DEEPEST} levels deep", code="invalid_json")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str) and not is_text(value):
                raise BadInput("the body holds NUL or lone surrogates, which are not text", code="invalid_json")
            elif isinstance(value, float) and not math.isfinite(value):
                raise BadInput("the body holds a number that is none, or too large", code="invalid_json")
        level = inner
