"""A request for a chat completion as a `ChatTurn`, and the form its reply is to have."""

from __future__ import annotations

import base64
import binascii
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from chatapi.abilities.chat import ChatTurn, Said
from chatapi.abilities.conversation import LAST_SEED
from chatapi.appliance import Appliance
from chatapi.engines import Sampling, Tool
from chatapi.errors import BadInput, Unprocessable, Unsupported
from chatapi.events import Call
from chatapi.faces.web import names
from chatapi.faces.web.openai import chat_body as body
from chatapi.faces.web.openai.chat_body import ChatRequest, wrong
from chatapi.faces.web.requests import json_object

DEEPEST = 64
"""Levels of a body; a schema of more is no schema anybody wrote."""


@dataclass(frozen=True)
class Asked:
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


async def read(request: Request, appliance: Appliance) -> Asked:
    """Understand a request. Raises CallerError with the `param` that is wrong in its details."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Unsupported(
            f"the media type {media_type or '(none)'} is not taken; send application/json",
            code="unsupported_media_type",
        )
    values = json_object(await request.body(), "messages")
    _check_plain(values)
    asked = body.understood(values)
    _check_together(asked)
    audio = _audio(asked)
    return Asked(
        turn=replace(_turn(asked, appliance, audio is not None), traceparent=request.headers.get("traceparent", "")),
        model=names.model(appliance, "llm", asked.model),
        stream=asked.stream,
        usage=asked.stream_options is not None and asked.stream_options.include_usage,
        audio=audio,
        logprobs=asked.logprobs,
    )


def _check_plain(values: Any) -> None:
    """Nothing in it that only Python takes for JSON. Raises BadInput (invalid_json)."""
    level, depth = [values], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise BadInput(f"the body is nested more than {DEEPEST} levels deep", code="invalid_json")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                _check_text(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise BadInput("the body holds a number that is none, or too large", code="invalid_json")
        level = inner


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput("the body holds lone surrogates, which are not text", code="invalid_json") from None
    if "\0" in text:
        raise BadInput("the body holds NUL, which is not text", code="invalid_json")


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


def _turn(asked: ChatRequest, appliance: Appliance, speak: bool) -> ChatTurn:
    schema = asked.response_format.json_schema if isinstance(asked.response_format, body.SchemaFormat) else None
    return ChatTurn(
        messages=tuple(_said(message, f"messages[{at}]") for at, message in enumerate(asked.messages)),
        speak=speak,
        voice=_voice(asked.audio, appliance) if speak and asked.audio else None,
        spoken=f"audio_{secrets.token_hex(16)}" if speak else "",
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        temperature=asked.temperature,
        # Ours are shorter; that the same one gives the same answer is all that is asked of it.
        seed=None if asked.seed is None else asked.seed % (LAST_SEED + 1),
        sampling=_sampling(asked),
        form=schema.description or "" if schema is not None else "",
    )


def _voice(audio: body.AudioOptions, appliance: Appliance) -> str | None:
    wanted = audio.voice if isinstance(audio.voice, str) else audio.voice.id
    try:
        return names.voice(appliance, wanted)
    except Unprocessable as error:
        error.details["param"] = "audio.voice"
        raise


def _sampling(asked: ChatRequest) -> Sampling:
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    tools = asked.tools or []
    form = asked.response_format
    schema: dict[str, Any] | None = None
    if isinstance(form, body.SchemaFormat):
        schema = form.json_schema.schema_
    elif isinstance(form, body.JsonFormat):
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
        strict=isinstance(form, body.SchemaFormat) and bool(form.json_schema.strict),
        tools=tuple(_tool(tool.function) for tool in tools),
        tool_choice=_choice(asked, tools),
        parallel=asked.parallel_tool_calls,
    )


def _tool(function: body.Function) -> Tool:
    return Tool(function.name, function.description, function.parameters, bool(function.strict))


def _choice(asked: ChatRequest, tools: Sequence[body.FunctionTool]) -> str:
    if isinstance(asked.tool_choice, body.ChosenTool):
        return f":{asked.tool_choice.function.name}"
    return asked.tool_choice or ("auto" if tools else "none")


def _said(message: Any, place: str) -> Said:
    if isinstance(message, body.UserMessage):
        parts = _parts(message.content, place)
        return Said("user", (f"{message.name}:", *parts) if message.name else parts)
    if isinstance(message, body.ToolMessage):
        return Said("tool", _parts(message.content, place), call=message.tool_call_id)
    if isinstance(message, body.SystemMessage):
        return Said("system", _parts(message.content, place))
    return _answered(message, place)


def _answered(message: body.AssistantMessage, place: str) -> Said:
    parts = _parts(message.content or "", place)
    parts += (message.refusal,) if message.refusal else ()
    calls = tuple(Call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    spoken = message.audio
    if spoken is not None and not any(parts):
        parts = (spoken.transcript,) if spoken.transcript else ()
    if not any(parts) and not calls and spoken is None:
        raise wrong(f"{place}.content", f"{place} holds neither content nor tool_calls", "invalid_value")
    return Said("assistant", parts, calls, spoken=spoken.id if spoken is not None else "")


def _parts(content: str | Sequence[Any], place: str) -> tuple[str | bytes, ...]:
    if isinstance(content, str):
        return (content,)
    return tuple(_part(part, f"{place}.content[{at}]") for at, part in enumerate(content))


def _part(part: Any, place: str) -> str | bytes:
    if isinstance(part, body.AudioPart):
        try:
            return base64.b64decode(part.input_audio.data, validate=True)
        except (binascii.Error, ValueError) as error:
            param = f"{place}.input_audio.data"
            raise wrong(param, f"{param} is not base64: {error}", "invalid_audio") from None
    return part.refusal if isinstance(part, body.RefusalPart) else str(part.text)
