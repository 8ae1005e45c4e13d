"""The body of `POST /v1/chat/completions`: its schema, and how each of OpenAI's parameters is treated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from chatapi.errors import Unprocessable, describe_validation_error
from chatapi.interfaces.http.openai_aliases import VoiceId, metadata_fault
from chatapi.services.turns.completion import MAX_TEMPERATURE

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
"""Pattern of OpenAI's function and schema names."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Form):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class RefusalPart(_Form):
    """A refusal of the assistant."""

    type: Literal["refusal"]
    refusal: str


class InputAudio(_Form):
    """Recorded speech."""

    data: str
    """Base64 of a file; OpenAI supports WAV and MP3, and FLAC, OGG, MP4 and WebM also work here."""
    format: Literal["wav", "mp3"]


class AudioPart(_Form):
    """An audio part of a message."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FunctionCallPart(_Form):
    """The function that the assistant calls."""

    name: Annotated[str, Field(pattern=NAME)]
    arguments: str
    """Arguments in JSON, as the model wrote them."""


class ToolCallPart(_Form):
    """A tool call of the assistant."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: Literal["function"]
    function: FunctionCallPart


class AssistantAudio(_Form):
    """Reference to a spoken answer: by its id for an hour, or by its transcript without a limit."""

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
"""Name of a participant."""
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
    """A system prompt, at the start or later; developer is OpenAI's newer name of the role."""

    role: Literal["system", "developer"]
    content: Content
    name: Name | None = None


class UserMessage(_Form):
    """A message of the user."""

    role: Literal["user"]
    content: UserContent
    name: Name | None = None
    """Name of the user; it precedes the content in the prompt."""


class AssistantMessage(_Form):
    """A message of the assistant. As the last message it is a prefix that the model continues."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    audio: AssistantAudio | None = None
    tool_calls: list[ToolCallPart] | None = None
    name: Name | None = None
    """Name of the assistant; it precedes the content in the prompt, unless the message is a prefix to continue."""
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None


class ToolMessage(_Form):
    """The result of a tool call."""

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
    """A function that the model may call. When a call is required, its arguments conform to the parameters."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON schema of the arguments."""
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
    """Options of the spoken answer."""

    voice: Annotated[str, Field(min_length=1, max_length=200)] | VoiceId
    """A voice from /v1/models or /models, or one of OpenAI's names: the box's default voice."""
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    """pcm16 is 24 kHz, mono, little-endian; the only format with stream=true."""


class TextFormat(_Form):
    type: Literal["text"]


class JsonFormat(_Form):
    type: Literal["json_object"]


class Schema(_Form):
    """A JSON schema for the answer."""

    model_config = ConfigDict(protected_namespaces=())

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    """Purpose of the schema; it is part of the prompt."""
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None
    """Whether the answer must conform exactly; the engines of the box always conform."""


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
    """Whether a last chunk reports the token usage."""
    include_obfuscation: Literal[False] | None = None


@dataclass(frozen=True)
class IgnoredParameter:
    """A parameter that has no effect here."""

    why: str
    values: tuple[Any, ...] | None = None
    """Values without an effect; None for all values."""


IGNORED: Mapping[str, IgnoredParameter] = {
    "user": IgnoredParameter("the box keeps no accounts"),
    "safety_identifier": IgnoredParameter("the box keeps no accounts"),
    "metadata": IgnoredParameter("it labels stored completions, and none is stored"),
    "store": IgnoredParameter("nothing is stored", (False,)),
    "service_tier": IgnoredParameter("there is only one service tier", ("auto", "default")),
    "prompt_cache_key": IgnoredParameter("the prefixes of all prompts are cached while memory permits"),
    "prompt_cache_retention": IgnoredParameter("an evicted prompt prefix is computed again"),
    "prompt_cache_options": IgnoredParameter("an evicted prompt prefix is computed again"),
    "prediction": IgnoredParameter("it is a hint that only speeds up the same completion"),
    "verbosity": IgnoredParameter("medium is the model's own verbosity", ("medium",)),
    "reasoning_effort": IgnoredParameter("the models here do not output reasoning", ("none",)),
}
"""OpenAI's parameters that do not change the completion."""


def _add_ignored(schema: dict[str, Any]) -> None:
    """Adds the ignored parameters to the OpenAPI schema."""
    for name, ignored in IGNORED.items():
        allowed = {} if ignored.values is None else {"enum": list(ignored.values)}
        schema["properties"][name] = {"description": f"Ignored: {ignored.why}.", **allowed}


