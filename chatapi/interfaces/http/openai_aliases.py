"""Names that OpenAI's clients ask for, and whom they mean here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chatapi.appliance import Appliance
from chatapi.errors import NotFound, NotReady, Unprocessable, describe_validation_error

STOCK_VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse", "marin", "cedar",
    "default",
)  # fmt: skip
"""OpenAI's names, which its clients ask for unless told otherwise; each stands for the box's default voice."""
STOCK_MODELS = {
    "llm": ("gpt-", "chatgpt-", "o1", "o3", "o4"),
    "asr": ("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
    "tts": ("tts-1", "gpt-4o-mini-tts"),
}
"""Role -> how OpenAI's names of such models begin; each stands for the box's own."""
ROLES = ("llm", "asr", "tts")
"""Roles whose models can be asked for."""

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
"""Labels that go back as they came, with OpenAI's own bounds."""


class VoiceId(BaseModel):
    """A voice by its id, as newer clients of OpenAI's send it."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=200)]


def metadata_fault(value: object) -> str:
    """What is wrong with it; empty: nothing."""
    try:
        TypeAdapter(Metadata).validate_python(value, strict=True)
    except ValidationError as error:
        told = describe_validation_error(error.errors(include_url=False, include_input=False)[0])
        return f"metadata holds at most 16 pairs of text, of at most 64 and 512 characters; a part of it {told}"
    return ""


def models(appliance: Appliance) -> list[tuple[str, str]]:
    """Role and name of every model in use that can be asked for; of voices all that are there."""
    found = [(role, appliance.active[role]) for role in ("llm", "asr") if role in appliance.active]
    voices = [voice.name for voice in appliance.synthesis.voices()] if appliance.warm else []
    return [*found, *(("tts", name) for name in voices)]


def require_models(appliance: Appliance) -> None:
    """Raises NotReady as long as nobody can say which there are."""
    if not appliance.warm:
        raise NotReady("the models are still loading", retry_after=1)


def model(appliance: Appliance, role: str, wanted: str | None) -> str:
    """The name as it was asked for, when the box's model of that role answers to it. Raises NotFound, NotReady."""
    name, known = wanted or "default", [name for each, name in models(appliance) if each == role]
    if name == "default" or name in known or name.startswith(STOCK_MODELS[role]):
        return name
    require_models(appliance)
    raise NotFound(
        f"there is no model {name!r} here; ask for {' or '.join(['default', *known])}",
        code="model_not_found",
        details={"param": "model"},
    )


def voice(appliance: Appliance, asked: str | VoiceId) -> str | None:
    """The voice of that name; None: the default. Raises Unprocessable (unknown_voice)."""
    wanted = asked if isinstance(asked, str) else asked.id
    known = [each.name for each in appliance.synthesis.voices()]
    if wanted in known:
        return wanted
    if wanted in STOCK_VOICES:
        return None
    raise Unprocessable(
        f"there is no voice {wanted!r}; there are: {', '.join(known)}",
        code="unknown_voice",
        details={"param": "voice"},
    )
