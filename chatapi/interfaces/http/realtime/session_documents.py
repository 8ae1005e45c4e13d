"""Sessions as JSON objects of OpenAI's Realtime API."""

from __future__ import annotations

from typing import Any

from chatapi.appliance import Appliance
from chatapi.interfaces.http.realtime.session_config import SessionConfig

TRANSCRIPTION = ("type", "include", "audio")
"""Fields of a session that only transcribes."""


def document(config: SessionConfig, appliance: Appliance) -> dict[str, Any]:
    """The JSON object of a session with this configuration. Fields without a value are left out, because clients expect
    a text or an object; turn detection and transcription are null when they are off, as OpenAI's are."""
    fields = config.model_dump(exclude_none=True, exclude={"audio": True, "chatapi": {"known_speaker_references"}})
    fields["audio"] = {"input": _input(config, appliance)}
    if config.transcribes_only:
        kept = {name: fields[name] for name in TRANSCRIPTION if name in fields}
        return {"object": "realtime.transcription_session", **kept}
    output = config.audio.output
    fields["audio"]["output"] = {**output.model_dump(exclude={"format"}), "format": output.format.document()}
    fields.setdefault("instructions", appliance.settings.llm.system_prompt)
    return {"object": "realtime.session", **fields}


def _input(config: SessionConfig, appliance: Appliance) -> dict[str, Any]:
    given, transcription = config.audio.input, None
    if given.transcription is not None:
        model = given.transcription.model or appliance.active.get("asr", "default")
        transcription = {**given.transcription.model_dump(exclude_none=True), "model": model}
    detection = given.turn_detection.model_dump(exclude_none=True) if given.turn_detection is not None else None
    fields = {"format": given.format.document(), "transcription": transcription, "turn_detection": detection}
    return fields if given.noise_reduction is None else {**fields, "noise_reduction": given.noise_reduction}
