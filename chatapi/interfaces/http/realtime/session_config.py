"""The configuration of a session and of one response, as clients send it, and our addition `Extension`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from chatapi.errors import Unprocessable
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai import known_speakers
from chatapi.interfaces.http.openai_aliases import MOST_KEYWORDS, Keyword, Metadata, VoiceId
from chatapi.interfaces.http.realtime import field_aliases
from chatapi.interfaces.http.realtime.audio_format import RATES
from chatapi.interfaces.http.realtime.client_items import ResponseInput
from chatapi.interfaces.http.realtime.event_part import LONGEST_MS, NAME, EventPart, Id, Instructions, Text, parsed

Voice = Annotated[str, Field(max_length=200)] | VoiceId
TokenLimit = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]
Modality = Literal["audio", "text"]


class RealtimeFormat(EventPart):
    """An audio encoding."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=0, le=192_000)
    """Sample rate, in hertz; fixed for every format."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return field_aliases.audio_format(value)

    @model_validator(mode="after")
    def _check_rate(self) -> RealtimeFormat:
        if self.rate not in (None, RATES[self.type]):
            raise ValueError(f"the rate of {self.type} is {RATES[self.type]} Hz")
        return self

    def document(self) -> dict[str, Any]:
        """The JSON object that is sent."""
        return {"type": self.type, "rate": RATES[self.type]} if self.type == "audio/pcm" else {"type": self.type}


class ServerVad(EventPart):
    """Turn detection by a silence of fixed length."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=LONGEST_MS)
    """Ignored, in milliseconds: a third of a second before the onset of speech is always included."""
    silence_duration_ms: int = Field(500, ge=32, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)
    """Silence after a response has been played that starts another response, in milliseconds; OpenAI's limits."""


class SemanticVad(EventPart):
    """Turn detection by an end-of-turn model."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


INEFFECTIVE = (
    "reasoning", "tracing", "truncation", "audio.input.noise_reduction", "audio.input.transcription.delay",
    "audio.input.turn_detection.prefix_padding_ms",
)  # fmt: skip
"""Fields of a session that are accepted and kept, and have no effect; their names are returned as ignored."""


LOGPROBS = "item.input_audio_transcription.logprobs"
"""Value of `include` that asks for the log-probabilities of the tokens of transcripts."""


class InputTranscription(EventPart):
    """How the user's speech is transcribed, and that the client receives transcripts; the model is the box's own."""

    model: Id | None = None
    language: Id | None = None
    languages: Annotated[list[Id], Field(max_length=100)] | None = None
    """Languages that are spoken: one of them is used as `language`, several are detected."""
    prompt: Text | None = None
    """Text before the speech: its names and style become likelier in transcripts."""
    keywords: Annotated[list[Keyword], Field(max_length=MOST_KEYWORDS)] | None = None
    """Words that become likelier in transcripts, such as names; they follow the prompt."""
    delay: Id | None = None
    """Ignored."""


class AudioInput(EventPart):
    NULLS: ClassVar[frozenset[str]] = frozenset(["transcription", "turn_detection"])
    format: RealtimeFormat = RealtimeFormat()
    noise_reduction: dict[str, Any] | None = None
    transcription: InputTranscription | None = InputTranscription()
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = SemanticVad(
        type="semantic_vad"
    )

    @field_validator("turn_detection", mode="before")
    @classmethod
    def _detection(cls, value: Any) -> Any:
        return field_aliases.turn_detection(value)


class AudioOutput(EventPart):
    format: RealtimeFormat = RealtimeFormat()
    voice: Voice = "default"
    speed: float = Field(1.0, ge=0.25, le=1.5)
    """Speech rate as a multiple of the box's default."""


