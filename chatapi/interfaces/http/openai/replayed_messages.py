"""Turns the messages that a client sends, which replay its conversation, into those of a `ChatTurn`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatapi.audio.decode import Source
from chatapi.events import ToolCall
from chatapi.interfaces.http.json_body import decode_base64
from chatapi.interfaces.http.openai import chat_messages
from chatapi.interfaces.http.openai.chat_messages import AnyMessage
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.turns.chat_completion import ChatMessage


def messages(sent: Sequence[AnyMessage], spool: Spool) -> tuple[ChatMessage, ...]:
    """The messages, with audio as files. Raises Unprocessable that names the faulty part."""
    found = [_message(each, f"messages[{at}]", spool) for at, each in enumerate(sent)]
    # A prefix to continue starts without a name, as its completion does.
    named = [_with_name(each, source) for each, source in zip(found[:-1], sent[:-1], strict=True)]
    last = found[-1] if found[-1].role == "assistant" else _with_name(found[-1], sent[-1])
    if named and _is_empty(last) and last.role == "assistant":
        # An empty prefix: the answer that is wanted.
        return tuple(named)
    return (*named, last)


def _with_name(message: ChatMessage, source: AnyMessage) -> ChatMessage:
    """The message with the participant's name before its content."""
    name = None if isinstance(source, chat_messages.ToolMessage) else source.name
    return replace(message, parts=(f"{name}:", *message.parts)) if name and any(message.parts) else message


def _is_empty(message: ChatMessage) -> bool:
    return not (any(message.parts) or message.tool_calls or message.audio_id)


def _message(message: AnyMessage, place: str, spool: Spool) -> ChatMessage:
    if isinstance(message, chat_messages.AssistantMessage):
        return _assistant_message(message, place, spool)
    texts = parts(message.content, place, spool)
    if isinstance(message, chat_messages.ToolMessage):
        return ChatMessage("tool", texts, tool_call_id=message.tool_call_id)
    return ChatMessage("user" if isinstance(message, chat_messages.UserMessage) else "system", texts)


def _assistant_message(message: chat_messages.AssistantMessage, place: str, spool: Spool) -> ChatMessage:
    texts = parts(message.content, place, spool)
    texts += (message.refusal,) if message.refusal else ()
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    spoken = message.audio
    if spoken is not None and not any(texts):
        texts = (spoken.transcript,) if spoken.transcript else ()
    return ChatMessage("assistant", texts, calls, audio_id=spoken.id if spoken is not None else "")


def parts(content: str | Sequence[Any] | None, place: str, spool: Spool) -> tuple[str | Source, ...]:
    """The texts of a content, and its audio as files. Raises Unprocessable for audio that is not base64."""
    if content is None or isinstance(content, str):
        return (content or "",)
    found = (_part(part, f"{place}.content[{at}]", spool) for at, part in enumerate(content))
    return tuple(part for part in found if part is not None)


def _part(part: Any, place: str, spool: Spool) -> str | Source | None:
    """The text or the file of a part; None for one that the prompt leaves out."""
    if isinstance(part, chat_messages.ReasoningPart):
        return None
    if isinstance(part, chat_messages.AudioPart):
        try:
            return spool.stored(decode_base64(part.input_audio.data))
        except ValueError as error:
            param = f"{place}.input_audio.data"
            raise invalid_parameter(param, f"{param} is not base64: {error}", "invalid_audio") from None
    return part.refusal if isinstance(part, chat_messages.RefusalPart) else str(part.text)