class ChatRequest(_Form):
    """A conversation to complete. Nothing of it is stored."""

    model_config = ConfigDict(json_schema_extra=_add_ignored)

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=1000)]
    """The whole conversation; the box adds no system prompt of its own."""
    model: Annotated[str, Field(max_length=200)] = "default"
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    """text, or text and audio."""
    audio: AudioOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Longest completion, in tokens; limited by the remaining context. Default: the box's llm.max_tokens."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The newer name of max_tokens."""
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = None
    """Default: the box's llm.temperature."""
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1
    """1, OpenAI's default, uses the default of the model."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)] = 0
    """0 for both penalties uses the default of the model."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    """Number of completions; only 1 is supported."""
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
    """Token id of the model in use -> bias."""


UNSUPPORTED: Mapping[str, str] = {
    "functions": "send them as tools",
    "function_call": "send it as tool_choice",
    "web_search_options": "the box has no web search",
    "moderation": "the box has no moderation model",
}
"""OpenAI's parameters that are not supported, with the reason or the remedy."""
CLIENT = ("extra_headers", "extra_query", "extra_body", "timeout")
"""Parameters of OpenAI's Python client that are never sent to a server by these names."""
UNSUPPORTED_PARTS = {"image_url": "images", "file": "files", "video_url": "videos"}
"""Types of message parts that are not supported, with the plural for error messages."""


def parse_body(values: Mapping[str, Any]) -> ChatRequest:
    """Parses a JSON object. Raises Unprocessable with the invalid `param` in its details."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in given:
        _check_parameter(name, given[name])
    _reject_unsupported_parts(given.get("messages"))
    try:
        return ChatRequest.model_validate(
            {name: value for name, value in given.items() if name not in IGNORED}, strict=True
        )
    except ValidationError as error:
        raise _first_fault(error) from None


def _check_parameter(name: str, value: Any) -> None:
    if name in UNSUPPORTED:
        raise invalid_parameter(name, f"{name} is not supported: {UNSUPPORTED[name]}", "unsupported_parameter")
    if name == "metadata" and (fault := metadata_fault(value)):
        raise invalid_parameter("metadata", fault, "invalid_value")
    if name in IGNORED:
        values = IGNORED[name].values
        if values is not None and not any(value is each or (value == each and each != 0) for each in values):
            known = " or ".join(repr(each) for each in values)
            raise invalid_parameter(name, f"{name} must be {known}: {IGNORED[name].why}", "unsupported_value")
    elif name not in ChatRequest.model_fields:
        raise invalid_parameter(name[:100], f"there is no parameter {name[:100]!r}", "unknown_parameter")


def _reject_unsupported_parts(messages: Any) -> None:
    for at, entry in enumerate(messages if isinstance(messages, list) else ()):
        content = entry.get("content") if isinstance(entry, dict) else None
        for place, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in UNSUPPORTED_PARTS:
                message = f"{UNSUPPORTED_PARTS[kind]} are not supported; parts can be text and input_audio"
                raise invalid_parameter(f"messages[{at}].content[{place}]", message, "unsupported_content")


FORMS: tuple[type[BaseModel], ...] = (*_Form.__subclasses__(), ChatRequest)
FIELDS = {info.alias or name for form in FORMS for name, info in form.model_fields.items()}
"""Field names of all models; other names in a fault's location are pydantic's own."""


def invalid_parameter(param: str, message: str, code: str) -> Unprocessable:
    """The error for an invalid parameter."""
    return Unprocessable(message, code=code, details={"param": param})


def _first_fault(error: ValidationError) -> Unprocessable:
    """The error for the first fault; the other faults of a union follow from it."""
    fault = error.errors(include_url=False)[0]
    place = ""
    for step in fault["loc"]:
        if isinstance(step, int):
            place += f"[{step}]"
        elif step in FIELDS or (fault["type"] == "extra_forbidden" and step == fault["loc"][-1]):
            place += f".{step}" if place else step
    if fault["type"] == "extra_forbidden":
        return invalid_parameter(place, f"there is no parameter {place}", "unknown_parameter")
    if fault["type"].startswith("union_tag"):
        known = str(fault.get("ctx", {}).get("expected_tags", "")).replace("=", "") or "system, user, assistant, tool"
        return invalid_parameter(place, f"{place} has an unknown type; known are: {known}", "invalid_value")
    code = "missing_required_parameter" if fault["type"] == "missing" else "invalid_value"
    return invalid_parameter(place, f"{place} {describe_validation_error(fault)}", code)
