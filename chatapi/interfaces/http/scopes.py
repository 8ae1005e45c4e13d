"""Which scope a route needs, and where in a request a key may be."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

from chatapi.auth import ALL, OPERATE, TALK, KeyHolder
from chatapi.errors import Forbidden

ANY = None
"""What every key is for."""
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
"""A path, and all below it (below `/` nothing) -> the scope its key must have; what is not here needs `all`."""
DEEPEST = max(path.count("/") for path in NEEDS)
SUBPROTOCOL = "openai-insecure-api-key."
"""What OpenAI's browser clients put before the key to make a subprotocol of it."""


def entry(path: str) -> str | None:
    """The table's entry for a request's path; None: it has none."""
    # A path may have thousands of steps; no entry has more than the deepest.
    steps = path.split("/", DEEPEST + 1)[: DEEPEST + 1]
    beginnings = ["/".join(steps[:length]) for length in range(len(steps), 1, -1)]
    return next((each for each in beginnings if each in NEEDS and each in (path, each.rstrip("/"))), None)


def require(holder: KeyHolder, path: str) -> None:
    """Raises Forbidden (scope_missing)."""
    found = entry(path)
    needed = ALL if found is None else NEEDS[found]
    if not holder.may(needed):
        raise Forbidden(
            f"the key {holder.name!r} is for {', '.join(holder.scopes)}, and this needs the scope {needed}; "
            "`chatapi keys add NAME --scope SCOPE` on the box makes one that has it",
            code="scope_missing",
            details={"scope": needed},
        )


def offered_keys(headers: Headers, subprotocols: Iterable[str] = ()) -> list[bytes]:
    """What may be a key: a bearer token, X-API-Key, from a browser's own prompt a basic password; of a browser's
    WebSocket, which can send nothing else, a subprotocol."""
    return [key for key in (*_in_headers(headers), *_in_subprotocols(subprotocols)) if key]


def _in_headers(headers: Headers) -> Iterator[bytes]:
    # Starlette decodes headers as Latin-1, whatever they are.
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
    """As it stands, and percent-decoded: a subprotocol can hold neither spaces nor letters beyond ASCII."""
    for offered in subprotocols:
        if offered.startswith(SUBPROTOCOL):
            key = offered[len(SUBPROTOCOL) :]
            yield key.encode("utf-8", "replace")
            yield unquote_to_bytes(key.encode("utf-8", "replace"))
