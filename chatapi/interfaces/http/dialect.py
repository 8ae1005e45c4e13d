"""What differs between the HTTP servers of one box: policy, address, limits, keys, and the form of errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Scope

from chatapi import auth
from chatapi.auth import KeyHolder, Keyring
from chatapi.auth.policy import Interface
from chatapi.errors import ChatapiError, MethodNotAllowed, NotFound
from chatapi.interfaces.http import key_headers, paths
from chatapi.interfaces.http.body_limits import BodyLimits
from chatapi.interfaces.http.problems import error_response
from chatapi.settings import Settings

HEALTH_PATHS = ("/health", "/ready")
"""Health checks, which are served however busy the box is."""


@dataclass(frozen=True)
class HttpDialect:
    """The API of one HTTP server."""

    interface: Interface
    """Its table in the policy."""
    host: str
    """Address that it listens on."""
    body_bytes: int
    """Largest request body, in bytes."""
    body_seconds: float
    """Time in which the whole body of a request must arrive, in seconds."""
    authenticate: Callable[[Scope, Headers], KeyHolder]
    """The holder of a request's key. Raises Unauthorized, Forbidden, TooMany, SettingsError."""
    error_response: Callable[[str, ChatapiError, dict[str, str] | None], Response]
    """The response to an error, by path, error and further headers."""
    routed: Callable[[str], str] = str
    """The path of the route that a request's path means."""
    unsupported: Callable[[str], str] = lambda path: ""
    """Why it does not have a path of the API that it offers; empty: it has it, or the path is none of that API."""
    hint: Callable[[str], str] = lambda path: ""
    """What to request instead of a path that does not exist, as the end of a sentence."""
    health_paths: tuple[str, ...] = ()
    """Paths that are served however busy the box is."""
    upload_limits: Callable[[str, Headers], BodyLimits | None] = lambda route, headers: None
    """Limits of a request whose body is written to the disk as it arrives, by route and headers; None: all others."""

    def operation(self, method: str, path: str) -> auth.Operation:
        """The operation of a request; its denial says what to request instead of a path that does not exist."""
        found = auth.http_operation(method, path, self.interface)
        if found.denial is not None and (why := self.unsupported(path)):
            return _unsupported(found, path, why)
        if isinstance(found.denial, NotFound) and (hint := self.hint(path)):
            return replace(found, denial=NotFound(found.denial.message + hint))
        return found


def _unsupported(found: auth.Operation, path: str, why: str) -> auth.Operation:
    """The operation of a request for what the API has elsewhere and this server has not."""
    if isinstance(found.denial, MethodNotAllowed) and found.route == path:
        message = f"{found.denial.message}; {why}"
        return replace(found, denial=MethodNotAllowed(message, found.denial.methods))
    # That API is no secret, and 404 is what its clients do not try again.
    return replace(
        found, route="other", scopes=(), denial=NotFound(f"{path} is not supported: {why}", code="not_supported")
    )


def own_dialect(settings: Settings, keyring: Keyring) -> HttpDialect:
    """The box's own API with OpenAI's."""
    return HttpDialect(
        interface="http",
        host=settings.server.host,
        body_bytes=settings.limits.body_bytes,
        body_seconds=settings.server.body_seconds,
        authenticate=lambda scope, headers: authenticated(keyring, scope, headers),
        error_response=error_response,
        routed=paths.routed,
        unsupported=paths.unsupported,
        hint=paths.hint,
        health_paths=HEALTH_PATHS,
        upload_limits=partial(BodyLimits.of_upload, settings),
    )


def authenticated(keyring: Keyring, scope: Scope, headers: Headers) -> KeyHolder:
    """The holder of the API key of a request, or of the signed link that it is. Raises Unauthorized, TooMany,
    SettingsError.

    Browsers can send the key of a WebSocket only as a subprotocol, and none with the source of an audio element.
    """
    offered = key_headers.offered_keys(headers, scope.get("subprotocols", ()))
    if not offered and scope["type"] == "http":
        query = QueryParams(scope.get("query_string", b""))
        if (holder := keyring.follow_link(scope["method"], scope["path"], query)) is not None:
            return holder
    return keyring.authenticate(offered, client_of(scope))


def client_of(scope: Scope) -> str:
    """The client's address; `-`: it has none."""
    return scope["client"][0] if scope.get("client") else "-"
