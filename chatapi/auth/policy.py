"""The policy: which scope each operation of each interface needs. What is not in it is denied to every client.

An interface names the operation that a client requests and asks `authorize`; it decides nothing itself. A new route,
event or method works once it has a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from chatapi.auth.scopes import ALL, MODERATE, OPERATE, REALTIME, TALK, TRAIN, TRANSCRIBE, VOICES, KeyHolder, Scope
from chatapi.errors import ChatapiError, MethodNotAllowed, NotFound

Interface = Literal[
    "http",
    "websocket",
    "realtime",
    "wyoming",
    "torchserve_inference",
    "torchserve_management",
    "torchserve_metrics",
    "torchserve_model",
    "asr_webservice",
    "grpc",
]
WITHOUT_METHODS = ("websocket", "realtime", "wyoming", "torchserve_model", "grpc")
"""Interfaces whose operations are a path, a role or a type without an HTTP method."""

ANY_KEY: tuple[Scope, ...] = ()
"""Any valid key is enough."""
PREDICT: tuple[Scope, ...] = (TALK, TRANSCRIBE, VOICES)
"""A prediction; the role of the model needs more."""
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
        # A key lists the conversations that it began; the id of another one is its key.
        "GET /conversations": (TALK,),
        "GET /conversations/{conversation}": (TALK,),
        "PATCH /conversations/{conversation}": (TALK,),
        "DELETE /conversations/{conversation}": (TALK,),
        "GET /commands": (TALK, TRAIN),
        "POST /commands/classify": (TALK, TRAIN),
        # Without the scope operate a key sees its own samples; who may teach decides neither about doubtful samples nor
        # about versions.
        "GET /commands/samples": (OPERATE, TRAIN),
        "POST /commands/samples": (TRAIN,),
        "GET /commands/samples/export": (OPERATE, TRAIN),
        "GET /commands/samples/{sample}/audio": (OPERATE, TRAIN),
        "PATCH /commands/samples/{sample}": (OPERATE,),
        "DELETE /commands/samples/{sample}": (OPERATE, TRAIN),
        "POST /commands/train": (TRAIN,),
        "GET /commands/versions": (OPERATE, TRAIN),
        "POST /commands/versions/{version}/activate": (OPERATE,),
        "POST /commands/rollback": (OPERATE,),
        # Without the scope operate a key sees its own voices.
        "GET /voices": (OPERATE, VOICES),
        "POST /voices": (VOICES,),
        "POST /voices/quality": (VOICES,),
        "GET /voices/{voice}": (OPERATE, VOICES),
        "DELETE /voices/{voice}": (OPERATE, VOICES),
        "GET /voices/{voice}/export": (OPERATE, VOICES),
        "POST /conversions": (VOICES,),
        "GET /conversions/{job}": (VOICES,),
        "POST /v1/chat/completions": (TALK,),
        "POST /v1/completions": (TALK,),
        "POST /v1/responses": (TALK,),
        "GET /v1/responses/{response}": (TALK,),
        "GET /v1/responses/{response}/input_items": (TALK,),
        "DELETE /v1/responses/{response}": (TALK,),
        "POST /v1/responses/input_tokens": (TALK,),
        "POST /v1/conversations": (TALK,),
        "GET /v1/conversations/{conversation}": (TALK,),
        "POST /v1/conversations/{conversation}": (TALK,),
        "DELETE /v1/conversations/{conversation}": (TALK,),
        "GET /v1/conversations/{conversation}/items": (TALK,),
        "POST /v1/conversations/{conversation}/items": (TALK,),
        "GET /v1/conversations/{conversation}/items/{item}": (TALK,),
        "DELETE /v1/conversations/{conversation}/items/{item}": (TALK,),
        "POST /v1/realtime/calls": (TALK, REALTIME),
        "POST /v1/realtime/calls/{call}/hangup": (TALK, REALTIME),
        "DELETE /v1/realtime/calls/{call}": (TALK, REALTIME),
        "POST /v1/realtime/client_secrets": (TALK,),
        "POST /v1/realtime/sessions": (TALK,),
        "POST /v1/realtime/transcription_sessions": (TALK,),
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
        "POST /transcriptions": (TALK, TRANSCRIBE),
        "OPTIONS /uploads": (TALK, TRANSCRIBE),
        "POST /uploads": (TALK, TRANSCRIBE),
        "GET /uploads/{upload}": (TALK, TRANSCRIBE),
        "PATCH /uploads/{upload}": (TALK, TRANSCRIBE),
        "DELETE /uploads/{upload}": (TALK, TRANSCRIBE),
        # Without the scope operate a key sees its own jobs.
        "GET /jobs": (OPERATE, TALK, TRAIN, TRANSCRIBE, VOICES),
        "GET /jobs/{job}": (OPERATE, TALK, TRAIN, TRANSCRIBE, VOICES),
        "DELETE /jobs/{job}": (OPERATE, TALK, TRANSCRIBE, VOICES),
        "GET /jobs/{job}/result": (OPERATE, TALK, TRANSCRIBE),
        "GET /jobs/{job}/audio": (OPERATE, TALK, TRANSCRIBE),
        "POST /jobs/{job}/audio-link": (OPERATE, TALK, TRANSCRIBE),
        "PATCH /jobs/{job}/speakers": (OPERATE, TALK, TRANSCRIBE),
        "GET /jobs/{job}/log": (OPERATE,),
        "GET /jobs/{job}/events": (OPERATE, TALK, TRAIN, TRANSCRIBE, VOICES),
        "POST /jobs/{job}/pause": (OPERATE, TALK, TRANSCRIBE, VOICES),
        "POST /jobs/{job}/resume": (OPERATE, TALK, TRANSCRIBE, VOICES),
        "POST /jobs/{job}/cancel": (OPERATE, TALK, TRAIN, TRANSCRIBE, VOICES),
        "POST /jobs/{job}/retry": (OPERATE, TALK, TRANSCRIBE, VOICES),
        # The box's microphone needs operate; without it a key sees its own captions.
        "GET /captions": (OPERATE, TALK, TRANSCRIBE),
        "POST /captions": (OPERATE, TALK, TRANSCRIBE),
        "GET /captions/{captions}": (OPERATE, TALK, TRANSCRIBE),
        "DELETE /captions/{captions}": (OPERATE, TALK, TRANSCRIBE),
        "GET /captions/{captions}/events": (OPERATE, TALK, TRANSCRIBE),
        # Places and detections belong to the box, not to a key; operate sees them and decides nothing about them.
        "GET /monitors": (MODERATE, OPERATE),
        "POST /monitors": (MODERATE,),
        "GET /monitors/{monitor}": (MODERATE, OPERATE),
        "GET /monitors/{monitor}/events": (MODERATE, OPERATE),
        "DELETE /monitors/{monitor}": (MODERATE,),
        "POST /monitors/{monitor}/pause": (MODERATE,),
        "POST /monitors/{monitor}/resume": (MODERATE,),
        "GET /monitors/{monitor}/coverage": (MODERATE, OPERATE),
        "GET /detections": (MODERATE, OPERATE),
        "GET /detections/export": (MODERATE,),
        "GET /detections/{detection}": (MODERATE, OPERATE),
        "PATCH /detections/{detection}": (MODERATE,),
        "GET /detections/{detection}/audio": (MODERATE, OPERATE),
        "GET /detections/{detection}/spectrogram": (MODERATE, OPERATE),
        "GET /detections/{detection}/record": (MODERATE, OPERATE),
        "GET /mutes": (MODERATE, OPERATE),
        "POST /mutes": (MODERATE,),
        "DELETE /mutes/{mute}": (MODERATE,),
    },
    "websocket": {
        # The type of its session needs more.
        "/v1/realtime": (TALK, REALTIME, TRANSCRIBE),
        "/v1/responses": (TALK,),
        "/conversions/live": (VOICES,),
    },
    "realtime": {
        "realtime": (TALK, REALTIME),
        "transcription": (TALK, REALTIME, TRANSCRIBE),
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
        "recognize": (TALK,),
        "synthesize": (TALK,),
        "synthesize-start": (TALK,),
        "synthesize-chunk": (TALK,),
        "synthesize-stop": (TALK,),
    },
    "torchserve_inference": {
        "OPTIONS /": ANY_KEY,
        "GET /api-description": ANY_KEY,
        "GET /ping": ANY_KEY,
        "OPTIONS /predictions/{model}": ANY_KEY,
        "POST /predictions/{model}": PREDICT,
        "PUT /predictions/{model}": PREDICT,
        "POST /predictions/{model}/{version}": PREDICT,
        "PUT /predictions/{model}/{version}": PREDICT,
        "POST /explanations/{model}": PREDICT,
        "POST /{model}/predict": PREDICT,
        "POST /{model}/{version}/predict": PREDICT,
        "POST /invocations": PREDICT,
        "POST /models/{model}/invoke": PREDICT,
        "GET /v1/models/{model}": ANY_KEY,
        "POST /v1/models/{call}": PREDICT,
        "GET /v2": ANY_KEY,
        "GET /v2/health/live": ANY_KEY,
        "GET /v2/health/ready": ANY_KEY,
        "GET /v2/models/{model}": ANY_KEY,
        "GET /v2/models/{model}/ready": ANY_KEY,
        "POST /v2/models/{model}/infer": PREDICT,
    },
    "torchserve_management": {
        "OPTIONS /": ANY_KEY,
        "GET /api-description": ANY_KEY,
        "GET /token": (OPERATE,),
        "GET /models": (OPERATE,),
        "POST /models": (OPERATE,),
        "GET /models/{model}": (OPERATE,),
        "PUT /models/{model}": (OPERATE,),
        "DELETE /models/{model}": (OPERATE,),
        "GET /models/{model}/{version}": (OPERATE,),
        "PUT /models/{model}/{version}": (OPERATE,),
        "DELETE /models/{model}/{version}": (OPERATE,),
        "PUT /models/{model}/{version}/set-default": (OPERATE,),
        "GET /v1/models/{model}": (OPERATE,),
    },
    "torchserve_metrics": {
        "OPTIONS /": ANY_KEY,
        "GET /metrics": (OPERATE,),
    },
    "torchserve_model": {
        # What a prediction does, by the role of its model.
        "asr": (TALK, TRANSCRIBE),
        "voice_converter": (VOICES,),
    },
    "asr_webservice": {
        "GET /": ANY_KEY,
        "GET /status": ANY_KEY,
        "GET /openapi.json": ANY_KEY,
        "POST /asr": (TALK, TRANSCRIBE),
        "POST /detect-language": (TALK, TRANSCRIBE),
    },
    "grpc": {
        "Classify": (TALK, TRAIN),
        "ClassifyStream": (TALK, TRAIN),
        "SubmitSample": (TRAIN,),
        "Train": (TRAIN,),
        # Without the scope operate a key sees its own trainings and samples.
        "WatchTraining": (OPERATE, TRAIN),
        "CancelTraining": (OPERATE, TRAIN),
        "ListModels": (OPERATE, TALK, TRAIN),
        "ActivateModel": (OPERATE,),
        "RollBack": (OPERATE,),
        "ListSamples": (OPERATE, TRAIN),
        "ExportSamples": (OPERATE, TRAIN),
        "DeleteSample": (OPERATE, TRAIN),
        # Health checks, and reflection.
        "Check": ANY_KEY,
        "Watch": ANY_KEY,
        "List": ANY_KEY,
        "ServerReflectionInfo": ANY_KEY,
    },
}
"""Interface -> operation -> the scopes of which a client needs one.

