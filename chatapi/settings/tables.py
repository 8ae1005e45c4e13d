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
from chatapi.settings.network import (
    LIVE,
    AsrWebserviceSettings,
    GrpcSettings,
    ServerSettings,
    Table,
    TorchServeSettings,
    WyomingSettings,
)
from chatapi.settings.roles import (
    AsrSettings,
    CommandSettings,
    LlmSettings,
    SoundDetectorSettings,
    SpeakerSettings,
    TtsSettings,
    TurnDetectionSettings,
    VadSettings,
    VoiceConverterSettings,
    WakeWordSettings,
    WordEncoderSettings,
)
from chatapi.settings.services import (
    CaptionSettings,
    CommandTeachingSettings,
    MonitoringSettings,
    MqttSettings,
    NotifySettings,
    known_events,
)

AnyTable = TypeVar("AnyTable", bound=Table)


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
    """Longest prompt of `/completion`, and longest text that is synthesized, in characters."""
    system_chars: int = Field(32_000, ge=1)
    """Longest system prompt of a request, in characters."""
    tools_chars: int = Field(64_000, ge=1)
    """Longest description of all tools of a request together, and longest JSON schema of an answer, in characters."""
    message_chars: int = Field(32_000, ge=1)
    """Longest message of a conversation that a client sends, and longest result of a tool, in characters."""
    messages_chars: int = Field(128_000, ge=1)
    """Longest conversation that a client sends, with its tools, in characters. The model's context limits it too."""
    concurrent: int = Field(8, ge=1)
    """Number of turns processed at once; a quarter as many recordings longer than the audio of a turn."""
    queue: int = Field(16, ge=0)
    """Number of turns that may wait; one more is rejected with 503."""
    turn_seconds: float = Field(120, gt=0, json_schema_extra=LIVE)
    """Longest duration of a turn, including its time in the queue, in seconds."""
    step_seconds: float = Field(30, gt=0)
    """Time without progress after which an engine is stuck and rebuilt, in seconds; it passes at a quarter of its speed
    while the machine's processors are saturated."""


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
    keep_days: float = Field(30, gt=0)
    """Time for which a job that has ended is kept with its results, and one that a command left interrupted, in
    days."""
    max_finished: int = Field(200, ge=1)
    """Largest number of jobs that have ended and are kept; beyond it the oldest is deleted with its results."""
    max_unfinished: int = Field(100, ge=1)
    """Largest number of jobs that are queued, running or paused; one more is rejected with 503. Those that a command
    left interrupted do not count."""
    max_per_key: int = Field(50, ge=1)
    """Largest number of these, and of unfinished uploads, that belong to one API key; one more is rejected with 503."""


class TranscriptionSettings(Table):
    """Transcription jobs: recordings of any length, from an upload or a URL."""

    upload_bytes: int = Field(2 << 30, ge=1024)
    """Largest recording that is uploaded or fetched, in bytes; it is written to the data directory as it arrives."""
    upload_seconds: float = Field(3600, gt=0)
    """Longest time in which one request uploads a recording, or in which it is fetched, in seconds."""
    max_seconds: float = Field(24 * 3600, gt=0)
    """Longest recording of a job, in seconds; `chatapi transcribe` without a server has no limit."""
    private_urls: bool = False
    """Whether recordings are also fetched from this machine and from private networks."""
    pages: bool = False
    """Whether a URL may be a web page with a recording, which yt-dlp reads; it needs the extra yt-dlp. `chatapi
    transcribe` without a server always reads pages where it is installed."""
    keep_audio: bool = True
    """Whether a copy of an uploaded or fetched recording is kept for playback as long as its result, 22 MB an hour."""


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
        return known_events(value)


class StorageSettings(Table):
    """Where artifacts are stored."""

    artifacts: str = Field("", max_length=1000)
    """URL of a folder or an object store for artifacts, such as s3://bucket/folder, whose credentials come from the
    environment; empty: none. It needs the extra object_store."""


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
    speaker: SpeakerSettings = SpeakerSettings()
    voice_converter: VoiceConverterSettings = VoiceConverterSettings()
    command: CommandSettings = CommandSettings()
    word_encoder: WordEncoderSettings = WordEncoderSettings()
    commands: CommandTeachingSettings = CommandTeachingSettings()
    sound_detector: SoundDetectorSettings = SoundDetectorSettings()
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
    torchserve: TorchServeSettings = TorchServeSettings()
    asr_webservice: AsrWebserviceSettings = AsrWebserviceSettings()
    grpc: GrpcSettings = GrpcSettings()
    fake: FakeEngineSettings = FakeEngineSettings()
    history: HistorySettings = HistorySettings()
    jobs: JobSettings = JobSettings()
    transcription: TranscriptionSettings = TranscriptionSettings()
    captions: CaptionSettings = CaptionSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    webhook: WebhookSettings = WebhookSettings()
    notify: NotifySettings = NotifySettings()
    mqtt: MqttSettings = MqttSettings()
    storage: StorageSettings = StorageSettings()
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