class SessionAudio(EventPart):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Extension(EventPart):
    """Our additions, for clients that enable them by `session.update` with `session.chatapi`.

    Every `session.created` has `session.chatapi.conversation`: the id with which `?conversation=ID` continues. A
    `session.updated` has `session.chatapi.ignored` when fields of the update had no effect: their names.
    Clients that enable the additions receive, besides OpenAI's events:
    - `chatapi.timings` {response_id, timings} after each response.done: the timings of the turn, in seconds;
    - `chatapi.speech` {response_id, item_id, text, audio_start_ms, audio_end_ms} before its audio: the text that is
      spoken in this part of the response's audio;
    - `chatapi.interrupted` {response_id, text} when a response is interrupted: the part of its text that was played;
    and with `pausing`:
    - `chatapi.output_audio.paused`: speech started during playback; pause and keep the rest of the audio;
    - `chatapi.output_audio.resumed`: it was a backchannel or a false interruption; resume where you paused. For a
      barge-in, `input_audio_buffer.speech_started` is sent instead, and the rest must be dropped;
    - `chatapi.transcript.partial` {text}: the whole partial transcript so far, any word of which may change.

    The client may send `chatapi.played` {audio_end_ms, response_id}: how much of the response has been played. With
    the optional id, a late event of the previous response does not count for the next one.
    """

    pausing: bool = False
    speakers: bool = False
    """Whether each final transcript is followed by `conversation.item.input_audio_transcription.segment`, as OpenAI's
    diarizing model sends it: id, item_id, text, start and end in seconds of the session, and speaker, A, B and so
    on."""
    known_speaker_names: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=10)] = (
        Field(default_factory=list)
    )
    """Names of speakers of whom known_speaker_references has a sample; they count before the first transcript."""
    known_speaker_references: Annotated[
        list[Annotated[str, Field(max_length=known_speakers.MOST_URL)]], Field(max_length=known_speakers.MOST)
    ] = Field(default_factory=list)
    """2 to 10 s of speech of each of known_speaker_names, as data URLs."""
    commands: bool = False
    """Whether commands are detected in the input audio: `chatapi.command` {label, probability, audio_start_ms,
    audio_end_ms} tells of each. A command with an action in `commands.actions` runs it and is not answered."""
    captions: Id | None = None
    """Id of captions with the source push, whose viewers see the transcripts of this session."""


class Function(EventPart):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of its arguments."""
    strict: bool | None = None
    """Ignored: arguments always follow the schema as far as the engine can."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return field_aliases.function(value)


class ChosenFunction(EventPart):
    """The function that the model must call."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        return field_aliases.function(value)


Functions = Annotated[list[Function], Field(max_length=128)]
Choice = Literal["auto", "none", "required"] | ChosenFunction


class SessionConfig(EventPart):
    """The configuration of a session."""

    NULLS: ClassVar[frozenset[str]] = frozenset(["chatapi"])
    type: Literal["realtime", "transcription"] = "realtime"
    """transcription: turns are transcribed, and there are no responses."""
    model: Id | None = None
    output_modalities: list[Modality] = Field(["audio"], min_length=1, max_length=1)
    instructions: Instructions | None = None
    max_output_tokens: TokenLimit = "inf"
    temperature: float | None = Field(None, ge=0, le=2)
    """Sampling temperature; OpenAI's current API has none."""
    audio: SessionAudio = SessionAudio()
    tools: Functions = Field(default_factory=list)
    tool_choice: Choice = "auto"
    chatapi: Extension | None = None
    include: list[Id] | None = Field(None, max_length=64)
    parallel_tool_calls: bool | None = None
    prompt: None = None
    reasoning: dict[str, Any] | None = None
    tracing: Literal["auto"] | dict[str, Any] | None = None
    truncation: Id | dict[str, Any] | None = None

    @field_validator("output_modalities", mode="before")
    @classmethod
    def _one_modality(cls, value: Any) -> Any:
        return field_aliases.output_modalities(value)

    @property
    def transcribes_only(self) -> bool:
        return self.type == "transcription"

    def updated(self, change: Mapping[str, Any], ignored: IgnoredParameters) -> SessionConfig:
        """A copy with the fields of a `session.update`; adds the names of those without an effect to `ignored`.

        Raises Unprocessable that names the invalid field.
        """
        if self.transcribes_only and change.get("type") == "realtime":
            raise Unprocessable(
                "session.type: a transcription session cannot become one with responses; open another connection",
                details={"param": "session.type"},
            )
        current, change = self.model_dump(exclude_unset=True), field_aliases.renamed(change)
        found = parsed(SessionConfig, _merged(current, change), ignored, "session")
        for path in INEFFECTIVE:
            if _has(change, path.split(".")):
                ignored.add(f"session.{path}")
        if unknown := [name for name in found.include or () if name != LOGPROBS]:
            for name in unknown:
                ignored.add(f"session.include.{name}")
            # Clients know no other value in the session that is returned.
            found.include = [name for name in found.include or () if name == LOGPROBS]
        return found


