"""The body of `POST /v1/chat/completions`: its form, and what is done with every parameter that OpenAI names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from chatapi.errors import Unprocessable, describe_validation_error
from chatapi.interfaces.http.openai_aliases import VoiceId, metadata_fault
from chatapi.services.turns.completion import MAX_TEMPERATURE

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""OpenAI's names of functions and schemas."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Form):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class RefusalPart(_Form):
    """What an assistant said instead of an answer."""

    type: Literal["refusal"]
    refusal: str


class InputAudio(_Form):
    """Somebody speaking."""

    data: str
    """Base64 of a file; WAV and MP3 are what OpenAI takes, FLAC, OGG, MP4 and WebM are understood too."""
    format: Literal["wav", "mp3"]


class AudioPart(_Form):
    """A piece of a message that is heard."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FunctionCallPart(_Form):
    """What an assistant wanted called."""

    name: Annotated[str, Field(pattern=NAME)]
    arguments: str
    """JSON, as the model wrote it."""


class ToolCallPart(_Form):
    """A call of a function."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["function"]
    function: FunctionCallPart


class SpokenAnswer(_Form):
    """An answer that was spoken: its id for an hour, or its transcript for ever."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    data: str | None = None
    expires_at: int | None = None
    transcript: str | None = None


def _kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"={kind}" if isinstance(kind, str) else None


def _text_or_parts(content: Any) -> str:
    return "=parts" if isinstance(content, list) else "=text"


Texts = Annotated[list[Annotated[Annotated[TextPart, Tag("=text")], Discriminator(_kind)]], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\S{1,64}$")]
"""Of who takes part."""
Content = Annotated[Annotated[str, Tag("=text")] | Annotated[Texts, Tag("=parts")], Discriminator(_text_or_parts)]
UserParts = list[
    Annotated[Annotated[TextPart, Tag("=text")] | Annotated[AudioPart, Tag("=input_audio")], Discriminator(_kind)]
]
UserContent = Annotated[
    Annotated[str, Tag("=text")] | Annotated[UserParts, Field(min_length=1, max_length=100), Tag("=parts")],
    Discriminator(_text_or_parts),
]
AssistantParts = list[
    Annotated[Annotated[TextPart, Tag("=text")] | Annotated[RefusalPart, Tag("=refusal")], Discriminator(_kind)]
]
AssistantContent = Annotated[
    Annotated[str, Tag("=text")] | Annotated[AssistantParts, Field(min_length=1, max_length=100), Tag("=parts")],
    Discriminator(_text_or_parts),
]


class SystemMessage(_Form):
    """What the model is told before or between; developer is OpenAI's newer word for the same."""

    role: Literal["system", "developer"]
    content: Content
    name: Name | None = None


class UserMessage(_Form):
    """What is asked."""

    role: Literal["user"]
    content: UserContent
    name: Name | None = None
    """Who asks; the model is told it before their words."""


class AssistantMessage(_Form):
    """What was answered. As the last message it is gone on with."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    audio: SpokenAnswer | None = None
    tool_calls: list[ToolCallPart] | None = None
    name: Name | None = None
    """Who answered; the model is told it before their words, unless these are to be gone on with."""
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None


class ToolMessage(_Form):
    """What a function that was called gave."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1, max_length=200)]


def _role(message: Any) -> str | None:
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return f"={role}".replace("developer", "system") if isinstance(role, str) else None


AnyMessage = Annotated[
    Annotated[SystemMessage, Tag("=system")]
    | Annotated[UserMessage, Tag("=user")]
    | Annotated[AssistantMessage, Tag("=assistant")]
    | Annotated[ToolMessage, Tag("=tool")],
    Discriminator(_role),
]


class FunctionSchema(_Form):
    """What may be called. Its arguments are held to the parameters where a call is required."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema."""
    strict: bool | None = None


class FunctionTool(_Form):
    type: Literal["function"]
    function: FunctionSchema


class ChosenFunctionName(_Form):
    name: Annotated[str, Field(pattern=NAME)]


class ChosenTool(_Form):
    type: Literal["function"]
    function: ChosenFunctionName


class AudioOptions(_Form):
    """How the answer is spoken."""

    voice: Annotated[str, Field(min_length=1, max_length=200)] | VoiceId
    """A voice from /v1/models or /models, or one of OpenAI's names: the box's default voice."""
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    """pcm16 is 24 kHz, mono, little-endian; a stream takes no other."""


class TextFormat(_Form):
    type: Literal["text"]


class JsonFormat(_Form):
    type: Literal["json_object"]


class Schema(_Form):
    """A JSON schema that the answer fits."""

    model_config = ConfigDict(protected_namespaces=())

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    """What it is for; the model is told it."""
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None
    """Whether it is to be followed to the letter, which the engines of the box always do."""


class SchemaFormat(_Form):
    type: Literal["json_schema"]
    json_schema: Schema


Format = Annotated[
    Annotated[TextFormat, Tag("=text")]
    | Annotated[JsonFormat, Tag("=json_object")]
    | Annotated[SchemaFormat, Tag("=json_schema")],
    Discriminator(_kind),
]


StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = Annotated[
    Annotated[StopText, Tag("=text")] | Annotated[list[StopText], Field(max_length=4), Tag("=parts")],
    Discriminator(_text_or_parts),
]


class StreamOptions(_Form):
    include_usage: bool = False
    """One more chunk before the end, with the tokens used."""
    include_obfuscation: Literal[False] | None = None


@dataclass(frozen=True)
class Taken:
    """A parameter that changes nothing here."""

    why: str
    values: tuple[Any, ...] | None = None
    """Those of which that is true; None: all."""


TAKEN: Mapping[str, Taken] = {
    "user": Taken("the box keeps no accounts"),
    "safety_identifier": Taken("the box keeps no accounts"),
    "metadata": Taken("it labels answers that are stored, and none is"),
    "store": Taken("nothing is stored", (False,)),
    "service_tier": Taken("there is one way to be served", ("auto", "default")),
    "prompt_cache_key": Taken("the beginnings of all prompts are kept, as far as memory goes"),
    "prompt_cache_retention": Taken("what is kept of a prompt is computed anew where it is gone"),
    "prompt_cache_options": Taken("what is kept of a prompt is computed anew where it is gone"),
    "prediction": Taken("it is a hint that makes the same answer come faster elsewhere"),
    "verbosity": Taken("medium is as the model writes", ("medium",)),
    "reasoning_effort": Taken("the models here answer without thinking aloud", ("none",)),
}
"""OpenAI's parameters that provably change nothing of the answer."""


def _with_taken(schema: dict[str, Any]) -> None:
    """They are part of the form, though nothing is done with them."""
    for name, taken in TAKEN.items():
        allowed = {} if taken.values is None else {"enum": list(taken.values)}
        schema["properties"][name] = {"description": f"Changes nothing here: {taken.why}.", **allowed}


class ChatRequest(_Form):
    """A conversation, to be answered. Nothing of it is kept."""

    model_config = ConfigDict(json_schema_extra=_with_taken)

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=1000)]
    """All of the conversation: the box adds no system prompt of its own."""
    model: Annotated[str, Field(max_length=200)] = "default"
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    """text, or text and audio."""
    audio: AudioOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Longest answer; lowered to what the context has left. Left out: the box's llm.max_tokens."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The newer name of max_tokens."""
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = None
    """Left out: the box's llm.temperature."""
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1
    """1, OpenAI's own default, leaves it to what suits the model."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    """0 for both leaves repetition to what suits the model."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    """One answer is given."""
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool = True
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
                Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)],
            ],
            Field(max_length=1000),
        ]
        | None
    ) = None
    """By the numbers of the tokens of the model in use."""


REFUSED: Mapping[str, str] = {
    "functions": "send them as tools",
    "function_call": "send it as tool_choice",
    "web_search_options": "the box searches no web",
    "moderation": "the box has no moderation model",
}
"""OpenAI's parameters that are not taken, and what would be right."""
CLIENT = ("extra_headers", "extra_query", "extra_body", "timeout")
"""Parameters of OpenAI's Python client that never reach a server by these names."""
UNSEEN = {"image_url": "images", "file": "files", "video_url": "videos"}
"""Types of parts that nothing here understands."""


