"""The tables of the settings, with their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr

from chatapi.settings.network import ServerSettings, Table, WyomingSettings

SYSTEM = (
    "You are a friendly voice assistant. Your words are spoken aloud, so answer in one to three short, plain "
    "sentences, without lists, headings, symbols or emoji. If you do not know, say so."
)


class LimitSettings(Table):
    """How much is accepted."""

    body_bytes: int = Field(32 << 20, ge=1024)
    """Largest request body."""
    inflight_bytes: int = Field(256 << 20, ge=1 << 20)
    """Bytes of requests, WebSocket messages and Wyoming events held at once, over all connections, in memory or in
    files; what comes beyond is refused with 503. One address, other than this machine, may hold half of it."""
    audio_seconds: float = Field(120, gt=0)
    """Longest audio of a turn."""
    file_seconds: float = Field(4 * 3600, gt=0)
    """Longest recording that is transcribed over HTTP; `chatapi transcribe` takes any."""
    prompt_chars: int = Field(8000, ge=1)
    """Longest prompt."""
    concurrent: int = Field(4, ge=1)
    """Turns worked on at once; of recordings longer than a turn's audio half as many."""
    queue: int = Field(16, ge=0)
    """Turns that may wait; one more is refused with 503."""
    turn_seconds: float = Field(120, gt=0)
    """Longest a turn may take, its waiting included."""
    step_seconds: float = Field(30, gt=0)
    """An engine without a sign of life for this long, neither an item nor a step of its work, is stuck and rebuilt."""


class VadSettings(Table):
    """Voice activity detection."""

    engine: str = "auto"
    """silero_onnx, silero, or auto: silero_onnx where its model is, which is many times as fast."""
    model: str = "auto"
    """A model's name, or auto."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability from which a frame counts as speech."""
    min_speech_ms: int = Field(96, ge=0)
    """Shorter sounds are not speech."""
    pad_ms: int = Field(200, ge=0)
    """Kept before and after speech."""


class WakeWordSettings(Table):
    """The wake word; used where audio_device.mode is wake_word."""

    engine: str = "pymicro_wakeword"
    model: str = "auto"
    """The wake word's name (okay_nabu, hey_jarvis, hey_mycroft, alexa), or auto: the best that is installed."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Probability from which it was said: less wakes more readily, and by mistake more often; unset: the model's."""


class TurnDetectionSettings(Table):
    """Whether a pause is the end of a turn; used in live conversation."""

    engine: str = "smart_turn"
    model: str = "auto"
    """A model's name, or auto."""
    idle_seconds: float = Field(0, ge=0)
    """Unused for so long, it gives its memory back, and the next who needs it waits while it is loaded; 0: never."""


class LiveSettings(Table):
    """Live conversation."""

    sessions: int = Field(2, ge=1, le=64)
    """Conversations at once; one more is refused."""
    min_endpointing_delay_ms: int = Field(256, ge=64)
    """Silence after which a turn ends that sounds finished."""
    max_endpointing_delay_ms: int = Field(1400, ge=64)
    """Silence after which any turn ends."""
    onset_ms: int = Field(96, ge=32)
    """Speech that begins a turn."""
    min_interruption_ms: int = Field(160, ge=32)
    """Speech that makes an answer pause."""
    turn_seconds: float = Field(60, gt=1)
    """Longest that somebody may speak without a pause; then they are answered."""
    partial_ms: int = Field(900, ge=100)
    """New speech without the shortest pause after which there is a new partial transcript."""
    idle_seconds: float = Field(600, gt=1)
    """A session nobody sends sound or anything else for so long is closed."""


class AsrSettings(Table):
    """Speech recognition."""

    engine: str = "auto"
    """ctranslate2, whisper_cpp, or auto: that of the model that is named; where none is, ctranslate2 on a processor
    and whisper_cpp on a board with a GPU, as far as they are installed."""
    model: str = "auto"
    """A model's name, or auto: the best that is installed and fits the memory."""
    language: str = "auto"
    """ISO 639-1 code spoken by default, or auto: detected."""
    idle_seconds: float = Field(0, ge=0)
    """Unused for so long, it gives its memory back, and the next who needs it waits while it is loaded; 0: never."""


class LlmSettings(Table):
    """The language model."""

    engine: str = "auto"
    """llama_cpp, mlc, openai_upstream, or auto: that of the model that is named; where none is, mlc where one that was
    compiled for this board fits it, else llama_cpp."""
    model: str = "auto"
    """A model's name, or auto: the best that is installed and fits the memory."""
    system: str = Field(SYSTEM, max_length=20_000)
    """What the model is told before every conversation."""
    max_tokens: int = Field(200, ge=1)
    """Longest answer, unless the request says otherwise."""
    temperature: float = Field(0.3, ge=0, le=2)
    no_answer: str = Field("I am sorry, I have no answer to that.", min_length=1)
    """Said when the model ends without a word, so that there is never just silence."""
    idle_seconds: float = Field(0, ge=0)
    """Unused for so long, it gives its memory back, and the next who needs it waits while it is loaded; 0: never."""


class TtsSettings(Table):
    """Speech synthesis."""

    engine: str = "piper"
    model: str = "auto"
    """The default voice's name, or auto: the best that is installed."""
    idle_seconds: float = Field(0, ge=0)
    """Unused for so long, it gives its memory back, and the next who needs it waits while it is loaded; 0: never."""


class WhisperCppSettings(Table):
    """The whisper.cpp engine."""

    threads: int = Field(0, ge=0)
    """0: as many as the machine has cores, up to 8."""
    trim: bool = True
    """Shorten the encoder's window for short clips, as far as no words are lost."""


