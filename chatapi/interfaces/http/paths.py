"""Paths as clients write them: other spellings of the routes under `/v1`, and hints for those of other servers."""

from __future__ import annotations

import re

from chatapi import auth

OPENAI = "/v1"
ALIASES = {"/v1/voices": "/v1/audio/voices", "/v1/audio/speech/voices": "/v1/audio/voices"}
"""Path of another server -> the route that is the same."""
SPELLING = 200
"""Longest path of which another spelling is looked for, in characters."""
UNSUPPORTED = (
    (r"/responses/compact", "the box compresses no context: send the items, or previous_response_id"),
    (r"/responses/[^/]*/cancel", "the box runs no responses in the background: one ends when its client disconnects"),
    (r"/chat/completions(/.*)?", "the box stores no chat completions: responses and conversations are stored"),
    (r"/embeddings|/api/embed.*", "the box has no embedding model"),
    (r"/(images|videos)(/.*)?", "the box has no model of images or videos"),
    (r"/moderations", "the box has no moderation model"),
    (r"/(files|uploads|batches|vector_stores|containers)(/.*)?", "the box stores no files and batches"),
    (r"/(fine_tuning|evals|graders)(/.*)?", "the box trains and evaluates no language models"),
    (r"/(assistants|threads|chatkit)(/.*)?", "the box has no assistants: send requests to /v1/responses"),
    (r"/(organization|projects|skills|safety)(/.*)?", "the box keeps no accounts and no skills"),
    (r"/audio/(voices|voice_consents)(/.*)?", "the box clones no voices"),
    (r"/realtime/calls/[^/]*/(accept|reject|refer)", "the box receives no calls over SIP"),
    (r"/realtime/translations(/.*)?", "the box translates no live speech"),
)
"""Pattern of a path of OpenAI's API, without `/v1`, that the box does not have -> why."""
HINTS = (
    (r"/docs|/redoc|/swagger.*|/v1/openapi\.json", "the API is described in /openapi.json"),
    (r"/v1|/api|/api/v1", "OpenAI's API is below /v1: /v1/models, /v1/chat/completions, /v1/responses"),
    (r"/api/(chat|generate)", "the box speaks OpenAI's API: POST /v1/chat/completions"),
    (r"/api/(tags|show|ps|version)", "the box speaks OpenAI's API: GET /v1/models"),
    (r"/v1/messages|/messages", "the box speaks OpenAI's API: POST /v1/chat/completions"),
    (
        r"(/v1)?/realtime/.*",
        "the Realtime API is the WebSocket /v1/realtime; keys: POST /v1/realtime/client_secrets",
    ),
    (r"(/v1)?/(tts|speak|synthesize)|/api/tts", "speech is synthesized by POST /v1/audio/speech"),
    (r"(/v1)?/(asr|stt|transcribe|inference)", "recordings are transcribed by POST /v1/audio/transcriptions"),
    (r"/healthz|/livez|/ping|/status", "the state of the box is at /health and /ready"),
    (r"/readyz", "the state of the box is at /health and /ready"),
)
"""Pattern of a path that clients of other servers request -> what this one has instead."""


def routed(path: str) -> str:
    """The path of the route under `/v1` that is meant by another spelling of it; the path itself when there is none.

    Slashes at the end, doubled slashes, a doubled `/v1` and a missing one make no difference. Only OpenAI's routes have
    other spellings: a proxy that keeps clients from the others compares their paths.
    """
    if len(path) > SPELLING or auth.has_http_route(path):
        return path
    plain = re.sub(r"/{2,}", "/", path).rstrip("/")
    plain = re.sub(r"^(/v1)+(?=/)", "", plain)
    found = ALIASES.get(OPENAI + plain, OPENAI + plain)
    return found if auth.has_http_route(found) else path


def unsupported(path: str) -> str:
    """Why the box does not have what a denied request wants of OpenAI's API; empty: it is none of `UNSUPPORTED`."""
    plain = re.sub(r"/{2,}", "/", path[:SPELLING]).rstrip("/").lower()
    plain = re.sub(r"^(/v1)+(?=/)", "", plain)
    return next((why for pattern, why in UNSUPPORTED if re.fullmatch(pattern, plain)), "")


def hint(path: str) -> str:
    """What to request instead of a path that does not exist, as the end of a sentence; empty: nothing is known."""
    plain = re.sub(r"/{2,}", "/", path[:SPELLING]).rstrip("/").lower()
    if plain != path and auth.has_http_route(plain):
        return f"; is {plain} meant?"
    return next((f"; {text}" for pattern, text in HINTS if re.fullmatch(pattern, plain)), "")