def understood(values: Mapping[str, Any]) -> ChatRequest:
    """A JSON object as a request. Raises Unprocessable with the `param` that is wrong in its details."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        _check_parameter(name, given[name])
    _refuse_unseen(given.get("messages"))
    try:
        return ChatRequest.model_validate(
            {name: value for name, value in given.items() if name not in TAKEN}, strict=True
        )
    except ValidationError as error:
        raise _explained(error) from None


def _check_parameter(name: str, value: Any) -> None:
    if name in REFUSED:
        raise wrong(name, f"{name} is not supported: {REFUSED[name]}", "unsupported_parameter")
    if name == "metadata" and (fault := metadata_fault(value)):
        raise wrong("metadata", fault, "invalid_value")
    if name in TAKEN:
        values = TAKEN[name].values
        if values is not None and not any(value is each or (value == each and each != 0) for each in values):
            known = " or ".join(repr(each) for each in values)
            raise wrong(name, f"{name} can be {known} only: {TAKEN[name].why}", "unsupported_value")
    elif name not in ChatRequest.model_fields:
        raise wrong(name[:100], f"there is no parameter {name[:100]!r}", "unknown_parameter")


def _refuse_unseen(messages: Any) -> None:
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for place, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in UNSEEN:
                told = f"{UNSEEN[kind]} are not understood here; parts can be text and input_audio"
                raise wrong(f"messages[{at}].content[{place}]", told, "unsupported_content")


FORMS: tuple[type[BaseModel], ...] = (*_Form.__subclasses__(), ChatRequest)
FIELDS = {info.alias or name for form in FORMS for name, info in form.model_fields.items()}
"""Of all forms; what else is in the place of a fault is pydantic's own."""


def wrong(param: str, told: str, code: str) -> Unprocessable:
    """What is wrong with a parameter."""
    return Unprocessable(told, code=code, details={"param": param})


def _explained(error: ValidationError) -> Unprocessable:
    """The first fault: the others of a union follow from it."""
    fault = error.errors(include_url=False)[0]
    place = ""
    for step in fault["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in FIELDS or (fault["type"] == "extra_forbidden" and step == fault["loc"][-1]):
            place += f".{step}" if place else step
    if fault["type"] == "extra_forbidden":
        return wrong(place, f"there is no {place}", "unknown_parameter")
    if fault["type"].startswith("union_tag"):
        known = str(fault.get("ctx", {}).get("expected_tags", "")).replace("=", "") or "system, user, assistant, tool"
        return wrong(place, f"{place} is of no kind that is known; there are: {known}", "invalid_value")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return wrong(place, f"{place} {describe_validation_error(fault)}", code)
