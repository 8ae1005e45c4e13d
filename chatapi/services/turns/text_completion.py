"""Completions of a text: the model continues it, where the engine can, instead of answering it."""

from __future__ import annotations

from chatapi.services.turns.chat_completion import ChatCompletions, ChatMessage

CONTINUE = "Continue this text."
"""Request before the text: the templates of many models want a message of the user before the assistant's."""


def text_messages(chat: ChatCompletions, text: str) -> tuple[ChatMessage, ...]:
    """The messages whose answer continues the text. An engine that cannot continue a message answers the text.

    Raises NotReady before the engine was first loaded.
    """
    if not chat.generator.continues:
        return (ChatMessage("user", (text,)),)
    return ChatMessage("user", (CONTINUE,)), ChatMessage("assistant", (text,))