class ResponseOutput(EventPart):
    format: RealtimeFormat | None = None
    voice: Voice | None = None


class ResponseAudio(EventPart):
    output: ResponseOutput = ResponseOutput()


class ResponseConfig(EventPart):
    """The options of `response.create` for one response."""

    audio: ResponseAudio = ResponseAudio()
    conversation: Literal["auto", "none"] = "auto"
    """none: an out-of-band response, which runs beside others."""
    input: list[Annotated[ResponseInput, Field(discriminator="type")]] | None = Field(None, max_length=256)
    """Input in place of the conversation, for an out-of-band response."""
    instructions: Instructions | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    metadata: Metadata | None = None
    output_modalities: list[Modality] | None = Field(None, min_length=1, max_length=1)
    parallel_tool_calls: bool | None = None
    prompt: None = None
    reasoning: dict[str, Any] | None = None
    tool_choice: Choice | None = None
    tools: Functions | None = None

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, value: Any) -> Any:
        return field_aliases.renamed(value) if isinstance(value, dict) else value

    @field_validator("output_modalities", mode="before")
    @classmethod
    def _one_modality(cls, value: Any) -> Any:
        return field_aliases.output_modalities(value)

    @model_validator(mode="after")
    def _check_input(self) -> ResponseConfig:
        if self.input is not None and self.conversation != "none":
            raise ValueError("input needs conversation none; otherwise create items instead")
        return self


TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
"""Fields of a session that a response may change together."""
OF_RESPONSE = ("instructions", "max_output_tokens", "temperature", "output_modalities", *TOOLS)
"""Fields of a session that a response may change."""


def effective(config: SessionConfig, request: ResponseConfig) -> SessionConfig:
    """The session's configuration with the options of one response."""
    output = config.audio.output.model_copy()
    if request.audio.output.format is not None:
        output.format = request.audio.output.format
    if request.audio.output.voice is not None:
        output.voice = request.audio.output.voice
    changed: dict[str, Any] = {"audio": config.audio.model_copy(update={"output": output})}
    for name in OF_RESPONSE:
        if (value := getattr(request, name)) is not None:
            changed[name] = value
    return config.model_copy(update=changed)


def with_pcm_output(config: SessionConfig) -> SessionConfig:
    """The configuration with the default format of output audio."""
    output = config.audio.output.model_copy(update={"format": RealtimeFormat()})
    return config.model_copy(update={"audio": config.audio.model_copy(update={"output": output})})


def _has(document: Any, path: Sequence[str]) -> bool:
    """Whether there is a value, other than null, at this path."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document is not None


def _merged(current: Mapping[str, Any], change: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Merges the changed fields, also inside `audio`, into the current ones. Null changes nothing where it is as
    omitted."""
    merged = dict(current)
    for name, value in change.items():
        inner = path + name
        if value is None and name not in SessionConfig.NULLS | AudioInput.NULLS:
            continue
        if inner in ("audio", "audio.input", "audio.output") and isinstance(value, dict):
            value = _merged(current.get(name, {}), value, inner + ".")
        merged[name] = value
    return merged
