"""Client events of OpenAI's Realtime API, and our two additions, which `Extension` documents.

Fields of OpenAI's models without an effect here (noise reduction, tracing, truncation, ...) and unknown fields are
ignored, and unknown ones named in the log; a misspelled field is rejected with the right name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import from_json

from chatapi.errors import BadInput, TooLarge, Unprocessable
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.realtime.client_items import ClientItem
from chatapi.interfaces.http.realtime.event_part import LONGEST_MS, EventPart, Id, parsed
from chatapi.interfaces.http.realtime.session_config import ResponseConfig
from chatapi.interfaces.json_bounds import DEEPEST, check_values, too_deep

MOST_VALUES = 20_000
"""Most commas and brackets in an event."""
MOST_CHARS = 512 << 10
"""Longest event without audio, in characters."""


class ClientEvent(EventPart):
    """The fields of every client event."""

    type: str
    event_id: Id | None = None


class SessionUpdate(ClientEvent):
    session: dict[str, Any]


class AudioAppend(ClientEvent):
    audio: str


class ItemCreate(ClientEvent):
    item: Annotated[ClientItem, Field(discriminator="type")]
    previous_item_id: Id | None = None


class ItemEvent(ClientEvent):
    """`conversation.item.delete` and `.retrieve`."""

    item_id: Id


class ItemTruncate(ClientEvent):
    item_id: Id
    content_index: Literal[0] = 0
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
    "transcription_session.update": SessionUpdate,
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
    if len(text) > MOST_CHARS and (chars := len(text) - _audio_chars(document)) > MOST_CHARS:
        raise TooLarge(
            f"the event has {chars} characters; at most {MOST_CHARS} are allowed without audio",
            code="event_too_large",
            details={"limit_chars": MOST_CHARS},
        )
    return document


def _audio_chars(document: Mapping[str, Any]) -> int:
    """Characters of base64 in an event: in an append, or in the parts of items."""
    if document.get("type") == "input_audio_buffer.append":
        return len(str(document.get("audio", "")))
    response = document.get("response")
    items = response.get("input") if isinstance(response, dict) else [document.get("item")]
    contents = [item.get("content") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return sum(len(audio) for part in parts if isinstance(audio := part.get("audio"), str))


def parse_event(document: Mapping[str, Any], ignored: IgnoredParameters) -> ClientEvent:
    """Validates an event; adds the names of its unknown fields to `ignored`.

    Raises Unprocessable with the invalid field in `details.param`.
    """
    kind = document.get("type")
    model = EVENTS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise Unprocessable(f"there is no event {kind!r}; there are: {', '.join(EVENTS)}", details={"param": "type"})
    return parsed(model, document, ignored)
