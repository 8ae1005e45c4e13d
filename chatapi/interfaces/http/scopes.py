"""The scope that each route needs, and the places of an API key in a request."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

from chatapi.auth import ALL, OPERATE, TALK, KeyHolder
from chatapi.errors import Forbidden

ANY = None
"""Any valid key is enough."""
NEEDS: dict[str, str | None] = {
    "/completion": TALK,
    "/conversations": TALK,
    "/v1/chat/completions": TALK,
    "/v1/audio/transcriptions": TALK,
    "/v1/audio/translations": TALK,
    "/v1/audio/speech": TALK,
    "/v1/audio/voices": TALK,
    "/v1/realtime": TALK,
    "/health": OPERATE,
    "/metrics": OPERATE,
    "/audio-device": OPERATE,
    "/": ANY,
    "/page": ANY,
    "/ready": ANY,
    "/models": ANY,
    "/v1/models": ANY,
    "/certificate": ANY,
    "/openapi.json": ANY,
}
"""Path, with all paths below it (except below `/`) -> the scope its key needs; other paths need `all`."""
DEEPEST = max(path.count("/") for path in NEEDS)
SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix of the key in the subprotocol that OpenAI's browser clients send."""


def entry(path: str) -> str | None:
    """The table's entry for a request's path; None when it has none."""
    # A path may have thousands of segments; no entry has more than the deepest.
    segments = path.split("/", DEEPEST + 1)[: DEEPEST + 1]
    prefixes = ["/".join(segments[:length]) for length in range(len(segments), 1, -1)]
    return next((each for each in prefixes if each in NEEDS and each in (path, each.rstrip("/"))), None)


def require(holder: KeyHolder, path: str) -> None:
    """Raises Forbidden (scope_missing) when the key lacks the scope of the path."""
    found = entry(path)
    needed = ALL if found is None else NEEDS[found]
    if not holder.may(needed):
        raise Forbidden(
            f"the key {holder.name!r} has the scopes {', '.join(holder.scopes)}, and this needs the scope {needed}; "
            "`chatapi keys add NAME --scope SCOPE` on the box creates a key with it",
            code="scope_missing",
            details={"scope": needed},
        )


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
