"""The policy: which scope each operation of each interface needs. What is not in it is denied to every client.

An interface names the operation that a client requests and asks `authorize`; it decides nothing itself. A new route,
event or method works once it has a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from chatapi.auth.scopes import ALL, OPERATE, TALK, TRANSCRIBE, VOICES, KeyHolder, Scope
from chatapi.errors import ChatapiError, Forbidden, MethodNotAllowed, NotFound

Interface = Literal["http", "websocket", "wyoming"]

ANY_KEY: tuple[Scope, ...] = ()
"""Any valid key is enough."""
POLICY: dict[Interface, dict[str, tuple[Scope, ...]]] = {
    "http": {
        "GET /": ANY_KEY,
        "GET /page/{file:path}": ANY_KEY,
        "GET /ready": ANY_KEY,
        "GET /models": ANY_KEY,
        "GET /certificate": ANY_KEY,
        "GET /openapi.json": ANY_KEY,
        "GET /v1/models": ANY_KEY,
        "GET /v1/models/{model}": ANY_KEY,
        "POST /completion": (TALK,),
        "GET /conversations/{conversation}": (TALK,),
        "DELETE /conversations/{conversation}": (TALK,),
        "POST /v1/chat/completions": (TALK,),
        "POST /v1/completions": (TALK,),
        "POST /v1/responses": (TALK,),
        "GET /v1/responses/{response}": (TALK,),
        "DELETE /v1/responses/{response}": (TALK,),
        "POST /v1/audio/speech": (TALK,),
        "GET /v1/audio/voices": (TALK, VOICES),
        "GET /v1/audio/models": ANY_KEY,
        "POST /v1/audio/transcriptions": (TALK, TRANSCRIBE),
        "POST /v1/audio/translations": (TALK, TRANSCRIBE),
        "GET /health": (OPERATE,),
        "GET /metrics": (OPERATE,),
        "GET /settings": (OPERATE,),
        "PATCH /settings": (OPERATE,),
        "GET /audio-device": (OPERATE,),
        "POST /audio-device/press": (OPERATE,),
        "POST /audio-device/release": (OPERATE,),
        "POST /audio-device/wake": (OPERATE,),
        "GET /jobs": (OPERATE,),
        "GET /jobs/{job}": (OPERATE,),
        "DELETE /jobs/{job}": (OPERATE,),
        "GET /jobs/{job}/log": (OPERATE,),
        "GET /jobs/{job}/events": (OPERATE,),
        "POST /jobs/{job}/pause": (OPERATE,),
        "POST /jobs/{job}/resume": (OPERATE,),
        "POST /jobs/{job}/cancel": (OPERATE,),
        "POST /jobs/{job}/retry": (OPERATE,),
    },
    "websocket": {
        "/v1/realtime": (TALK,),
    },
    "wyoming": {
        "describe": ANY_KEY,
        "ping": ANY_KEY,
        "select-program": ANY_KEY,
        "transcribe": (TALK, TRANSCRIBE),
        # Audio is transcribed unless `detect`, which needs more, was sent before.
        "audio-start": (TALK, TRANSCRIBE),
        "audio-chunk": (TALK, TRANSCRIBE),
        "audio-stop": (TALK, TRANSCRIBE),
        "detect": (TALK,),
        "transcript": (TALK,),
        "synthesize": (TALK,),
        "synthesize-start": (TALK,),
        "synthesize-chunk": (TALK,),
        "synthesize-stop": (TALK,),
    },
}
"""Interface -> operation -> the scopes of which a client needs one.

