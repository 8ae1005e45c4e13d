"""Converts fields of OpenAI's beta and of other APIs to those of the current Realtime API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMATS = {
    "pcm16": "audio/pcm", "pcm": "audio/pcm", "g711_ulaw": "audio/pcmu", "pcmu": "audio/pcmu",
    "g711_alaw": "audio/pcma", "pcma": "audio/pcma",
}  # fmt: skip
"""Name of a format in the beta, or in short -> its name now."""
PLACES = {
    "modalities": ("output_modalities",),
    "max_response_output_tokens": ("max_output_tokens",),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "output_audio_format": ("audio", "output", "format"),
    "input_audio_format": ("audio", "input", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "turn_detection": ("audio", "input", "turn_detection"),
}
"""Field of a session in the beta -> its place now."""


def renamed(session: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a session or a response at their current places; a field that stands there already counts."""
    fields = {name: value for name, value in session.items() if name not in PLACES}
    for name, (*folders, last) in PLACES.items():
        if name not in session:
            continue
        at = fields
        for folder in folders:
            inner = at.get(folder)
            at[folder] = at = dict(inner) if isinstance(inner, dict) else {}
        at.setdefault(last, session[name])
    return fields


def audio_format(value: Any) -> Any:
    """A format as an object, which the beta sends as a name."""
    if isinstance(value, str):
        return {"type": FORMATS.get(value, value)}
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str):
        return {**value, "type": FORMATS.get(kind, kind)}
    return value


def output_modalities(value: Any) -> Any:
    """The one modality that is meant: audio comes with its transcript, so both are audio."""
    return ["audio"] if value in (["audio", "text"], ["text", "audio"]) else value


def turn_detection(value: Any) -> Any:
    """Turn detection as an object with a type, or None for every way of switching it off."""
    if value is False or value == "none":
        return None
    if value == {} or value is True:
        return {"type": "server_vad"}
    if isinstance(value, dict):
        kind = value.get("type")
        return None if kind == "none" else {**value, "type": "server_vad" if kind is None else kind}
    return value


def function(value: Any) -> Any:
    """A function as the Realtime API has it; chat completions have its fields in one named `function`."""
    if isinstance(value, dict) and isinstance(inner := value.get("function"), dict):
        value = {**{name: each for name, each in value.items() if name != "function"}, **inner}
    if isinstance(value, dict) and "name" in value:
        return {"type": "function", **{name: each for name, each in value.items() if each is not None}}
    return value
