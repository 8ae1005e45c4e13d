"""The kind of session that a client requests: by the query parameters, and by its client secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder, policy
from chatapi.errors import Forbidden, NotReady, Unprocessable
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.realtime.session_config import SessionConfig

READY_SECONDS = 10
"""Longest time a client waits for the models to load, in seconds."""


async def until_warm(appliance: Appliance) -> None:
    """Waits for the models. Raises NotReady when they take too long."""
    with anyio.move_on_after(READY_SECONDS):
        await appliance.until_warm()
    if not appliance.warm:
        raise NotReady("the models are still loading", retry_after=5)


def authorize_session(holder: KeyHolder, config: SessionConfig) -> None:
    """Raises Forbidden (scope_missing) for a session of a type that the client may not open."""
    try:
        policy.authorize(holder, policy.operation("realtime", config.type))
    except Forbidden as error:
        hint = "a session that only transcribes is opened with intent=transcription"
        raise Forbidden(f"{error.message}; {hint}", code=error.code, details=error.details) from None


def requested_session(
    appliance: Appliance,
    query: Mapping[str, str],
    session: Mapping[str, Any] | None = None,
    ignored: IgnoredParameters | None = None,
) -> SessionConfig:
    """The configuration at the start of a session; adds the names of what has no effect to `ignored`.

    With the name of a TTS model it reads texts aloud. It only transcribes with `intent=transcription`, with the name of
    a speech recognition model, or with `session.type`; then it continues no stored conversation. Raises NotFound
    (model_not_found), Unprocessable.
    """
    given = dict(session or {})
    if given.get("type") not in (None, "realtime", "transcription"):
        raise Unprocessable("session.type: it must be realtime or transcription", details={"param": "session.type"})
    wanted = query.get("model") or given.get("model")
    name = wanted if isinstance(wanted, str) and wanted else "default"
    role = openai_aliases.role(appliance, name)
    transcribes = query.get("intent") == "transcription" or role == "asr" or given.get("type") == "transcription"
    if transcribes and query.get("conversation"):
        message = "conversation: a session that only transcribes continues no conversation"
        raise Unprocessable(message, details={"param": "conversation"})
    config = SessionConfig(
        type="transcription" if transcribes else "realtime",
        # The name of a transcription model may be missing, and that of a language model is no fault.
        model=name if role in ("asr", "tts") else openai_aliases.model(appliance, "llm", name),
    )
    if role == "asr":
        given = {"audio": {"input": {"transcription": {"model": name}}}, **given}
    given = {key: value for key, value in given.items() if key not in ("model", "type")}
    return config.updated(given, ignored or IgnoredParameters()) if given else config