An operation is an HTTP method and path, the path of a WebSocket, the type of a Realtime session, the role of a model,
or the type of an event. In a path `{name}` stands for one segment, and `{name:path}` at the end for the rest. HEAD
needs what GET needs.
"""


@dataclass(frozen=True)
class Operation:
    """What a client requests of an interface."""

    interface: Interface
    route: str
    """Path as in the policy, role, type of a session or an event, or `other` when the policy has no such operation."""
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
    """The operation with this name: the path of a WebSocket, a role, or the type of a session or an event."""
    for rule in _rules(interface, name):
        return Operation(interface, rule.route, rule.scopes)
    return Operation(interface, "other", (ALL,), NotFound(f"{name} does not exist"))


def http_operation(method: str, path: str, interface: Interface = "http") -> Operation:
    """The operation of an HTTP request. `path`: percent-decoded, exactly as it will be routed."""
    rules = list(_rules(interface, path))
    if not rules and interface != "http":
        # The routes of another server's API are no secret, and its clients expect 404.
        return Operation(interface, "other", ANY_KEY, NotFound(f"{path} does not exist"))
    if not rules:
        found = operation("websocket", path)
        message = f"{path} is a WebSocket; the request is not its handshake"
        return replace(found, interface="http", denial=found.denial or NotFound(message))
    wanted = "GET" if method == "HEAD" else method
    for rule in rules:
        if rule.method == wanted:
            return Operation(interface, rule.route, rule.scopes)
    methods = sorted(rule.method for rule in rules)
    public = any(not rule.scopes for rule in rules)
    scopes = () if public else tuple(dict.fromkeys(scope for rule in rules for scope in rule.scopes))
    message = f"{path} does not support {method}; it supports {', '.join(methods)}"
    return Operation(interface, rules[0].route, scopes, MethodNotAllowed(message, methods))


def has_http_route(path: str) -> bool:
    """Whether any method is supported at this path."""
    return next(_rules("http", path), None) is not None


def authorize(holder: KeyHolder, wanted: Operation) -> None:
    """Raises Forbidden (scope_missing) when the client has none of the scopes that the operation needs, and NotFound or
    MethodNotAllowed when the policy does not have the operation."""
    holder.require(wanted.scopes, "this")
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
    method, route = ("", name) if interface in WITHOUT_METHODS else name.split(" ")
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