class CTranslate2Settings(Table):
    """The CTranslate2 engine: Whisper on a processor."""

    slots: int = Field(2, ge=1, le=16)
    """Recordings, or parts of one, heard at once."""
    threads: int = Field(0, ge=0)
    """Shared by the slots, each of which has at least one; 0: as many as the machine has cores, up to 8."""
    trim: bool = True
    """Shorten the encoder's window for short clips, as far as no words are lost."""
    beams: int = Field(5, ge=1, le=20)
    """Texts followed at once; more are slower and find a better one."""
    compute: Literal["int8", "int8_float16", "float16", "float32"] = "int8"
    """How it computes; those with float16 need a GPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda needs CTranslate2 built with it, and CUDA's libraries."""


class LlamaCppSettings(Table):
    """The llama.cpp engine."""

    threads: int = Field(0, ge=0)
    """0: half the machine's cores for writing, all for reading a prompt, up to 8."""
    context: int = Field(1536, ge=256)
    """Tokens an answer's prompt and text may have together, for each slot."""
    slots: int = Field(2, ge=1, le=64)
    """Answers written at once."""
    gpu_layers: int = -1
    """Layers put on a GPU where there is one; -1: all that fit."""
    kv_cache: Literal["q8_0", "f16"] = "q8_0"
    """How what the model remembers of a context is stored: q8_0 takes half of f16's memory."""


class MlcSettings(Table):
    """The MLC engine: a language model compiled for this board's GPU by `chatapi compile`."""

    device: str = Field("cuda", pattern=r"^(cuda|cpu|auto|vulkan|opencl|rocm|metal)(:\d+)?$")
    """Where it computes, as TVM names it: cuda, cuda:0, cpu, or auto: the first GPU there is."""
    context: int = Field(4096, ge=256)
    """Tokens an answer's prompt and text may have together, for each slot; at most what the model was compiled for."""
    slots: int = Field(2, ge=1, le=64)
    """Answers written at once, in one batch; at most what the model was compiled for."""


class OpenAIUpstreamSettings(Table):
    """A chat server that speaks OpenAI's HTTP: `mlc_llm serve`, vLLM, Ollama."""

    url: str = "http://127.0.0.1:11434/v1"
    """Its base address, up to /v1."""
    model: str = ""
    """The model's name there; empty: the first it lists."""
    api_key: SecretStr | None = None
    context: int = Field(4096, ge=256)
    """Tokens its prompt and answer may have together."""
    slots: int = Field(4, ge=1, le=64)
    """Answers asked of it at once."""
    timeout: float = Field(30, gt=0)
    """Seconds to wait for its next words."""


class OnnxSettings(Table):
    """ONNX Runtime, which computes Piper's voices and the ends of turns."""

    provider: Literal["auto", "tensorrt", "cuda", "cpu"] = "auto"
    """What it computes with; where that is not there or does not start, the next of these."""


class PiperSettings(Table):
    """The Piper engine."""

    threads: int = Field(0, ge=0)
    """0: as many as the machine has cores, up to 4."""
    speed: float = Field(1.0, ge=0.25, le=4)
    """1.2 speaks a fifth faster."""


class CoquiSettings(Table):
    """The Coqui TTS engine."""

    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where it computes; auto: on the GPU where torch has one."""
    speed: float = Field(1.0, ge=0.25, le=4)
    """1.2 speaks a fifth faster, with a VITS model."""


class AudioDeviceSettings(Table):
    """The box's own microphone and speaker."""

    enabled: bool = False
    """Whether `chatapi serve` listens and speaks through them."""
    input: str = ""
    """The microphone's name or a part of it; empty: the system's default."""
    output: str = ""
    """The speaker's name or a part of it; empty: the system's default."""
    mode: Literal["hands_free", "wake_word", "push_to_talk"] = "hands_free"
    """What starts a turn: speech, speech after the wake word, or a key (Enter in `chatapi talk`, else
    `POST /audio-device/press`)."""
    awake_seconds: float = Field(8, gt=0)
    """How long it goes on listening after an answer, or after the wake word, before it wants the wake word again."""
    chimes: bool = True
    """Short sounds that say where a turn is."""
    cancel_echo: bool = True
    """Take out of what is heard what is being played."""


class FakeEngineSettings(Table):
    """Engines without a model, for trying and testing."""

    delay: float = Field(0, ge=0)
    """Seconds each step takes."""
    fault: Literal["", "raise", "hang"] = ""
    """What the language model does after its first word."""


class HistorySettings(Table):
    """Conversations kept."""

    keep_days: float = Field(30, gt=0)
    """A conversation nobody went on with for this long is forgotten."""
    max_conversations: int = Field(10_000, ge=1)
    """Beyond that the oldest is forgotten."""


class LogSettings(Table):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"
    """auto: for people on a terminal, JSON otherwise."""
    content: bool = False
    """Whether prompts, transcripts and answers may be logged."""
    audit: bool = False
    """Keep who asked for what, and never what was said, in audit.log of the data directory, for at least 16 MB."""


class TraceSettings(Table):
    """Traces of turns for OpenTelemetry; they hold times, never words."""

    endpoint: str = Field("", pattern=r"^(https?://[^/\s]\S*)?$")
    """Where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318; empty: none are made."""
    sample: float = Field(1.0, ge=0, le=1)
    """Share of the turns that are traced, of those whose caller has not decided in its `traceparent`."""


class Settings(Table):
    """Everything that can be set."""

    data: Path = Path(platformdirs.user_data_dir("chatapi"))
    """Where models, conversations and all else that changes is kept."""
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
    log: LogSettings = LogSettings()
    trace: TraceSettings = TraceSettings()
