"""What a client may send: the events of OpenAI's Realtime API, and our two additions, which `Extension` documents.

Fields that OpenAI's models know and that change nothing here (noise reduction, tracing, truncation, ...) are taken and
have no effect; fields nobody knows are refused by name.
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
"""What pydantic adds to the path of a fault where several shapes are possible."""

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""OpenAI's names of functions."""

MOST_VALUES = 20_000
"""Commas and brackets of an event."""
MOST_CHARS = 512 << 10
"""Of an event that brings no sound."""
LONGEST_MS = 86_400_000
"""A day: no answer is longer."""

Text = Annotated[str, Field(max_length=20_000)]
Id = Annotated[str, Field(max_length=512)]
Voice = Annotated[str, Field(max_length=200)] | VoiceId

Shape = TypeVar("Shape", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RealtimeFormat(_Part):
    """How sound is encoded."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: int | None = Field(None, ge=0, le=192_000)
    """Samples a second; every format has one."""

    @model_validator(mode="after")
    def _fits(self) -> RealtimeFormat:
        if self.rate not in (None, RATES[self.type]):
            raise ValueError(f"{self.type} has {RATES[self.type]} samples a second")
        return self

    def document(self) -> dict[str, Any]:
        """As it is sent."""
        return {"type": self.type, "rate": RATES[self.type]} if self.type == "audio/pcm" else {"type": self.type}


class ServerVad(_Part):
    """A turn ends after a silence of fixed length."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=LONGEST_MS)
    """Without effect: a third of a second before the first sound is always kept."""
    silence_duration_ms: int = Field(500, ge=32, le=10_000)
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)
    """Silence after an answer has been heard after which there is another; OpenAI's bounds."""


class SemanticVad(_Part):
    """A turn ends when it sounds finished."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


class InputTranscription(_Part):
    """Whether the client is told what was understood; the model is always the box's own."""

    model: Id | None = None
    language: Id | None = None
    prompt: Text | None = None
    """Without effect."""


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
    """As a multiple of the box's own pace."""


class SessionAudio(_Part):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class Extension(_Part):
    """Our additions, for clients that name them: `session.update` with `session.chatapi`.

    In `session.created` everybody finds `session.chatapi.conversation`: the id with which `?conversation=ID` goes on.
    Whoever names them is sent, besides OpenAI's events:
    - `chatapi.timings` {response_id, timings} after each response.done: when things happened in the turn, in seconds;
    - `chatapi.speech` {response_id, item_id, text, audio_start_ms, audio_end_ms} before the sound it tells of: which
      words are said in this stretch of the answer's sound;
    - `chatapi.interrupted` {response_id, text} when an answer is cut short: the words of it that were heard;
    and with `pausing`:
    - `chatapi.output_audio.paused`: somebody speaks against the answer; be silent and keep the rest of it;
    - `chatapi.output_audio.resumed`: it was nothing that matters; go on from where you stopped. When it was, there
      is `input_audio_buffer.speech_started` instead and the rest is to be thrown away;
    - `chatapi.transcript.partial` {text}: the whole guess so far, which may change at any word.

    It may send `chatapi.played` {audio_end_ms, response_id}: how much of the answer has been heard. With the id, which
    may be left out, what was sent just before another answer began does not count for that one.
    """

    pausing: bool = False


class Function(_Part):
    """What may be called."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of its arguments."""


class ChosenFunction(_Part):
    """The one that is to be called."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)


Functions = Annotated[list[Function], Field(max_length=128)]
Choice = Literal["auto", "none", "required"] | ChosenFunction


class SessionConfig(_Part):
    """A session as it is. `Update` names what of it changes."""

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
        """With the fields of a `session.update`. Raises Unprocessable naming the field that cannot be."""
        return _checked(SessionConfig, _merged(self.model_dump(exclude_unset=True), change), "session.")


class Content(_Part):
    type: Literal["input_text", "output_text"]
    text: Text


class MessageItem(_Part):
    """An item a client may create."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: list[Content] = Field(min_length=1, max_length=64)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class FunctionCallItem(_Part):
    """A call that was wanted before this session began."""

    type: Literal["function_call"]
    name: str = Field(pattern=NAME)
    arguments: Text
    call_id: str = Field(min_length=1, max_length=200)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class FunctionOutputItem(_Part):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: str = Field(max_length=100_000)
    id: str | None = Field(None, min_length=1, max_length=64)
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None


