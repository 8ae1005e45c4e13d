"""The places of an API key in an HTTP request or a WebSocket's handshake."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix of the key in the subprotocol that OpenAI's browser clients send."""


def offered_keys(headers: Headers, subprotocols: Iterable[str] = ()) -> list[bytes]:
    """Candidate API keys: a bearer token, X-API-Key, the basic password of a browser's prompt, and for browser
    WebSockets, which cannot send headers, a subprotocol."""
    return [key for key in (*_in_headers(headers), *_in_subprotocols(subprotocols)) if key]


def _in_headers(headers: Headers) -> Iterator[bytes]:
    # Starlette decodes all headers as Latin-1.
    yield headers.get("x-api-key", "").encode("latin-1")
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        yield value.strip().encode("latin-1")
    elif kind.lower() == "basic":
        try:
            yield base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return


def _in_subprotocols(subprotocols: Iterable[str]) -> Iterator[bytes]:
    """The key as it is, and percent-decoded: a subprotocol cannot contain spaces or characters beyond ASCII."""
    for offered in subprotocols:
        if offered.startswith(SUBPROTOCOL):
            key = offered[len(SUBPROTOCOL) :]
            yield key.encode("utf-8", "replace")
            yield unquote_to_bytes(key.encode("utf-8", "replace"))
