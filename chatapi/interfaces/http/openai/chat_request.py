"""Parses a chat completion request into a `ChatTurn` and the format of its response."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request

from chatapi.appliance import Appliance
from chatapi.engines import Sampling, Tool
from chatapi.errors import Unprocessable
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai import chat_parameters, replayed_messages
from chatapi.interfaces.http.openai.chat_parameters import ChatRequest
from chatapi.interfaces.http.openai.parameter_parsing import invalid_parameter
from chatapi.interfaces.http.spooling import Spool
from chatapi.services.turns.chat_completion import ChatMessage, ChatTurn
from chatapi.services.turns.completion import MAX_SEED


@dataclass(frozen=True)
class ChatCompletionRequest:
    """A parsed request."""

    turns: tuple[ChatTurn, ...]
    """One for each completion."""
    model: str
    """The model name in the request."""
    stream: bool
    usage: bool
    """Whether the stream ends with the token usage."""
    audio: str | None
    """The audio format; None for text only."""
    logprobs: bool


async def read(request: Request, appliance: Appliance, traceparent: str) -> ChatCompletionRequest:
    """Parses a request. Raises CallerError with the invalid `param` in its details."""
    body, messages = await json_body(request, "messages", partial(_parse, request))
    audio = _audio(body)
    turn = _turn(body, messages, appliance, audio is not None)
    sampling, dropped = appliance.chat.supported(turn.sampling)
    for name in dropped:
        IgnoredParameters.of(request).add(name)
    return ChatCompletionRequest(
        turns=_turns(replace(turn, traceparent=traceparent, sampling=sampling), body.n),
        model=openai_aliases.model(appliance, "llm", body.model),
        stream=body.stream,
        usage=body.stream and body.stream_options is not None and body.stream_options.include_usage,
        audio=audio,
        logprobs=body.logprobs,
    )


def _parse(request: Request, values: dict[str, Any]) -> tuple[ChatRequest, tuple[ChatMessage, ...]]:
    """The parsed body, and its messages with audio as files. Blocking; large bodies are parsed on a thread."""
    check_plain(values)
    ignored = IgnoredParameters.of(request)
    body = chat_parameters.parse_body(values, ignored)
    _check_combinations(body)
    if body.stream_options is not None and not body.stream:
        ignored.add("stream_options")
    return body, replayed_messages.messages(body.messages, Spool.of(request))


def _check_combinations(body: ChatRequest) -> None:
    """Checks parameters that depend on each other. Raises Unprocessable."""
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid_parameter("top_logprobs", "top_logprobs needs logprobs=true", "invalid_value")
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        message = "max_tokens and max_completion_tokens mean the same and differ; send one of them"
        raise invalid_parameter("max_tokens", message, "invalid_value")


def _audio(body: ChatRequest) -> str | None:
    """The audio format of the answer; None for text only. Raises Unprocessable."""
    modalities = body.modalities or ["text"]
    speaks = "audio" in modalities
    if "text" not in modalities:
        raise invalid_parameter(
            "modalities", 'modalities must contain "text"; for audio send ["text", "audio"]', "invalid_value"
        )
    if speaks and body.audio is None:
        raise invalid_parameter(
            "audio", 'the modality "audio" needs audio with a voice and a format', "missing_required_parameter"
        )
    if body.audio is None:
        return None
    if not speaks:
        raise invalid_parameter("audio", 'audio needs modalities=["text", "audio"]', "invalid_value")
    if body.stream and body.audio.format != "pcm16":
        message = f"audio.format is {body.audio.format}; with stream=true it must be pcm16"
        raise invalid_parameter("audio.format", message, "unsupported_value")
    return body.audio.format


def _turn(body: ChatRequest, messages: tuple[ChatMessage, ...], appliance: Appliance, speak: bool) -> ChatTurn:
    schema = (
        body.response_format.json_schema if isinstance(body.response_format, chat_parameters.SchemaFormat) else None
    )
    return ChatTurn(
        messages=messages,
        speak=speak,
        voice=_voice(body.audio, appliance) if speak and body.audio else None,
        audio_id=_audio_id() if speak else "",
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        # Our seeds are shorter; only equal seeds must give equal completions.
        seed=None if body.seed is None else body.seed % (MAX_SEED + 1),
        sampling=_sampling(body),
        fills_context=True,
        has_default_system=True,
        reasoning=True,
        schema_description=schema.description or "" if schema is not None else "",
    )


def _turns(turn: ChatTurn, number: int) -> tuple[ChatTurn, ...]:
    """The turn as many times, with seeds and audio ids of their own."""
    more = tuple(
        replace(
            turn,
            seed=None if turn.seed is None else (turn.seed + index) % (MAX_SEED + 1),
            audio_id=_audio_id() if turn.speak else "",
        )
        for index in range(1, number)
    )
    return (turn, *more)


def _audio_id() -> str:
    return f"audio_{secrets.token_hex(16)}"


def _voice(audio: chat_parameters.AudioOptions, appliance: Appliance) -> str | None:
    try:
        return openai_aliases.voice(appliance, audio.voice)
    except Unprocessable as error:
        error.details["param"] = "audio.voice"
        raise


def _sampling(body: ChatRequest) -> Sampling:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    tools, choice = _tools(body)
    form = body.response_format
    schema: dict[str, Any] | None = None
    if isinstance(form, chat_parameters.SchemaFormat):
        schema = form.json_schema.schema_
    elif isinstance(form, chat_parameters.JsonFormat):
        schema = {"type": "object"}
    return Sampling(
        stop_texts=tuple(stops),
        # OpenAI's defaults, which clients send by themselves.
        top_p=None if body.top_p == 1 else body.top_p,
        frequency_penalty=body.frequency_penalty or None,
        presence_penalty=body.presence_penalty or None,
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        schema=schema,
        strict=isinstance(form, chat_parameters.SchemaFormat) and bool(form.json_schema.strict),
        tools=tools,
        tool_choice=choice,
        parallel=body.parallel_tool_calls,
    )


def _tools(body: ChatRequest) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model may call, and the choice among them."""
    tools, choice = tuple(each.function.tool for each in body.tools or ()), body.tool_choice
    if isinstance(choice, chat_parameters.AllowedChatTools):
        return choice.allowed_tools.among(tools), choice.allowed_tools.mode
    if isinstance(choice, chat_parameters.ChosenTool):
        return tools, f":{choice.function.name}"
    return tools, choice or ("auto" if tools else "none")
