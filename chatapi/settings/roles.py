"""The settings tables of the roles."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from chatapi.settings.network import LIVE, Table

SYSTEM = (
    "You are a friendly voice assistant. Your words are spoken aloud, so answer in one to three short, plain "
    "sentences, without lists, headings, symbols or emoji. If you do not know, say so."
)
TEXT_SYSTEM = "You are a helpful assistant. If you do not know something, say so."


WorkerKind = Literal["thread", "process"]
"""Where an engine runs."""


class RoleSettings(Table):
    """A role: its engine and its model."""

    engine: str
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto: the best that is installed."""


class WorkerRoleSettings(RoleSettings):
    """A role whose engine can be unloaded, and can run in a child process."""

    idle_seconds: float = Field(0, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""
    worker: WorkerKind = Field("thread", json_schema_extra=LIVE)
    """thread: the engine runs on threads of chatapi; process: in a child process, whose crash costs only the calls in
    flight, and which is killed when it is stuck. An engine that asks another server always runs on threads."""


class OnDemandRoleSettings(WorkerRoleSettings):
    """A role that most requests do without."""

    idle_seconds: float = Field(300, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""


class VadSettings(RoleSettings):
    """Voice activity detection."""

    engine: str = Field("auto", json_schema_extra=LIVE)
    """silero_onnx, silero, or auto: silero_onnx when its model is installed; it is many times as fast."""
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Speech probability from which a frame counts as speech (0 to 1)."""
    min_speech_ms: int = Field(96, ge=0)
    """Shortest speech; shorter sounds are ignored; in milliseconds."""
    pad_ms: int = Field(200, ge=0)
    """Audio kept before and after speech, in milliseconds."""


class WakeWordSettings(RoleSettings):
    """The wake word; used where audio_device.mode is wake_word."""

    engine: str = Field("pymicro_wakeword", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """The wake word's name (okay_nabu, hey_jarvis, hey_mycroft, alexa), or auto: the best that is installed."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Probability from which the wake word is detected (0 to 1); a lower value detects it more readily, with more false
    detections; unset: the model's own."""


class TurnDetectionSettings(WorkerRoleSettings):
    """End-of-turn detection; used in live conversation."""

    engine: str = Field("smart_turn", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto."""


class SpeakerSettings(OnDemandRoleSettings):
    """Speaker labels of transcripts."""

    engine: str = Field("resemblyzer", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto."""
    threshold: float | None = Field(None, gt=-1, lt=1)
    """Similarity from which two voices are taken for one speaker's (-1 to 1); a higher value finds more speakers;
    unset: the engine's own."""
    most: int = Field(20, ge=1, le=100)
    """Most speakers of a recording."""


class VoiceConverterSettings(OnDemandRoleSettings):
    """Voice conversion."""

    engine: str = Field("knn_vc", json_schema_extra=LIVE)
    threads: int = Field(0, ge=0, le=64)
    """Number of threads; 0: half of the cores, at least one."""
    max_seconds: float = Field(600, gt=0, le=3600)
    """Longest recording that is converted while the client waits, in seconds; a longer one becomes a job."""
    max_job_seconds: float = Field(14_400, gt=0)
    """Longest recording of a job, in seconds."""
    queue: int = Field(100, ge=0, le=10_000)
    """Largest number of conversions and new voices that wait for the one that runs; one more is rejected with 503.
    TorchServe has as many places for each model."""
    max_live: int = Field(1, ge=0, le=16)
    """Largest number of live conversions at once; 0: none."""
    max_voices: int = Field(100, ge=0, le=10_000)
    """Largest number of stored voices; one takes up to 40 MB."""


class CommandSettings(OnDemandRoleSettings):
    """Command recognition: which of a few words a short clip is."""

    engine: str = Field("tc_resnet", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto."""
    threshold: float = Field(0.6, ge=0, lt=1)
    """Probability from which a word counts as recognized (0 to 1); below it the label is unknown."""


class WordEncoderSettings(OnDemandRoleSettings):
    """The encoder of clips that distinguishes taught commands; without its model the command
    classifier's own network encodes them."""

    engine: str = Field("whisper_words", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto: the best that is installed."""


class SoundDetectorSettings(OnDemandRoleSettings):
    """Sound detection in monitored streams."""

    engine: str = Field("orcahello", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto: the best that is installed."""


class AsrSettings(WorkerRoleSettings):
    """Speech recognition."""

    engine: str = Field("auto", json_schema_extra=LIVE)
    """ctranslate2, whisper_cpp, or auto: the engine of the named model; with no named model, ctranslate2 on a CPU and
    whisper_cpp on a board with a GPU, if they are installed."""
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto: the best that is installed and fits the memory."""
    language: str = "auto"
    """ISO 639-1 code of the default language, or auto: detected."""


class LlmSettings(WorkerRoleSettings):
    """The language model."""

    engine: str = Field("auto", json_schema_extra=LIVE)
    """llama_cpp, mlc, openai_upstream, or auto: the engine of the named model; with no named model, mlc when a model
    compiled for this board fits the memory, else llama_cpp."""
    model: str = Field("auto", json_schema_extra=LIVE)
    """A model's name, or auto: the best that is installed and fits the memory."""
    system_prompt: str = Field(SYSTEM, max_length=20_000, json_schema_extra=LIVE)
    """System prompt of every conversation, and of spoken answers under /v1 where the request has none."""
    text_system_prompt: str = Field(TEXT_SYSTEM, max_length=20_000, json_schema_extra=LIVE)
    """System prompt of written answers under /v1 where the request has none; empty: none."""
    max_tokens: int = Field(200, ge=1, json_schema_extra=LIVE)
    """Longest answer of a conversation, in tokens, unless the request sets another limit; under /v1 the context and the
    turn's time limit an answer."""
    temperature: float = Field(0.3, ge=0, le=2, json_schema_extra=LIVE)
    """Sampling temperature (0 to 2); 0: always the most likely token."""
    no_answer: str = Field("I am sorry, I have no answer to that.", min_length=1, json_schema_extra=LIVE)
    """Answer when the model generates no text, so that there is never only silence."""


class TtsSettings(WorkerRoleSettings):
    """Speech synthesis."""

    engine: str = Field("piper", json_schema_extra=LIVE)
    model: str = Field("auto", json_schema_extra=LIVE)
    """The default voice's name, or auto: the best that is installed."""
