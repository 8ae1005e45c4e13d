"""JSON request bodies: size limits, parsing, and error messages.

Routes do not declare their bodies to FastAPI, which reads a body into memory whole, parses it on the event loop, and
reports every error meanwhile, also a lack of disk space, as 400 without a code. Here a large body is a file, is parsed
on a thread after its values were counted, and each error keeps its code.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.json_bounds import DEEPEST, check_values, whole_number
from chatapi.text.sentence_splitter import is_text

LARGE = 64 << 10
"""Size in bytes from which a body is parsed on a thread, so that the event loop is not blocked."""
MOST_VALUES = 200_000
"""Most commas and brackets in a body: a value costs far more memory than its few bytes of JSON."""
PART = 256 << 10
"""Characters of base64 decoded at a time; a multiple of four."""
DATA_URI = 200
"""Longest head of a data URI, in characters."""
PLAIN = str.maketrans({" ": None, "\t": None, "\r": None, "\n": None, "-": "+", "_": "/"})
"""Characters of other forms of base64 -> those of the standard one."""
JSON_NAMES = {
    "list": "array",
    "str": "string",
    "NoneType": "null",
    "int": "number",
    "float": "number",
    "bool": "boolean",
}
"""Python type -> JSON's name for it."""

T = TypeVar("T")


def media_type(request: Request) -> str:
    """The media type of the body, in lower case without parameters; empty when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request, expected: str, parse: Callable[[dict[str, Any]], T]) -> T:
    """The result of `parse` for the JSON object in the body; `expected` names its contents in error messages.

    Raises Unsupported, BadInput (invalid_json), TooLarge (too_many_values), Unprocessable.
    """
    kind = media_type(request)
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Unsupported(
            f"the media type {kind or '(none)'} is not supported; send application/json", code="unsupported_media_type"
        )
    spool = Spool.of(request)
    body = await spool.body(request)
    if isinstance(body, bytes) and len(body) < LARGE:
        return parse(json_object(body, expected))
    limiter = None if isinstance(body, bytes) else spool.parsing
    return await anyio.to_thread.run_sync(lambda: parse(json_object(body, expected)), limiter=limiter)


def decode_base64(text: str) -> bytes:
    """Decodes base64, also as a data URI, with line breaks, without padding or in its form for URLs. Raises ValueError.

    Large text is decoded in parts, so that other threads can run in between.
    """
    try:
        return _decode_strictly(text)
    except ValueError:
        head, comma, data = text[:DATA_URI].partition(",")
        if head.startswith("data:") and comma:
            text = data + text[DATA_URI:]
        plain = text.translate(PLAIN).rstrip("=")
        return _decode_strictly(plain + "=" * (-len(plain) % 4))


def _decode_strictly(text: str) -> bytes:
    if len(text) <= PART:
        return base64.b64decode(text, validate=True)
    parts = []
    for first in range(0, len(text), PART):
        part = text[first : first + PART]
        if "=" in part and first + PART < len(text):
            raise ValueError("padding before the end")
        parts.append(base64.b64decode(part, validate=True))
    return b"".join(parts)


def json_object(source: Source, expected: str) -> dict[str, Any]:
    """The JSON object in a body. Raises BadInput (invalid_json), TooLarge (too_many_values), Unprocessable."""
    body = _content(source)
    if not body.strip():
        raise BadInput(f"the body is empty; send a JSON object with {expected}", code="invalid_json")
    check_values(body, MOST_VALUES)
    try:
        values = json.loads(body, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {_json_fault(error)}", code="invalid_json") from None
    if not isinstance(values, dict):
        kind = JSON_NAMES[type(values).__name__]
        raise Unprocessable(f"the body is a JSON {kind}; an object with {expected} is needed")
    return values


def _content(source: Source) -> bytes:
    """The whole content."""
    if isinstance(source, bytes):
        return source
    assert not isinstance(source, Path)  # noqa: S101 - bodies are bytes or open files
    source.seek(0)
    return source.read()


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"unexpected text at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "it contains a number that is too long"


def check_plain(values: Any) -> None:
    """Rejects values that Python accepts but JSON does not. Raises BadInput (invalid_json)."""
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
                raise BadInput("the body contains NUL or lone surrogates, which are not text", code="invalid_json")
            elif isinstance(value, float) and not math.isfinite(value):
                raise BadInput("the body contains a number that is not finite", code="invalid_json")
        level = inner
