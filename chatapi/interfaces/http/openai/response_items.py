"""The input items of `POST /v1/responses`, and the chat messages they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from chatapi.events import ToolCall
from chatapi.interfaces.http.openai import replayed_messages
from chatapi.interfaces.http.openai.chat_messages import (
    AudioPart,
    FunctionCallPart,
    ReasoningPart,
    RefusalPart,
    Text,
    part_tag,
    text_or_parts,
)
from chatapi.interfaces.http.openai.parameter_parsing import RequestObject
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.turns.chat_completion import ChatMessage

Id = Annotated[str, Field(min_length=1, max_length=200)]
ItemParts = Annotated[
    list[
        Annotated[
            Text
            | Annotated[AudioPart, Tag("=input_audio")]
            | Annotated[RefusalPart, Tag("=refusal")]
            | Annotated[ReasoningPart, Tag("=thinking")],
            Discriminator(part_tag),
        ]
    ],
    Field(max_length=100),
]
ItemContent = Annotated[
    Annotated[str, Tag("=text")] | Annotated[ItemParts, Tag("=parts")], Discriminator(text_or_parts)
]


class InputMessage(RequestObject):
    """A message; earlier answers may be sent again as they were received."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: ItemContent | None
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class InputCall(FunctionCallPart):
    """An earlier function call of the model."""

    type: Literal["function_call"]
    call_id: Id
    id: str | None = None
    status: str | None = None


class InputCallOutput(RequestObject):
    """The result of a function call."""

    type: Literal["function_call_output"]
    call_id: Id
    output: ItemContent | None
    id: str | None = None
    status: str | None = None


class InputReasoning(RequestObject):
    """Reasoning of the model in an earlier answer; it is left out of the prompt."""

    type: Literal["reasoning"]
    id: Any = None
    summary: Any = None
    content: Any = None
    encrypted_content: Any = None
    status: Any = None


class InputReference(RequestObject):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: Id


def item_tag(item: Any) -> str | None:
    """The tag of an item's model, for pydantic."""
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    if kind is None and isinstance(item, dict):
        kind = "message" if "role" in item else "item_reference"
    return f"={kind}" if isinstance(kind, str) else None


Item = Annotated[
    Annotated[InputMessage, Tag("=message")]
    | Annotated[InputCall, Tag("=function_call")]
    | Annotated[InputCallOutput, Tag("=function_call_output")]
    | Annotated[InputReasoning, Tag("=reasoning")]
    | Annotated[InputReference, Tag("=item_reference")],
    Discriminator(item_tag),
]


def messages(items: Sequence[Item], spool: Spool) -> list[ChatMessage]:
    """The messages of the items, with audio as files; calls belong to the message before them.

    Raises Unprocessable that names the faulty part.
    """
    found: list[ChatMessage] = []
    for at, item in enumerate(items):
        place = f"input[{at}]"
        if isinstance(item, InputMessage):
            role = "system" if item.role == "developer" else item.role
            found.append(ChatMessage(role, replayed_messages.parts(item.content, place, spool)))
        elif isinstance(item, InputCall):
            add_call(found, ToolCall(item.call_id, item.name, item.arguments))
        elif isinstance(item, InputCallOutput):
            parts = replayed_messages.parts(item.output, place, spool)
            found.append(ChatMessage("tool", parts, tool_call_id=item.call_id))
    return found


def add_call(found: list[ChatMessage], call: ToolCall) -> None:
    """Adds a call to the last message when that is the assistant's, else as a message of its own."""
    if found and found[-1].role == "assistant":
        found[-1] = replace(found[-1], tool_calls=(*found[-1].tool_calls, call))
    else:
        found.append(ChatMessage("assistant", ("",), (call,)))
