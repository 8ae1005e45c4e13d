"""Conversation items as clients describe them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from chatapi.interfaces.http.realtime.event_part import NAME, EventPart, Id, Text

CONTENT_TYPES = {"text": {"assistant": "output_text"}, "audio": {"assistant": "output_audio"}}
"""Type of a part in OpenAI's beta -> role of its item -> the type now; other roles have input."""
ItemId = Annotated[str, Field(min_length=1, max_length=64)]
Status = Literal["completed", "incomplete", "in_progress"]


class Content(EventPart):
    """A part of a message: text, or audio with or without its transcript."""

    type: Literal["input_text", "output_text", "input_audio", "output_audio"]
    text: Text = ""
    transcript: Text = ""
    audio: str = ""
    """Base64, in the format of the session's input audio."""


class MessageItem(EventPart):
    """A message that a client creates."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    content: list[Content] = Field([], max_length=64)
    """Its parts; clients also send one text."""
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _role(cls, value: Any) -> Any:
        return "system" if value == "developer" else value

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: Any, info: Any) -> Any:
        """Accepts a text, and the types of OpenAI's beta."""
        role = info.data.get("role", "user")
        if isinstance(value, str):
            value = [{"type": "text", "text": value}]
        if not isinstance(value, list):
            return value
        return [_current(part, role) for part in value]


class FunctionCallItem(EventPart):
    """A tool call from before this session."""

    type: Literal["function_call"]
    name: str = Field(pattern=NAME)
    arguments: Text
    call_id: str = Field(min_length=1, max_length=200)
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class FunctionOutputItem(EventPart):
    """The result of a tool call."""

    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: str = Field("", max_length=100_000)
    id: ItemId | None = None
    object: Literal["realtime.item"] | None = None
    status: Status | None = None


class ItemReference(EventPart):
    """A reference to an item of the conversation."""

    type: Literal["item_reference"]
    id: Id


ClientItem = MessageItem | FunctionCallItem | FunctionOutputItem
ResponseInput = MessageItem | FunctionCallItem | FunctionOutputItem | ItemReference
"""Input items of an out-of-band response."""


def _current(part: Any, role: str) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in CONTENT_TYPES:
        return part
    return {**part, "type": CONTENT_TYPES[kind].get(role, f"input_{kind}")}
