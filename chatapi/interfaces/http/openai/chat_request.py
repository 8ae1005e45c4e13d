"""A request for a chat completion as a `ChatTurn`, and the form its reply is to have."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request

from chatapi.appliance import Appliance
from chatapi.audio import Source
from chatapi.engines import Sampling, Tool
from chatapi.errors import Unprocessable
from chatapi.events import ToolCall
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.json_body import check_plain, decoded, json_body
from chatapi.interfaces.http.openai import chat_body
from chatapi.interfaces.http.openai.chat_body import ChatRequest, wrong
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn
from chatapi.services.turns.completion import MAX_SEED


@dataclass(frozen=True)
class ChatCompletionRequest:
    """A request understood."""

    turn: ChatTurn
    model: str
    """As it was asked for."""
    stream: bool
    usage: bool
    """Whether the stream ends with the tokens used."""
    audio: str | None
    """The form of its sound; None: text only."""
    logprobs: bool


async def read(request: Request, appliance: Appliance) -> ChatCompletionRequest:
    """Understand a request. Raises CallerError with the `param` that is wrong in its details."""
    asked, said = await json_body(request, "messages", partial(_understood, Spool.of(request)))
    audio = _audio(asked)
    turn = _turn(asked, said, appliance, audio is not None)
    return ChatCompletionRequest(
        turn=replace(turn, traceparent=request.headers.get("traceparent", "")),
        model=openai_aliases.model(appliance, "llm", asked.model),
        stream=asked.stream,
        usage=asked.stream_options is not None and asked.stream_options.include_usage,
        audio=audio,
        logprobs=asked.logprobs,
    )


def _understood(spool: Spool, values: dict[str, Any]) -> tuple[ChatRequest, tuple[ChatMessage, ...]]:
    """The request, and its messages with their sound as files. For a thread where they are large."""
    check_plain(values)
    asked = chat_body.understood(values)
    _check_together(asked)
    said = [_said(message, f"messages[{at}]", spool) for at, message in enumerate(asked.messages)]
    # What is gone on with begins as its answer will.
    named = [_named(each, message) for each, message in zip(said[:-1], asked.messages[:-1], strict=True)]
    last = said[-1] if said[-1].role == "assistant" else _named(said[-1], asked.messages[-1])
    return asked, (*named, last)


def _named(said: ChatMessage, message: chat_body.AnyMessage) -> ChatMessage:
    """With whose words they are before them."""
    name = None if isinstance(message, chat_body.ToolMessage) else message.name
    return replace(said, parts=(f"{name}:", *said.parts)) if name and any(said.parts) else said


def _check_together(asked: ChatRequest) -> None:
    """What no single parameter tells. Raises Unprocessable."""
    if asked.n > 1:
        raise wrong("n", f"n is {asked.n}; one answer is given: ask again for another", "unsupported_value")
    if asked.top_logprobs is not None and not asked.logprobs:
        raise wrong("top_logprobs", "top_logprobs goes with logprobs=true", "invalid_value")
    if asked.stream_options is not None and not asked.stream:
        raise wrong("stream_options", "stream_options goes with stream=true", "invalid_value")
    if None not in (asked.max_tokens, asked.max_completion_tokens) and asked.max_tokens != asked.max_completion_tokens:
        told = "max_tokens and max_completion_tokens mean the same and differ; send one of them"
        raise wrong("max_tokens", told, "invalid_value")


def _audio(asked: ChatRequest) -> str | None:
    """The form of the spoken answer; None: it is not to be spoken. Raises Unprocessable."""
    modalities = asked.modalities or ["text"]
    speaks = "audio" in modalities
    if "text" not in modalities:
        raise wrong("modalities", 'modalities must hold "text"; sound comes with ["text", "audio"]', "invalid_value")
    if speaks and asked.audio is None:
        raise wrong("audio", 'the modality "audio" needs audio with a voice and a format', "missing_required_parameter")
    if asked.audio is None:
        return None
    if not speaks:
        raise wrong("audio", 'audio goes with modalities=["text", "audio"]', "invalid_value")
    if asked.stream and asked.audio.format != "pcm16":
        told = f"audio.format is {asked.audio.format}; with stream=true it can be pcm16 only"
        raise wrong("audio.format", told, "unsupported_value")
    return asked.audio.format


def _turn(asked: ChatRequest, said: tuple[ChatMessage, ...], appliance: Appliance, speak: bool) -> ChatTurn:
    schema = asked.response_format.json_schema if isinstance(asked.response_format, chat_body.SchemaFormat) else None
    return ChatTurn(
        messages=said,
        speak=speak,
        voice=_voice(asked.audio, appliance) if speak and asked.audio else None,
        audio_id=f"audio_{secrets.token_hex(16)}" if speak else "",
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        # Ours are shorter; that the same one gives the same answer is all that is asked of it.
        seed=None if asked.seed is None else asked.seed % (MAX_SEED + 1),
        sampling=_sampling(asked),
        schema_description=schema.description or "" if schema is not None else "",
    )


def _voice(audio: chat_body.AudioOptions, appliance: Appliance) -> str | None:
    try:
        return openai_aliases.voice(appliance, audio.voice)
    except Unprocessable as error:
        error.details["param"] = "audio.voice"
        raise


def _sampling(asked: ChatRequest) -> Sampling:
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    tools = asked.tools or []
    form = asked.response_format
    schema: dict[str, Any] | None = None
    if isinstance(form, chat_body.SchemaFormat):
        schema = form.json_schema.schema_
    elif isinstance(form, chat_body.JsonFormat):
        schema = {"type": "object"}
    return Sampling(
        stop_texts=tuple(stops),
        # OpenAI's own defaults, which clients send unasked.
        top_p=None if asked.top_p == 1 else asked.top_p,
        frequency_penalty=asked.frequency_penalty or None,
        presence_penalty=asked.presence_penalty or None,
        logit_bias={int(token): bias for token, bias in (asked.logit_bias or {}).items()},
        logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        schema=schema,
        strict=isinstance(form, chat_body.SchemaFormat) and bool(form.json_schema.strict),
        tools=tuple(_tool(tool.function) for tool in tools),
        tool_choice=_choice(asked, tools),
        parallel=asked.parallel_tool_calls,
    )


def _tool(function: chat_body.FunctionSchema) -> Tool:
    return Tool(function.name, function.description, function.parameters, bool(function.strict))


def _choice(asked: ChatRequest, tools: Sequence[chat_body.FunctionTool]) -> str:
    if isinstance(asked.tool_choice, chat_body.ChosenTool):
        return f":{asked.tool_choice.function.name}"
    return asked.tool_choice or ("auto" if tools else "none")


def _said(message: Any, place: str, spool: Spool) -> ChatMessage:
    if isinstance(message, chat_body.UserMessage):
        return ChatMessage("user", _parts(message.content, place, spool))
    if isinstance(message, chat_body.ToolMessage):
        return ChatMessage("tool", _parts(message.content, place, spool), tool_call_id=message.tool_call_id)
    if isinstance(message, chat_body.SystemMessage):
        return ChatMessage("system", _parts(message.content, place, spool))
    return _answered(message, place, spool)


def _answered(message: chat_body.AssistantMessage, place: str, spool: Spool) -> ChatMessage:
    parts = _parts(message.content or "", place, spool)
    parts += (message.refusal,) if message.refusal else ()
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    spoken = message.audio
    if spoken is not None and not any(parts):
        parts = (spoken.transcript,) if spoken.transcript else ()
    if not any(parts) and not calls and spoken is None:
        raise wrong(f"{place}.content", f"{place} holds neither content nor tool_calls", "invalid_value")
    return ChatMessage("assistant", parts, calls, audio_id=spoken.id if spoken is not None else "")


def _parts(content: str | Sequence[Any], place: str, spool: Spool) -> tuple[str | Source, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(_part(part, f"{place}.content[{at}]", spool) for at, part in enumerate(content))


def _part(part: Any, place: str, spool: Spool) -> str | Source:
    if isinstance(part, chat_body.AudioPart):
        try:
            return spool.kept(decoded(part.input_audio.data))
        except ValueError as error:
            param = f"{place}.input_audio.data"
            raise wrong(param, f"{param} is not base64: {error}", "invalid_audio") from None
    return part.refusal if isinstance(part, chat_body.RefusalPart) else str(part.text)
