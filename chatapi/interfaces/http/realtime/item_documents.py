"""Conversation items as JSON objects of OpenAI's Realtime API."""

from __future__ import annotations

from typing import Any

from chatapi.events import ToolCall
from chatapi.interfaces.http.realtime.client_items import ClientItem, Content, FunctionCallItem, FunctionOutputItem
from chatapi.services.live.conversation_item import CallItem, Item, new_id

SPOKEN = {"user": "input_audio", "assistant": "output_audio"}
"""Role -> kind of an item with audio; other roles have only text."""
WRITTEN = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


def document(item: Item, empty: bool = False) -> dict[str, Any]:
    """The JSON object that is sent; `empty`: before it has content. Audio is not kept."""
    if isinstance(item, CallItem):
        return _call_document(item, empty)
    part = {"type": item.kind, "transcript" if item.kind.endswith("audio") else "text": item.text}
    return {
        "id": item.id,
        "object": "realtime.item",
        "type": "message",
        "status": item.status,
        "role": item.role,
        "content": [] if empty else [part],
    }


def _call_document(item: CallItem, empty: bool) -> dict[str, Any]:
    call = {"id": item.id, "object": "realtime.item", "type": item.kind, "status": item.status, "call_id": item.call.id}
    if item.output is not None:
        return {**call, "output": item.output}
    return {**call, "name": item.call.name, "arguments": "" if empty else item.call.arguments}


def parse(message: ClientItem) -> Item:
    """The item for a client's description, whose audio has transcripts."""
    item_id = message.id or new_id("item")
    if isinstance(message, FunctionCallItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, message.name, message.arguments))
    if isinstance(message, FunctionOutputItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, "", ""), output=message.output)
    text = "\n".join(filter(None, (_text(content) for content in message.content))).strip()
    spoken = message.role in SPOKEN and any(content.type.endswith("audio") for content in message.content)
    return Item(message.role, (SPOKEN if spoken else WRITTEN)[message.role], text, item_id)


def _text(content: Content) -> str:
    return content.transcript if content.type.endswith("audio") else content.text
