"""Prompts of responses outside of the conversation, from conversation items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from chatapi.errors import BadInput
from chatapi.services.live.conversation_item import CallItem, Item
from chatapi.services.turns.chat_completion import ChatMessage

if TYPE_CHECKING:
    from chatapi.services.live.session import LiveSession


def out_of_band_prompt(
    session: LiveSession, items: Sequence[Item] | None, system: str | None, instructions: str | None
) -> list[ChatMessage]:
    """The prompt of a response that is not part of the conversation.

    `items`: its input; None: the conversation. `system`: its system prompt; None: that of the session. `instructions`
    are the last message where nothing else is to be answered. Raises BadInput (nothing_to_answer).
    """
    history = session.prompt_messages()
    session_system = "".join(message.text for message in history if message.role == "system")
    if items is not None:
        messages = _merged(_message(item) for item in items if item.role != "system")
    else:
        messages = [
            ChatMessage(each.role, (each.text,), each.calls, each.call) for each in history if each.role != "system"
        ]
    if messages and messages[-1].role in ("user", "tool"):
        start = session_system if system is None else session.with_system_items(system)
    elif instructions:
        # A model follows the last message.
        start = session_system
        messages.append(ChatMessage("user", (instructions,)))
    else:
        raise BadInput(
            "there is nothing to respond to; send `instructions` or `input`",
            code="nothing_to_answer",
            details={"param": "response.instructions"},
        )
    # In one message: some chat templates (Mistral's) reject a second system message.
    texts = [start, *(item.text for item in items or () if item.role == "system")]
    whole = "\n\n".join(filter(None, texts))
    return [ChatMessage("system", (whole,)), *messages] if whole else messages


def _message(item: Item) -> ChatMessage:
    if not isinstance(item, CallItem):
        return ChatMessage(item.role, (item.text or "",))
    if item.output is None:
        return ChatMessage("assistant", (), (item.call,))
    return ChatMessage("tool", (item.output,), tool_call_id=item.call.id)


def _merged(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """Merges tool calls into the preceding assistant message, as models were trained."""
    merged: list[ChatMessage] = []
    for message in messages:
        if message.tool_calls and merged and merged[-1].role == "assistant":
            before = merged.pop()
            merged.append(replace(before, tool_calls=before.tool_calls + message.tool_calls))
        else:
            merged.append(message)
    return merged