An operation is an HTTP method and path, the path of a WebSocket, or the type of an event. In a path `{name}` stands for
one segment, and `{name:path}` at the end for the rest. HEAD needs what GET needs.
"""


@dataclass(frozen=True)
class Operation:
    """What a client requests of an interface."""

    interface: Interface
    route: str
    """Path as in the policy, type of an event, or `other` when the policy has no such operation."""
    scopes: tuple[str, ...]
    """The scopes of which a client needs one; empty: every client may request it."""
    denial: ChatapiError | None = None
    """Why it is denied to every client; None: the policy has it."""

    @property
    def needs(self) -> str:
        """The scopes in words, for messages and the audit log."""
        return " or ".join(self.scopes) or "any"


@dataclass(frozen=True)
class _Rule:
    """One line of the policy."""

    method: str
    """Empty: not an HTTP route."""
    route: str
    pattern: re.Pattern[str]
    scopes: tuple[str, ...]


def operation(interface: Interface, name: str) -> Operation:
    """The operation with this name: the path of a WebSocket, or the type of an event."""
    for rule in _rules(interface, name):
        return Operation(interface, rule.route, rule.scopes)
    return Operation(interface, "other", (ALL,), NotFound(f"{name} does not exist"))


def http_operation(method: str, path: str) -> Operation:
    """The operation of an HTTP request. `path`: percent-decoded, exactly as it will be routed."""
    rules = list(_rules("http", path))
    if not rules:
        found = operation("websocket", path)
        message = f"{path} is a WebSocket; the request is not its handshake"
        return replace(found, interface="http", denial=found.denial or NotFound(message))
    wanted = "GET" if method == "HEAD" else method
    for rule in rules:
        if rule.method == wanted:
            return Operation("http", rule.route, rule.scopes)
    methods = sorted(rule.method for rule in rules)
    public = any(not rule.scopes for rule in rules)
    scopes = () if public else tuple(dict.fromkeys(scope for rule in rules for scope in rule.scopes))
    message = f"{path} does not support {method}; it supports {', '.join(methods)}"
    return Operation("http", rules[0].route, scopes, MethodNotAllowed(message, methods))


def has_http_route(path: str) -> bool:
    """Whether any method is supported at this path."""
    return next(_rules("http", path), None) is not None


def authorize(holder: KeyHolder, wanted: Operation) -> None:
    """Raises Forbidden (scope_missing) when the client has none of the scopes that the operation needs, and NotFound or
    MethodNotAllowed when the policy does not have the operation."""
    if not holder.may(wanted.scopes):
        raise Forbidden(
            f"{holder} has the scopes {', '.join(holder.scopes)}, and this needs the scope {wanted.needs}; "
            f"{holder.remedy}",
            code="scope_missing",
            details={"scope": wanted.scopes[0], "scopes": list(wanted.scopes)},
        )
    if wanted.denial is not None:
        raise wanted.denial


def allowed(scope: str = "") -> Iterator[tuple[Interface, str]]:
    """Interface and name of each operation that names this scope; without one, of each that any key may request."""
    for interface, table in POLICY.items():
        yield from ((interface, name) for name, scopes in table.items() if (scope in scopes if scope else not scopes))


def is_needed(scope: Scope) -> bool:
    """Whether any operation needs this scope; those of later services are not needed yet."""
    return scope == ALL or any(allowed(scope))


def http_methods() -> list[str]:
    """The methods of all HTTP routes."""
    return sorted({rule.method for rule in _RULES["http"]})


def _rules(interface: Interface, name: str) -> Iterator[_Rule]:
    """The lines for a path or a name, those without a parameter first."""
    yield from _EXACT[interface].get(name, ())
    yield from (rule for rule in _RULES[interface] if "{" in rule.route and rule.pattern.fullmatch(name))


def _rule(interface: Interface, name: str, scopes: tuple[str, ...]) -> _Rule:
    method, route = name.split(" ") if interface == "http" else ("", name)
    parts = re.split(r"(\{\w+(?::path)?\})", route)
    pattern = "".join(
        re.escape(part) if not part.startswith("{") else ".*" if part.endswith(":path}") else "[^/]+" for part in parts
    )
    return _Rule(method, route, re.compile(pattern), scopes)


_RULES = {
    interface: [_rule(interface, name, scopes) for name, scopes in table.items()] for interface, table in POLICY.items()
}
_EXACT = {
    interface: {
        rule.route: [each for each in rules if each.route == rule.route] for rule in rules if "{" not in rule.route
    }
    for interface, rules in _RULES.items()
}
"""Interface -> path without a parameter, or name -> its lines. Most requests are found here."""
