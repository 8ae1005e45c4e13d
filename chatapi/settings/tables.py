"""The settings tables and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import platformdirs
from pydantic import Field, SecretStr, field_validator

from chatapi.errors import SettingsError
from chatapi.settings.engines import (
    CoquiSettings,
    CTranslate2Settings,
    LlamaCppSettings,
    MlcSettings,
    OnnxSettings,
    OpenAIUpstreamSettings,
    PiperSettings,
    WhisperCppSettings,
)
from chatapi.settings.network import LIVE, ServerSettings, Table, WyomingSettings

AnyTable = TypeVar("AnyTable", bound=Table)

SYSTEM = (
    "You are a friendly voice assistant. Your words are spoken aloud, so answer in one to three short, plain "
    "sentences, without lists, headings, symbols or emoji. If you do not know, say so."
)
TEXT_SYSTEM = "You are a helpful assistant. If you do not know something, say so."


class LimitSettings(Table):
    """Limits on size, time and concurrency."""

    body_bytes: int = Field(32 << 20, ge=1024)
    """Largest request body, in bytes."""
    inflight_bytes: int = Field(256 << 20, ge=1 << 20)
    """Largest number of bytes of requests, WebSocket messages and Wyoming events held at once, over all connections, in
    memory or in files; what exceeds it is rejected with 503. One address other than this machine may hold half of
    it."""
    audio_seconds: float = Field(120, gt=0, json_schema_extra=LIVE)
    """Longest audio of a turn, in seconds."""
    file_seconds: float = Field(4 * 3600, gt=0, json_schema_extra=LIVE)
    """Longest recording transcribed over HTTP, in seconds; `chatapi transcribe` has no limit."""
    prompt_chars: int = Field(8000, ge=1)
    """Longest prompt, in characters."""
    concurrent: int = Field(4, ge=1)
    """Number of turns processed at once; half as many recordings longer than the audio of a turn."""
    queue: int = Field(16, ge=0)
    """Number of turns that may wait; one more is rejected with 503."""
    turn_seconds: float = Field(120, gt=0, json_schema_extra=LIVE)
    """Longest duration of a turn, including its time in the queue, in seconds."""
    step_seconds: float = Field(30, gt=0)
    """Time without progress after which an engine is stuck and rebuilt, in seconds; it passes at a quarter of its speed
    while the machine's processors are saturated."""


WorkerKind = Literal["thread", "process"]
"""Where an engine runs."""


class RoleSettings(Table):
    """A role: its engine and its model. A table may also have `idle_seconds` and `worker`."""

    engine: str
    model: str = "auto"
    """A model's name, or auto: the best that is installed."""


class VadSettings(RoleSettings):
    """Voice activity detection."""

    engine: str = "auto"
    """silero_onnx, silero, or auto: silero_onnx when its model is installed; it is many times as fast."""
    model: str = "auto"
    """A model's name, or auto."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Speech probability from which a frame counts as speech (0 to 1)."""
    min_speech_ms: int = Field(96, ge=0)
    """Shortest speech; shorter sounds are ignored; in milliseconds."""
    pad_ms: int = Field(200, ge=0)
    """Audio kept before and after speech, in milliseconds."""


class WakeWordSettings(RoleSettings):
    """The wake word; used where audio_device.mode is wake_word."""

    engine: str = "pymicro_wakeword"
    model: str = "auto"
    """The wake word's name (okay_nabu, hey_jarvis, hey_mycroft, alexa), or auto: the best that is installed."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Probability from which the wake word is detected (0 to 1); a lower value detects it more readily, with more false
    detections; unset: the model's own."""


