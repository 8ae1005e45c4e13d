"""Client events of OpenAI's Realtime API, and our two additions, which `Extension` documents.

Fields of OpenAI's models without an effect here (noise reduction, tracing, truncation, ...) are ignored; unknown fields
are rejected with an error that names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.interfaces.http.openai_aliases import Metadata, VoiceId
from chatapi.interfaces.http.realtime.audio_format import RATES
from chatapi.interfaces.json_bounds import DEEPEST, check_values, too_deep

TAGS = frozenset(
    ["server_vad", "semantic_vad", "str", "int", "literal['inf']", "constrained-int", "message", "function_call",
     "function_call_output", "item_reference", "literal['auto','none','required']", "ChosenFunction"]
)  # fmt: skip
"""Tags that pydantic adds to the path of a fault in a union."""

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""Pattern of OpenAI's function names."""

MOST_VALUES = 20_000
"""Most commas and brackets in an event."""
MOST_CHARS = 512 << 10
"""Longest event without audio, in characters."""
LONGEST_MS = 86_400_000
"""Longest audio position, in milliseconds: one day."""

Text = Annotated[str, Field(max_length=20_000)]
Id = Annotated[str, Field(max_length=512)]
Voice = Annotated[str, Field(max_length=200)] | VoiceId

Model = TypeVar("Model", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RealtimeFormat(_Part):
    """An audio encoding."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=0, le=192_000)
    """Sample rate, in hertz; fixed for every format."""

    @model_validator(mode="after")
    def _check_rate(self) -> RealtimeFormat:
        if self.rate not in (None, RATES[self.type]):
            raise ValueError(f"the rate of {self.type} is {RATES[self.type]} Hz")
        return self

    def document(self) -> dict[str, Any]:
        """The JSON object that is sent."""
        return {"type": self.type, "rate": RATES[self.type]} if self.type == "audio/pcm" else {"type": self.type}


class ServerVad(_Part):
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


class SemanticVad(_Part):
    """Turn detection by an end-of-turn model."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


class InputTranscription(_Part):
    """Whether the client receives transcripts; the model is always the box's own."""

    model: Id | None = None
    language: Id | None = None
    prompt: Text | None = None
    """Ignored."""


class AudioInput(_Part):
    format: RealtimeFormat = RealtimeFormat()
    noise_reduction: dict[str, Any] | None = None
    transcription: InputTranscription | None = InputTranscription()
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = SemanticVad(
        type="semantic_vad"
    )


class AudioOutput(_Part):
    format: RealtimeFormat = RealtimeFormat()
    voice: Voice = "default"
    speed: float = Field(1.0, ge=0.25, le=1.5)
    """Speech rate as a multiple of the box's default."""


class SessionAudio(_Part):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Extension(_Part):
    """Our additions, for clients that enable them by `session.update` with `session.chatapi`.

    Every `session.created` has `session.chatapi.conversation`: the id with which `?conversation=ID` continues.
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


class Function(_Part):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of its arguments."""


class ChosenFunction(_Part):
    """The function that the model must call."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)


Functions = Annotated[list[Function], Field(max_length=128)]
Choice = Literal["auto", "none", "required"] | ChosenFunction


class SessionConfig(_Part):
    """The configuration of a session."""

    type: Literal["realtime"] = "realtime"
    model: Id | None = None
    output_modalities: list[Literal["audio", "text"]] = Field(["audio"], min_length=1, max_length=1)
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] | Literal["inf"] = "inf"
    audio: SessionAudio = SessionAudio()
    tools: Functions = []
    tool_choice: Choice = "auto"
    chatapi: Extension | None = None
    include: list[Id] | None = Field(None, max_length=64)
    parallel_tool_calls: bool | None = None
    prompt: None = None
    reasoning: dict[str, Any] | None = None
    tracing: Literal["auto"] | dict[str, Any] | None = None
    truncation: Id | dict[str, Any] | None = None

    def updated(self, change: Mapping[str, Any]) -> SessionConfig:
        """A copy with the fields of a `session.update`. Raises Unprocessable that names the invalid field."""
        return _validated(SessionConfig, _merged(self.model_dump(exclude_unset=True), change), "session.")


class Content(_Part):
    type: Literal["input_text", "output_text"]
    text: Text


class MessageItem(_Part):
    """A message that a client creates."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: list[Content] = Field(min_length=1, max_length=64)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class FunctionCallItem(_Part):
    """A tool call from before this session."""

    type: Literal["function_call"]
    name: str = Field(pattern=NAME)
    arguments: Text
    call_id: str = Field(min_length=1, max_length=200)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class FunctionOutputItem(_Part):
    """The result of a tool call."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: str = Field(max_length=100_000)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class ItemReference(_Part):
    """A reference to an item of the conversation."""

    type: Literal["item_reference"]
    id: Id


ResponseInput = MessageItem | FunctionCallItem | FunctionOutputItem | ItemReference
"""Input items of an out-of-band response."""


class ResponseOutput(_Part):
    format: RealtimeFormat | None = None
    voice: Voice | None = None


class ResponseAudio(_Part):
    output: ResponseOutput = ResponseOutput()


class ResponseConfig(_Part):
    """The options of `response.create` for one response."""

    audio: ResponseAudio = ResponseAudio()
    conversation: Literal["auto", "none"] = "auto"
    """none: an out-of-band response, which runs beside others."""
    input: list[Annotated[ResponseInput, Field(discriminator="type")]] | None = Field(None, max_length=256)
    """Input in place of the conversation, for an out-of-band response."""
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=4096)] | Literal["inf"] | None = None
    metadata: Metadata | None = None
    output_modalities: list[Literal["audio", "text"]] | None = Field(None, min_length=1, max_length=1)
    parallel_tool_calls: bool | None = None
    prompt: None = None
    reasoning: dict[str, Any] | None = None
    tool_choice: Choice | None = None
    tools: Functions | None = None

    @model_validator(mode="after")
    def _check_input(self) -> ResponseConfig:
        if self.input is not None and self.conversation != "none":
            raise ValueError("input needs conversation none; otherwise create items instead")
        return self


class ClientEvent(_Part):
    """The fields of every client event."""

    type: str
    event_id: Id | None = None


class SessionUpdate(ClientEvent):
    session: dict[str, Any]


class AudioAppend(ClientEvent):
    audio: str


class ItemCreate(ClientEvent):
    item: Annotated[MessageItem | FunctionCallItem | FunctionOutputItem, Field(discriminator="type")]
    previous_item_id: Id | None = None


class ItemEvent(ClientEvent):
    """`conversation.item.delete` and `.retrieve`."""

    item_id: Id


class ItemTruncate(ClientEvent):
    item_id: Id
    content_index: Literal[0]
    audio_end_ms: int = Field(ge=0, le=LONGEST_MS)


class ResponseCreate(ClientEvent):
    response: ResponseConfig = ResponseConfig()


class ResponseCancel(ClientEvent):
    response_id: Id | None = None


class Played(ClientEvent):
    audio_end_ms: int = Field(ge=0, le=LONGEST_MS)
    response_id: Id | None = None


EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": AudioAppend,
    "input_audio_buffer.commit": ClientEvent,
    "input_audio_buffer.clear": ClientEvent,
    "output_audio_buffer.clear": ClientEvent,
    "conversation.item.create": ItemCreate,
    "conversation.item.delete": ItemEvent,
    "conversation.item.retrieve": ItemEvent,
    "conversation.item.truncate": ItemTruncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "chatapi.played": Played,
}


def parse_json(text: str) -> dict[str, Any]:
    """Parses a message. Raises BadInput (invalid_json), TooLarge (too_many_values, event_too_large)."""
    check_values(text, MOST_VALUES)
    try:
        document = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput(f"this is not JSON: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise BadInput("an event is a JSON object with a `type`", code="invalid_json")
    if too_deep(document):
        raise BadInput(f"the event is nested more than {DEEPEST} levels deep", code="invalid_json")
    if len(text) > MOST_CHARS and document.get("type") != "input_audio_buffer.append":
        raise TooLarge(
            f"the event has {len(text)} characters; at most {MOST_CHARS} are allowed without audio",
            code="event_too_large",
            details={"limit_chars": MOST_CHARS},
        )
    return document


def parse_event(document: Mapping[str, Any]) -> ClientEvent:
    """Validates an event. Raises Unprocessable with the invalid field in `details.param`."""
    kind = document.get("type")
    model = EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise Unprocessable(f"there is no event {kind!r}; there are: {', '.join(EVENTS)}", details={"param": "type"})
    return _validated(model, document)


def _merged(current: Mapping[str, Any], change: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Merges the changed fields, also inside `audio`, into the current ones."""
    merged = dict(current)
    for name, value in change.items():
        inner = path + name
        if inner in ("audio", "audio.input", "audio.output") and isinstance(value, dict):
            value = _merged(current.get(name, {}), value, inner + ".")
        merged[name] = value
    return merged


def _validated(model: type[Model], document: Mapping[str, Any], path: str = "") -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        param = path + ".".join(str(step) for step in fault["loc"] if step not in TAGS)
        if fault["type"] == "extra_forbidden":
            raise Unprocessable(f"there is no field {param!r}", code="unknown_parameter", details={"param": param}) \
                from None  # fmt: skip
        raise Unprocessable(_fault_message(param, fault["msg"]), details={"param": param}) from None


def _fault_message(param: str, message: str) -> str:
    """The error message, with the reason from `REASONS` when there is one."""
    names = [name for name in param.split(".") if not name.isdigit()]
    reason = REASONS.get(".".join(names[-2:])) or REASONS.get(names[-1])
    return f"{param}: {reason or message}"


REASONS = {
    "tools.type": "only tools of type function are supported, no MCP servers",
    "tool_choice": 'it must be auto, none, required, or a function: {"type": "function", "name": its name}',
    "prompt": "prompt templates are not supported; send `instructions`",
    "conversation": "it must be auto, for a response in the conversation, or none",
}
"""Field -> why its value is invalid."""
