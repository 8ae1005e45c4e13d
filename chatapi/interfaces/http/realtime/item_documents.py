"""Conversation items as JSON objects of OpenAI's Realtime API."""

from __future__ import annotations

from typing import Any

from chatapi.errors import BadInput, Unprocessable
from chatapi.events import ToolCall
from chatapi.interfaces.http.realtime.client_events import FunctionCallItem, FunctionOutputItem, MessageItem
from chatapi.services.live.items import CallItem, Item, new_id

KINDS = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


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


def parse(message: MessageItem | FunctionCallItem | FunctionOutputItem) -> Item:
    """The item for a client's description. Raises BadInput, Unprocessable."""
    item_id = message.id or new_id("item")
    if isinstance(message, FunctionCallItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, message.name, message.arguments))
    if isinstance(message, FunctionOutputItem):
        return CallItem("", message.type, id=item_id, call=ToolCall(message.call_id, "", ""), output=message.output)
    kind = KINDS[message.role]
    if any(content.type != kind for content in message.content):
        raise Unprocessable(f"the content of a {message.role} item must be {kind}", details={"param": "item.content"})
    text = "\n".join(content.text for content in message.content).strip()
    if not text:
        raise BadInput("the item has no text", code="empty_item")
    return Item(message.role, kind, text, item_id)
