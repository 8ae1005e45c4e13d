"""OpenAI's model and voice names, and the local models and voices they stand for."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatapi.appliance import Appliance
from chatapi.errors import NotFound, NotReady, Unprocessable, describe_validation_error

STOCK_VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse", "marin", "cedar",
    "default",
)  # fmt: skip
"""OpenAI's voice names, which its clients send by default; each stands for the box's default voice."""
STOCK_MODELS = {
    "llm": ("gpt-", "chatgpt-", "o1", "o3", "o4"),
    "asr": (
        "whisper-1",
        "gpt-transcribe",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-transcribe-diarize",
        "gpt-live-transcribe",
        "gpt-realtime-whisper",
    ),
    "tts": ("tts-1", "gpt-4o-mini-tts"),
}
"""Role -> prefixes of OpenAI's model names; each stands for the box's own model."""
ROLES = ("llm", "asr", "tts")
"""Roles whose models a client can request."""

MOST_KEYWORDS = 200
"""Most keywords that one transcription may prefer."""
Keyword = Annotated[str, Field(max_length=200)]
"""A word or a phrase that becomes likelier in transcripts."""
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""Labels that are returned unchanged, with OpenAI's limits."""


class VoiceId(BaseModel):
    """A voice by its id, as newer OpenAI clients send it."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=200)]


def metadata_fault(value: object) -> str:
    """What is wrong with the metadata; empty when nothing is."""
    try:
        TypeAdapter(Metadata).validate_python(value, strict=True)
    except ValidationError as error:
        fault = describe_validation_error(error.errors(include_url=False, include_input=False)[0])
        return f"metadata holds at most 16 pairs of text, of at most 64 and 512 characters; a part of it {fault}"
    return ""


def models(appliance: Appliance) -> list[tuple[str, str]]:
    """Role and name of every model that a client can request; all installed voices."""
    found = [(role, appliance.active[role]) for role in ("llm", "asr") if role in appliance.active]
    voices = [voice.name for voice in appliance.synthesis.voices()] if appliance.warm else []
    return [*found, *(("tts", name) for name in voices)]


def role(appliance: Appliance, requested: str) -> str:
    """The role of the model that a name stands for; `default` is the language model. Raises NotFound, NotReady."""
    for each, name in models(appliance):
        if name == requested:
            return each
    if requested == "default":
        return "llm"
    # The longest prefix: gpt-4o-transcribe is no language model.
    prefixes = [
        (len(prefix), each)
        for each, all_of in STOCK_MODELS.items()
        for prefix in all_of
        if requested.startswith(prefix)
    ]
    if prefixes:
        return max(prefixes)[1]
    require_models(appliance)
    raise NotFound(f"model {requested!r} is not in use", code="model_not_found", details={"param": "model"})


def is_speech_model(appliance: Appliance, name: str | None) -> bool:
    """Whether a name stands for a TTS model or a voice."""
    voices = [voice.name for voice in appliance.synthesis.voices()] if appliance.warm else []
    return name is not None and (name in voices or name.startswith(STOCK_MODELS["tts"]))


def require_models(appliance: Appliance) -> None:
    """Raises NotReady while the models are loading and their names unknown."""
    if not appliance.warm:
        raise NotReady("the models are still loading", retry_after=1)


def model(appliance: Appliance, role: str, requested: str | None) -> str:
    """The requested name, when it stands for the box's model of that role. Raises NotFound, NotReady."""
    name, known = requested or "default", [name for each, name in models(appliance) if each == role]
    if name == "default" or name in known or name.startswith(STOCK_MODELS[role]):
        return name
    require_models(appliance)
    raise NotFound(
        f"model {name!r} is not available; use {' or '.join(['default', *known])}",
        code="model_not_found",
        details={"param": "model"},
    )


def voice(appliance: Appliance, voice_name: str | VoiceId) -> str | None:
    """The voice of that name, in any case; None for the default. Raises Unprocessable (unknown_voice,
    converter_missing)."""
    requested = voice_name if isinstance(voice_name, str) else voice_name.id
    known = [each.name for each in appliance.synthesis.voices()]
    if requested in known:
        return appliance.synthesis.voice(requested).name
    folded = requested.strip().lower()
    if folded in STOCK_VOICES:
        return None
    for name in known:
        if name.lower() == folded:
            return appliance.synthesis.voice(name).name
    raise Unprocessable(
        f"there is no voice {requested!r}; there are: {', '.join(known)}",
        code="unknown_voice",
        details={"param": "voice"},
    )