class Reference(_Part):
    """An item of the conversation."""

    type: Literal["item_reference"]
    id: Id


Given = MessageItem | FunctionCallItem | FunctionOutputItem | Reference
"""What a response outside of the conversation may answer."""


class ResponseOutput(_Part):
    format: RealtimeFormat | None = None
    voice: Voice | None = None


class ResponseSound(_Part):
    output: ResponseOutput = ResponseOutput()


class ResponseConfig(_Part):
    """What `response.create` may change for one response."""

    audio: ResponseSound = ResponseSound()
    conversation: Literal["auto", "none"] = "auto"
    """none: the response is no part of the conversation, and others may go on beside it."""
    input: list[Annotated[Given, Field(discriminator="type")]] | None = Field(None, max_length=256)
    """Instead of the conversation, where it is none."""
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
    def _aside(self) -> ResponseConfig:
        if self.input is not None and self.conversation != "none":
            raise ValueError("input is taken with conversation none; otherwise create items instead")
        return self


class ClientEvent(_Part):
    """What every event of a client has."""

    type: str
    event_id: Id | None = None


class SessionUpdate(ClientEvent):
    session: dict[str, Any]


class Append(ClientEvent):
    audio: str


class Create(ClientEvent):
    item: Annotated[MessageItem | FunctionCallItem | FunctionOutputItem, Field(discriminator="type")]
    previous_item_id: Id | None = None


class Named(ClientEvent):
    """`conversation.item.delete` and `.retrieve`."""

    item_id: Id


class Truncate(ClientEvent):
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
    "input_audio_buffer.append": Append,
    "input_audio_buffer.commit": ClientEvent,
    "input_audio_buffer.clear": ClientEvent,
    "output_audio_buffer.clear": ClientEvent,
    "conversation.item.create": Create,
    "conversation.item.delete": Named,
    "conversation.item.retrieve": Named,
    "conversation.item.truncate": Truncate,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "chatapi.played": Played,
}


def parsed(text: str) -> dict[str, Any]:
    """The JSON object of a message. Raises BadInput (invalid_json), TooLarge (too_many_values, event_too_large)."""
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
            f"the event has {len(text)} characters; at most {MOST_CHARS} are taken where it brings no sound",
            code="event_too_large",
            details={"limit_chars": MOST_CHARS},
        )
    return document


def event(document: Mapping[str, Any]) -> ClientEvent:
    """The event a document is. Raises Unprocessable naming what is wrong in `details.param`."""
    kind = document.get("type")
    model = EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise Unprocessable(f"there is no event {kind!r}; there are: {', '.join(EVENTS)}", details={"param": "type"})
    return _checked(model, document)


def _merged(have: Mapping[str, Any], change: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Fields that are given replace those that are there, also inside of `audio`."""
    merged = dict(have)
    for name, value in change.items():
        inner = path + name
        if inner in ("audio", "audio.input", "audio.output") and isinstance(value, dict):
            value = _merged(have.get(name, {}), value, inner + ".")
        merged[name] = value
    return merged


def _checked(model: type[Shape], document: Mapping[str, Any], path: str = "") -> Shape:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        param = path + ".".join(str(step) for step in fault["loc"] if step not in TAGS)
        if fault["type"] == "extra_forbidden":
            raise Unprocessable(f"there is no field {param!r}", code="unknown_parameter", details={"param": param}) \
                from None  # fmt: skip
        raise Unprocessable(_told(param, fault["msg"]), details={"param": param}) from None


def _told(param: str, message: str) -> str:
    """Why, where the mere rule does not say it."""
    names = [name for name in param.split(".") if not name.isdigit()]
    reason = REASONS.get(".".join(names[-2:])) or REASONS.get(names[-1])
    return f"{param}: {reason or message}"


REASONS = {
    "tools.type": "only tools of the type function can be called here, no MCP servers",
    "tool_choice": 'it is auto, none, required, or a function: {"type": "function", "name": its name}',
    "prompt": "there are no prompt templates here; send `instructions`",
    "conversation": "it is auto, for a response that belongs to the conversation, or none",
}
"""Field -> why it cannot have another value."""
