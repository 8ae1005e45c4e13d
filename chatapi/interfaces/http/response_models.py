"""The JSON documents that our own routes respond with."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from chatapi.interfaces.http.described import DescribedModel


class ResponseModel(DescribedModel):
    """A document."""


class UsageModel(ResponseModel):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class CompletionModel(ResponseModel):
    """The JSON response of a completion."""

    id: str
    conversation: str
    """Id with which the next turn continues the conversation."""
    transcript: str | None
    """Transcript of the audio; null for a text prompt."""
    reply: str
    finish_reason: str
    usage: UsageModel
    timings: dict[str, float | None]
    """Time at which each stage was reached, in seconds from the request's acceptance; null: it was not reached."""
    kept: bool = True
    """Present only when false: the turn could not be written to the disk yet."""


class SettingModel(ResponseModel):
    """A setting."""

    value: bool | int | float | str | list[str] | None
    """The value in use; of a secret only `(set)`."""
    origin: str = Field(alias="from")
    """The source that set it: default, the settings file, an environment variable, override, or command line."""
    changes: Literal["live", "restart"]
    """Whether a change is used at once, or after a restart."""
    pending: bool
    """Whether it has another value after a restart."""


class SettingsModel(ResponseModel):
    """All settings."""

    settings: dict[str, SettingModel]
    """Dotted key -> the setting."""


class AppliedChangesModel(ResponseModel):
    """What became of changes; the lists have dotted keys."""

    active: list[str]
    """In use now."""
    restart: list[str]
    """Stored, and in use after a restart."""
    hidden: list[str]
    """Stored, but the command line of the server wins."""


class WarningModel(ResponseModel):
    """A problem that does not prevent answers."""

    code: str
    """history_not_kept or history_set_aside."""
    message: str


class Readiness(ResponseModel):
    """The response of `/ready`."""

    ready: bool
    warnings: list[WarningModel] = Field([])
    """Present only when there are problems."""


class TurnCounts(ResponseModel):
    """Turns at this moment."""

    active: int
    waiting: int


class EngineHealth(ResponseModel):
    """The state of an engine, or of the conversation history."""

    state: str
    """idle, loading, ready, reloading (it was unloaded and loads again) or failed."""
    rebuilt: int
    """How often it was built again after it was stuck."""
    model: str | None
    """The model in use; null before it is loaded."""


class Device(ResponseModel):
    """The state of a microphone or speaker."""

    name: str
    state: str
    """opening, ok or lost."""
    reopened: int
    dropped: int
    """Dropped audio, in samples at 16 kHz."""
    error: str


class AudioDeviceModel(ResponseModel):
    """The state of the box's own microphone and speaker."""

    mode: str
    """hands_free, wake_word or push_to_talk."""
    state: str
    """waiting (for the models), asleep, listening, hearing, thinking, speaking or failing."""
    wake_word: str | None
    """The wake word, once the models are loaded."""
    input: Device
    output: Device
    echo: str
    """State of the echo cancellation: on, off, or why it is off."""


class WyomingHealth(ResponseModel):
    """The state of the Wyoming interface."""

    listening: list[str]
    """Its addresses."""
    connections: int


class HealthModel(ResponseModel):
    """The state of the box, with an entry for each interface that has one."""

    model_config = ConfigDict(extra="allow")

    status: Literal["loading", "ok", "degraded", "failing"]
    uptime_seconds: float
    memory_bytes: int
    turns: TurnCounts
    engines: dict[str, EngineHealth]
    """State by role; `history` is the conversation history."""
    warnings: list[WarningModel] = Field([])
    """Present only when there are problems."""
    audio_device: AudioDeviceModel | None = None
    """Present only with an audio device."""
    wyoming: WyomingHealth | None = None
    """Present only while Wyoming is offered."""


class KnownModel(ResponseModel):
    """A model of the catalog."""

    name: str
    role: str
    engine: str
    title: str
    languages: list[str]
    """ISO 639-1 codes."""
    licence: str
    memory_bytes: int
    """Memory that it needs."""
    installed: bool
    active: bool
    """Whether it is in use."""


class KnownEngine(ResponseModel):
    """An engine that a role can use."""

    name: str
    plug_in: str | None
    """Name and version of the plug-in that provides it; null: chatapi itself does."""


class KnownRole(ResponseModel):
    """A role, with its engines."""

    name: str
    title: str
    essential: bool
    """Whether every turn may need it; other roles are loaded on demand."""
    engine: str
    """The engine in use."""
    engines: list[KnownEngine]


class KnownVoice(ResponseModel):
    """A voice that is installed."""

    name: str
    language: str
    """ISO 639-1 code."""
    rate: int
    """Sample rate, in hertz."""
    default: bool


class RequestLimits(ResponseModel):
    """Limits of a request."""

    audio_seconds: float
    """Longest audio of a turn."""
    prompt_chars: int


class Capabilities(ResponseModel):
    """What the box can do."""

    models: list[KnownModel]
    roles: list[KnownRole]
    voices: list[KnownVoice]
    """Empty while the models are loading, as are the languages."""
    languages: list[str]
    """Languages of speech recognition, as ISO 639-1 codes."""
    limits: RequestLimits


class ProblemDocument(ResponseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """What was wrong, the value, and the limit or the remedy."""
    code: str
    """A stable name for programs."""
    request_id: str