class TurnDetectionSettings(RoleSettings):
    """End-of-turn detection; used in live conversation."""

    engine: str = "smart_turn"
    model: str = "auto"
    """A model's name, or auto."""
    idle_seconds: float = Field(0, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""
    worker: WorkerKind = "thread"
    """thread: the engine runs on threads of chatapi; process: in a child process, whose crash costs only the calls in
    flight, and which is killed when it is stuck. An engine that asks another server always runs on threads."""


class LiveSettings(Table):
    """Live conversation."""

    sessions: int = Field(2, ge=1, le=64, json_schema_extra=LIVE)
    """Number of live conversations at once; one more is rejected."""
    min_endpointing_delay_ms: int = Field(256, ge=64, json_schema_extra=LIVE)
    """Silence after which a turn ends when the end-of-turn detector finds it finished, in milliseconds."""
    max_endpointing_delay_ms: int = Field(1400, ge=64, json_schema_extra=LIVE)
    """Silence after which any turn ends, in milliseconds."""
    onset_ms: int = Field(96, ge=32, json_schema_extra=LIVE)
    """Speech that starts a turn, in milliseconds."""
    min_interruption_ms: int = Field(160, ge=32, json_schema_extra=LIVE)
    """Speech during playback that pauses the answer, in milliseconds."""
    turn_seconds: float = Field(60, gt=1, json_schema_extra=LIVE)
    """Longest speech without a pause, in seconds; then the turn ends and is answered."""
    partial_ms: int = Field(900, ge=100, json_schema_extra=LIVE)
    """Speech without a pause after which a new partial transcript is made, in milliseconds."""
    idle_seconds: float = Field(600, gt=1)
    """Time after which a session that receives neither audio nor events is closed, in seconds."""


class AsrSettings(RoleSettings):
    """Speech recognition."""

    engine: str = "auto"
    """ctranslate2, whisper_cpp, or auto: the engine of the named model; with no named model, ctranslate2 on a CPU and
    whisper_cpp on a board with a GPU, if they are installed."""
    model: str = "auto"
    """A model's name, or auto: the best that is installed and fits the memory."""
    language: str = "auto"
    """ISO 639-1 code of the default language, or auto: detected."""
    idle_seconds: float = Field(0, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""
    worker: WorkerKind = "thread"
    """thread: the engine runs on threads of chatapi; process: in a child process, whose crash costs only the calls in
    flight, and which is killed when it is stuck. An engine that asks another server always runs on threads."""


class LlmSettings(RoleSettings):
    """The language model."""

    engine: str = "auto"
    """llama_cpp, mlc, openai_upstream, or auto: the engine of the named model; with no named model, mlc when a model
    compiled for this board fits the memory, else llama_cpp."""
    model: str = "auto"
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
    idle_seconds: float = Field(0, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""
    worker: WorkerKind = "thread"
    """thread: the engine runs on threads of chatapi; process: in a child process, whose crash costs only the calls in
    flight, and which is killed when it is stuck. An engine that asks another server always runs on threads."""


class TtsSettings(RoleSettings):
    """Speech synthesis."""

    engine: str = "piper"
    model: str = "auto"
    """The default voice's name, or auto: the best that is installed."""
    idle_seconds: float = Field(0, ge=0)
    """Time without use after which the model is unloaded, in seconds; the next request waits while it loads; 0:
    never."""
    worker: WorkerKind = "thread"
    """thread: the engine runs on threads of chatapi; process: in a child process, whose crash costs only the calls in
    flight, and which is killed when it is stuck. An engine that asks another server always runs on threads."""


class AudioDeviceSettings(Table):
    """The box's own microphone and speaker."""

    enabled: bool = False
    """Whether `chatapi serve` uses them for live conversation."""
    input: str = ""
    """The microphone's name or a part of it; empty: the system's default."""
    output: str = ""
    """The speaker's name or a part of it; empty: the system's default."""
    mode: Literal["hands_free", "wake_word", "push_to_talk"] = "hands_free"
    """What starts a turn: speech, speech after the wake word, or a key (Enter in `chatapi talk`, else
    `POST /audio-device/press`)."""
    awake_seconds: float = Field(8, gt=0)
    """Time after an answer or the wake word in which a turn starts without the wake word, in seconds."""
    chimes: bool = True
    """Whether to play short sounds that tell the state of a turn."""
    cancel_echo: bool = True
    """Whether to remove the played audio from the microphone's signal (AEC)."""


class FakeEngineSettings(Table):
    """Fake engines, which have no model, for trying out and testing."""

    delay: float = Field(0, ge=0)
    """Duration of each step, in seconds."""
    fault: Literal["", "raise", "hang"] = ""
    """What the LLM does after its first token: raise an error, or hang; empty: neither."""


class HistorySettings(Table):
    """The stored conversations."""

    keep_days: float = Field(30, gt=0)
    """Time after its last turn for which a conversation is kept, in days."""
    max_conversations: int = Field(10_000, ge=1)
    """Largest number of stored conversations; beyond it the oldest is deleted."""


class JobSettings(Table):
    """Jobs: work that survives a restart."""

    concurrent: int = Field(1, ge=1, le=16)
    """Number of bulk jobs that a server runs at once; beside them it runs one training."""


class WebhookSettings(Table):
    """Webhooks: state changes of jobs, sent to another server and signed as Standard Webhooks describes."""

    url: SecretStr | None = None
    """URL that gets a POST for each event, https, or http in a private network; unset: none."""
    secret: SecretStr | None = None
    """Key of the signatures: `whsec_` and 24 to 64 random bytes in base64; required with a URL."""
    events: tuple[str, ...] = ("job.done", "job.failed", "job.cancelled")
    """Events that are sent; besides these there are job.queued, job.running and job.paused."""
    private: bool = False
    """Whether the URL may lead to this machine or into a private network."""

    @field_validator("events")
    @classmethod
    def _events(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [f"job.{state}" for state in ("queued", "running", "paused", "cancelled", "failed", "done")]
        wrong = [each for each in value if each not in known]
        if wrong:
            raise ValueError(f"must be of {', '.join(known)}; {wrong[0]!r} is no event")
        return value


class LogSettings(Table):
    """The log on standard error, and the audit log."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", json_schema_extra=LIVE)
    """Lowest level that is logged."""
    format: Literal["auto", "human", "json"] = "auto"
    """human, json, or auto: human on a terminal, json otherwise."""
    content: bool = False
    """Whether prompts, transcripts and answers may be logged."""
    audit: bool = False
    """Write who requested what, but no content, to audit.log in the data directory; at least the last 16 MB are
    kept."""


class TraceSettings(Table):
    """OpenTelemetry traces of turns; they hold times and no content."""

    endpoint: str = Field("", pattern=r"^(https?://[^/\s]\S*)?$")
    """URL of a collector for OTLP over HTTP, such as http://127.0.0.1:4318; empty: no traces."""
    sample: float = Field(1.0, ge=0, le=1)
    """Share of turns that are traced (0 to 1), unless the caller's `traceparent` decides."""


class Settings(Table):
    """All settings."""

    data: Path = Path(platformdirs.user_data_dir("chatapi"))
    """Data directory: models, conversations and everything else that changes."""
    server: ServerSettings = ServerSettings()
    limits: LimitSettings = LimitSettings()
    vad: VadSettings = VadSettings()
    wake_word: WakeWordSettings = WakeWordSettings()
    turn_detection: TurnDetectionSettings = TurnDetectionSettings()
    live: LiveSettings = LiveSettings()
    asr: AsrSettings = AsrSettings()
    llm: LlmSettings = LlmSettings()
    tts: TtsSettings = TtsSettings()
    whisper_cpp: WhisperCppSettings = WhisperCppSettings()
    ctranslate2: CTranslate2Settings = CTranslate2Settings()
    llama_cpp: LlamaCppSettings = LlamaCppSettings()
    mlc: MlcSettings = MlcSettings()
    openai_upstream: OpenAIUpstreamSettings = OpenAIUpstreamSettings()
    onnx: OnnxSettings = OnnxSettings()
    piper: PiperSettings = PiperSettings()
    coqui: CoquiSettings = CoquiSettings()
    audio_device: AudioDeviceSettings = AudioDeviceSettings()
    wyoming: WyomingSettings = WyomingSettings()
    fake: FakeEngineSettings = FakeEngineSettings()
    history: HistorySettings = HistorySettings()
    jobs: JobSettings = JobSettings()
    webhook: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()
    trace: TraceSettings = TraceSettings()

    def table(self, kind: type[AnyTable]) -> AnyTable:
        """The table of a plug-in, by its class. Raises SettingsError when no entry point registers the class."""
        for name, info in type(self).model_fields.items():
            if info.annotation is kind:
                found: AnyTable = getattr(self, name)
                return found
        remedy = "register it as an entry point of the group chatapi.settings"
        raise SettingsError(f"{kind.__name__} is no table of the settings: {remedy}")
