"""`/v1/audio/speech` and `/v1/audio/voices`: speech synthesis."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.audio.encoding import FORMATS, PCM_RATE, Encoder
from chatapi.errors import InternalError
from chatapi.interfaces.http import openai_aliases, openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import Parameters, invalid_parameter, parse_parameters
from chatapi.interfaces.http.openai.parameter_table import SPEECH
from chatapi.interfaces.http.problems import Traceparent, fault
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, data_of, start
from chatapi.text.sentence_splitter import count_words
from chatapi.text.speech_parts import split_text

SHORT_TEXT = 200
"""Longest sentence whose WAV file is sent whole, in characters."""
SPEECH_TOKENS = 20
"""Tokens of one second of speech, as OpenAI counts them."""


class SpeechRequest(Parameters):
    """The body of `/v1/audio/speech`."""

    input: str
    """Text to synthesize."""
    model: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    """tts-1, default, or a voice's name from /v1/models."""
    voice: Annotated[str, Field(min_length=1, max_length=200)] | openai_aliases.VoiceId = "default"
    """A name from /v1/audio/voices; OpenAI's voice names stand for the default voice."""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    """pcm is 16-bit little-endian mono at 24 kHz, without a header."""
    speed: Annotated[float, Field(ge=0.25, le=4, allow_inf_nan=False)] = 1
    stream_format: Literal["audio", "sse"] = "audio"
    """audio: the file, streamed; sse: server-sent events with parts of it."""


class VoiceEntry(Parameters):
    """An available voice."""

    id: str
    name: str
    language: str
    """ISO 639-1 code."""
    rate: int
    """Sample rate, in hertz."""
    default: bool


class VoiceList(Parameters):
    """All available voices, under both names that clients look for."""

    object: Literal["list"] = "list"
    data: list[VoiceEntry]
    voices: list[VoiceEntry]


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1/audio")

    @routes.post(
        "/speech",
        summary="Synthesize speech, streamed",
        response_class=Response,
        responses={200: _success(), **error_responses(400, 404, 408, 413, 415, 503)},
        openapi_extra=openapi.json_body(SpeechRequest),
    )
    async def speech(request: Request, traceparent: Traceparent = "") -> Response:
        appliance.speech_service.check_admission()
        speech_request = await json_body(
            request, "input, model and voice", partial(_parse, IgnoredParameters.of(request))
        )
        return SpeechResponse(appliance, speech_request, _voice(appliance, speech_request), traceparent)

    @routes.get("/voices", summary="Available voices", responses=error_responses(503))
    async def voices() -> VoiceList:
        openai_aliases.require_models(appliance)
        known = appliance.synthesis.voices()
        entries = [
            VoiceEntry(id=each.name, name=each.name, language=each.language, rate=each.rate, default=each is known[0])
            for each in known
        ]
        return VoiceList(data=entries, voices=entries)

    return routes


def _voice(appliance: Appliance, request: SpeechRequest) -> str | None:
    """The requested voice: by its own name, else by the model's name, else the default."""
    model = openai_aliases.model(appliance, "tts", request.model)
    voice = openai_aliases.voice(appliance, request.voice)
    if voice is None and model in [each.name for each in appliance.synthesis.voices()]:
        return model
    return voice


def _parse(ignored: IgnoredParameters, values: dict[str, Any]) -> SpeechRequest:
    check_plain(values)
    if values.get("input") == "":
        # An omitted input is an error, an empty one is silent.
        values = {**values, "input": " "}
    parsed = parse_parameters(SpeechRequest, values, SPEECH, ignored, strict=True)
    rate = values.get("sample_rate")
    if parsed.response_format == "pcm" and rate not in (None, PCM_RATE):
        # Without a header the client would play it at the wrong speed.
        message = f"sample_rate is {str(rate)[:20]}; pcm has {PCM_RATE} Hz, and wav states its sample rate"
        raise invalid_parameter("sample_rate", message, "unsupported_value")
    return parsed


def _success() -> dict[str, Any]:
    """The success response, for the OpenAPI document."""
    kinds = sorted({each.media_type.partition(";")[0] for each in FORMATS.values()})
    content: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    content["text/event-stream"] = openapi.events("A server-sent event; its data is JSON.")
    return {"description": "The synthesized speech.", "content": content}


def _with_sizes(file: bytes) -> bytes:
    """A whole WAV file, whose header states its sizes instead of those of a stream."""
    head = file.index(b"data") + 8
    sizes = struct.pack("<I", len(file) - 8), struct.pack("<I", len(file) - head)
    return file[:4] + sizes[0] + file[8 : head - 4] + sizes[1] + file[head:]


class SpeechResponse(CancellableResponse):
    """Synthesizes speech while it sends it."""

    def __init__(self, appliance: Appliance, request: SpeechRequest, voice: str | None, traceparent: str) -> None:
        super().__init__()
        self._service = appliance.speech_service
        self._request = request
        self._voice = voice
        self._comment = appliance.synthesis.comment(voice)
        self._metrics = appliance.metrics
        self._traceparent = traceparent

    async def reply(self, send: Send) -> None:
        await (self._send_file if self._request.stream_format == "audio" else self._send_events)(send)

    async def _send_file(self, send: Send) -> None:
        """Sends the file as it grows; a WAV file of a short sentence whole, for clients that read its sizes."""
        parts: list[bytes] = []
        media_type, started = "", False
        text = self._request.input
        whole = self._request.response_format == "wav" and len(text) <= SHORT_TEXT and len(split_text(text)) <= 1

        async def emit(data: bytes, kind: str) -> None:
            nonlocal media_type, started
            media_type = kind
            if whole:
                parts.append(data)
                return
            if not started:
                started = True
                await send(start(kind))
            await send(body(data))

        await self._synthesize(emit)
        if whole:
            file = _with_sizes(b"".join(parts))
            await send(start(media_type, {"Content-Length": str(len(file))}))
            await send(body(file, more=False))
        else:
            await send(body(b"", more=False))

    async def _send_events(self, send: Send) -> None:
        stream = EventStream(send, self._metrics, lambda error: data_of({"type": "error", "error": fault(error)}))

        async def emit(data: bytes, _: str) -> None:
            await stream.send(data_of({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}))

        async with stream.ending():
            seconds = await self._synthesize(emit)
            await stream.send(data_of({"type": "speech.audio.done", "usage": self._usage(seconds)}))

    async def _synthesize(self, emit: Callable[[bytes, str], Awaitable[None]]) -> float:
        """Emits the file as it grows, each part with its media type; returns its length in seconds."""
        file: Encoder | None = None
        seconds = 0.0
        request = self._request
        async with self._service.synthesize(request.input, self._voice, request.speed, self._traceparent) as chunks:
            async for audio in chunks:
                if file is None:
                    file = Encoder(request.response_format, audio.rate, self._comment)
                seconds += audio.seconds
                if data := await anyio.to_thread.run_sync(file.feed, audio):
                    await emit(data, file.media_type)
        if file is None:
            raise InternalError("the voice synthesized no audio")
        if data := await anyio.to_thread.run_sync(file.finish):
            await emit(data, file.media_type)
        return seconds

    def _usage(self, seconds: float) -> dict[str, int]:
        """Usage: words of the text, and tokens of the speech."""
        input_tokens, output_tokens = math.ceil(count_words(self._request.input)), math.ceil(seconds * SPEECH_TOKENS)
        return {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        }
