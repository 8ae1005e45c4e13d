"""The body of `POST /v1/responses`: its schema, and how it is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai.chat_messages import NAME, part_tag, text_or_parts
from chatapi.interfaces.http.openai.chat_parameters import (
    FunctionSchema,
    JsonFormat,
    Schema,
    TextFormat,
    reject_unsupported_parts,
)
from chatapi.interfaces.http.openai.generation_parameters import SamplingParameters
from chatapi.interfaces.http.openai.parameter_parsing import RequestObject, invalid_parameter, parse_object
from chatapi.interfaces.http.openai.parameter_table import RESPONSES
from chatapi.interfaces.http.openai.response_items import Id, Item


class FlatTool(FunctionSchema):
    """A function that the model may call."""

    type: Literal["function"]


class FlatToolChoice(RequestObject):
    """A function that the model must call."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=NAME)]


class AllowedTools(RequestObject):
    """The functions that the model may call, or one of which it must call."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[FlatToolChoice], Field(min_length=1, max_length=128)]


class FlatSchemaFormat(Schema):
    """A JSON schema for the answer."""

    type: Literal["json_schema"]


class TextOptions(RequestObject):
    """Options of the answer's text."""

    format: (
        Annotated[
            Annotated[TextFormat, Tag("=text")]
            | Annotated[JsonFormat, Tag("=json_object")]
            | Annotated[FlatSchemaFormat, Tag("=json_schema")],
            Discriminator(part_tag),
        ]
        | None
    ) = None


class ConversationId(RequestObject):
    """A conversation by its id."""

    id: Id


class ResponsesRequest(SamplingParameters):
    """A request for a response, which is stored unless `store` is false."""

    model_config = ConfigDict(json_schema_extra=RESPONSES.add_ignored)

    input: Annotated[
        Annotated[str, Tag("=text")] | Annotated[list[Item], Field(max_length=1000), Tag("=parts")],
        Discriminator(text_or_parts),
    ] = ""
    """The user's text, or items: messages, function calls and their results."""
    model: Annotated[str, Field(max_length=200)] = "default"
    instructions: str | None = None
    """System prompt of this response alone; without one the box's llm.text_system_prompt."""
    previous_response_id: Id | None = None
    """Id of a stored response, which this one continues."""
    conversation: Id | ConversationId | None = None
    """A conversation of /v1/conversations, which the response continues and to which its items are added."""
    store: bool = True
    """Whether the response is stored, so that another can continue it; false keeps nothing but the conversation's."""
    stream: bool = False
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Longest answer, in tokens; limited by the remaining context, which is the default."""
    text: TextOptions | None = None
    tools: Annotated[list[FlatTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatToolChoice | AllowedTools | None = None
    parallel_tool_calls: bool = True
    include: list[str] | None = None
    """message.output_text.logprobs: the tokens' log-probabilities; other values have no effect."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    """Labels, which are returned with the response."""

    @property
    def conversation_id(self) -> str | None:
        """Id of the conversation that the response continues."""
        return self.conversation.id if isinstance(self.conversation, ConversationId) else self.conversation


def parse_body(values: Mapping[str, Any], ignored: IgnoredParameters) -> ResponsesRequest:
    """Parses a JSON object; adds the names of what has no effect to `ignored`.

    Raises Unprocessable with the invalid `param` in its details.
    """
    if values.get("background") is True:
        message = "background is not supported: the response is sent when it is complete, or streamed"
        raise invalid_parameter("background", message, "unsupported_parameter")
    reject_unsupported_parts(values.get("input"), "input")
    if values.get("conversation") is not None and values.get("previous_response_id") is not None:
        message = "conversation and previous_response_id exclude each other; send one of them"
        raise invalid_parameter("conversation", message, "invalid_value")
    _reject_unsupported_tools(values.get("tools"))
    return parse_object(ResponsesRequest, values, RESPONSES, ignored)


def _reject_unsupported_tools(tools: Any) -> None:
    """Raises Unprocessable (unsupported_parameter) for tools that OpenAI's servers run."""
    for at, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            message = f"tools of the type {kind[:50]} are not supported; the type function is"
            raise invalid_parameter(f"tools[{at}].type", message, "unsupported_parameter")
