"""The body of `POST /v1/chat/completions`: its schema, and how it is parsed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from chatapi.engines import Tool
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai.chat_messages import NAME, AnyMessage, part_tag
from chatapi.interfaces.http.openai.generation_parameters import GenerationParameters
from chatapi.interfaces.http.openai.parameter_parsing import RequestObject, invalid_parameter, parse_object
from chatapi.interfaces.http.openai.parameter_table import CHAT
from chatapi.interfaces.http.openai_aliases import VoiceId

MOST_CHOICES = 8
"""Most completions of one request."""


class FunctionSchema(RequestObject):
    """A function that the model may call. When a call is required, its arguments conform to the parameters."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; a function without one takes none."""
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        """The function as a tool of the language model."""
        parameters = self.parameters or {"type": "object", "properties": {}}
        return Tool(self.name, self.description or "", parameters, bool(self.strict))


class FunctionTool(RequestObject):
    type: Literal["function"]
    function: FunctionSchema


class ChosenFunctionName(RequestObject):
    name: Annotated[str, Field(pattern=NAME)]


class ChosenTool(RequestObject):
    type: Literal["function"]
    function: ChosenFunctionName


class AllowedToolNames(RequestObject):
    """The functions that the model may call, or one of which it must call."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[ChosenTool], Field(min_length=1, max_length=128)]

    def among(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """These of the tools. Raises Unprocessable for one that is not among them."""
        return only_allowed(tools, [each.function.name for each in self.tools])


class AllowedChatTools(RequestObject):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolNames


def only_allowed(tools: Sequence[Tool], names: Collection[str]) -> tuple[Tool, ...]:
    """The tools with these names. Raises Unprocessable (invalid_value) for a name that no tool has."""
    if missing := set(names).difference(tool.name for tool in tools):
        message = f"tool_choice allows {min(missing)!r}, which is not among the tools"
        raise invalid_parameter("tool_choice", message, "invalid_value")
    return tuple(tool for tool in tools if tool.name in names)


class AudioOptions(RequestObject):
    """Options of the spoken answer."""

    voice: Annotated[str, Field(min_length=1, max_length=200)] | VoiceId
    """A voice from /v1/models or /models, or one of OpenAI's names: the box's default voice."""
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"]
    """pcm16 is 24 kHz, mono, little-endian; the only format with stream=true."""


class TextFormat(RequestObject):
    type: Literal["text"]


class JsonFormat(RequestObject):
    type: Literal["json_object"]


class Schema(RequestObject):
    """A JSON schema for the answer."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str | None = None
    """Purpose of the schema; it is part of the prompt."""
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None
    """Whether the answer must conform exactly; the engines of the box always conform."""


class SchemaFormat(RequestObject):
    type: Literal["json_schema"]
    json_schema: Schema


Format = Annotated[
    Annotated[TextFormat, Tag("=text")]
    | Annotated[JsonFormat, Tag("=json_object")]
    | Annotated[SchemaFormat, Tag("=json_schema")],
    Discriminator(part_tag),
]


class ChatRequest(GenerationParameters):
    """A conversation to complete. Nothing of it is stored."""

    model_config = ConfigDict(json_schema_extra=CHAT.add_ignored)

    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=1000)]
    """The whole conversation; without a system message it gets the box's llm.text_system_prompt, or llm.system_prompt
    when the answer is spoken."""
    model: Annotated[str, Field(max_length=200)] = "default"
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    """text, or text and audio."""
    audio: AudioOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Longest completion, in tokens; limited by the remaining context, which is the default."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The newer name of max_tokens."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    """Number of completions; they are generated one after the other."""
    response_format: Format | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | AllowedChatTools | None = None
    parallel_tool_calls: bool = True
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


UNSUPPORTED_PARTS = {"image_url": "images", "input_image": "images", "file": "files", "input_file": "files",
                     "video_url": "videos"}  # fmt: skip
"""Types of message parts that are not supported, with the plural for error messages."""


def parse_body(values: Mapping[str, Any], ignored: IgnoredParameters) -> ChatRequest:
    """Parses a JSON object; adds the names of what has no effect to `ignored`.

    Raises Unprocessable with the invalid `param` in its details.
    """
    reject_unsupported_parts(values.get("messages"), "messages")
    return parse_object(ChatRequest, values, CHAT, ignored)


def reject_unsupported_parts(messages: Any, param: str) -> None:
    """Raises Unprocessable (unsupported_content) for images, files and videos in the parameter's messages."""
    for at, entry in enumerate(messages if isinstance(messages, list) else ()):
        content = entry.get("content") if isinstance(entry, dict) else None
        for place, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in UNSUPPORTED_PARTS:
                message = f"{UNSUPPORTED_PARTS[kind]} are not supported; parts can be text and input_audio"
                raise invalid_parameter(f"{param}[{at}].content[{place}]", message, "unsupported_content")
