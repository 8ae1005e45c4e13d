"""The supported client events and their data. Other fields of an event are ignored."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from chatapi.errors import Unprocessable, Unsupported, describe_validation_error
from chatapi.interfaces.wyoming.framing import WyomingEvent
from chatapi.text.sentence_splitter import is_text


def _valid_text(text: str) -> str:
    """Rejects NUL and lone surrogates, which JSON permits."""
    if not is_text(text):
        raise ValueError("must be text, and contains NUL or lone surrogates")
    return text


Text = Annotated[str, AfterValidator(_valid_text)]
Name = Annotated[Text, Field(max_length=200)]


class _EventData(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Context(_EventData):
    """The context of a conversation; its other fields are returned unchanged."""

    conversation_id: Name | None = None


class _InContext(_EventData):
    context: dict[str, Any] | None = None


class Language(_EventData):
    language: Name | None = None
    """A code or name: Home Assistant sends en, others en-US, en_US or english."""


class Transcribe(_InContext, Language):
    name: Name | None = None
    """Name of the model."""


class Recognize(_InContext):
    """`recognize`: text for intent recognition."""

    text: Text


class TranscriptRequest(_InContext, Language):
    """`transcript`: text to respond to."""

    text: Text

    @property
    def conversation(self) -> str | None:
        return read(Context, WyomingEvent("transcript", self.context or {})).conversation_id


class Detect(_InContext):
    names: list[Name] | None = Field(None, max_length=100)


class PcmFormat(_EventData):
    """PCM format of audio-start and audio-chunk."""

    rate: int
    """Sample rate, in hertz."""
    width: int
    """Bytes per sample."""
    channels: int
    timestamp: int | float | None = None
    """Timestamp, in milliseconds."""


class VoiceSelection(Language):
    name: Name | None = None
    speaker: Name | None = None


class SynthesizeStart(_InContext):
    voice: VoiceSelection | None = None
    text_format: Name | None = None

    @field_validator("voice", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return value or None


class Chunk(_EventData):
    """`synthesize-chunk`."""

    text: Text


class Synthesize(SynthesizeStart, Chunk):
    pass


class Program(_EventData):
    """`select-program`."""

    name: Name


class Ping(_EventData):
    text: Annotated[Text, Field(max_length=10_000)] | None = None


M = TypeVar("M", bound=BaseModel)


def read(model: type[M], event: WyomingEvent) -> M:
    """Parses the data of an event. Raises Unprocessable that names the value and the remedy."""
    try:
        return model.model_validate(event.data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise Unprocessable(f"{event.type}: {name} {describe_validation_error(dict(fault))}") from None


def check_text_format(wanted: SynthesizeStart) -> None:
    """Raises Unsupported for marked-up text, whose markup would be spoken."""
    if wanted.text_format not in (None, "", "text"):
        raise Unsupported(
            f"text_format is {wanted.text_format!r}; only text is supported", code="unsupported_text_format"
        )


TYPES = frozenset({
    "describe", "ping", "select-program", "transcribe", "detect", "audio-start", "audio-chunk", "audio-stop",
    "synthesize", "synthesize-start", "synthesize-chunk", "synthesize-stop", "transcript",
    "recognize",
})  # fmt: skip
"""Supported client events."""
NOTIFICATIONS = frozenset({
    "error", "voice-started", "voice-stopped", "streaming-started", "streaming-stopped", "satellite-connected",
    "satellite-disconnected", "pause-satellite", "played", "timer-started", "timer-updated", "timer-cancelled",
    "timer-finished", "user-event", "detection", "not-detected", "pong",
})  # fmt: skip
"""Events that report something and expect no response, and none may be taken for that of a request beside them."""
