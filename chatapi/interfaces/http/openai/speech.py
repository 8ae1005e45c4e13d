"""`/v1/audio/speech` and `/v1/audio/voices`: a text read aloud."""

from __future__ import annotations

import base64
import math
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.audio.encoding import FORMATS, Encoder
from chatapi.errors import ChatapiError, InternalError
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.json_body import check_plain, json_body
from chatapi.interfaces.http.openai import openapi
from chatapi.interfaces.http.openai.errors import refusals
from chatapi.interfaces.http.openai.parameters import Parameters, understood
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.streaming import EVENTS, WorkingReply, body, data_of, start
from chatapi.text.sentence_splitter import count_words

SOUND_TOKENS = 20
"""A second of what is spoken, as OpenAI counts it."""
REFUSED = {"instructions": "voices speak as they learned to; speed can be set"}


class SpeechRequest(Parameters):
    """What `/v1/audio/speech` takes."""

    input: str
    """The text."""
    model: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    """tts-1, default, or a voice's name from /v1/models."""
    voice: Annotated[str, Field(min_length=1, max_length=200)] | openai_aliases.VoiceId = "default"
    """A name from /v1/audio/voices; OpenAI's own names mean the default voice."""
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    """pcm is 16-bit little-endian mono at 24 kHz, without a header."""
    speed: Annotated[float, Field(ge=0.25, le=4, allow_inf_nan=False)] = 1
    stream_format: Literal["audio", "sse"] = "audio"
    """audio: the file, as it is spoken; sse: server-sent events with parts of it."""


class VoiceEntry(Parameters):
    """A voice that can be asked for."""

    id: str
    name: str
    language: str
    """ISO 639-1."""
    rate: int
    """Samples a second of what it speaks."""
    default: bool


class VoiceList(Parameters):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[VoiceEntry]


def router(appliance: Appliance) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/v1/audio")

    @routes.post(
        "/speech",
        summary="A text read aloud, sent as it is spoken",
        response_class=Response,
        responses={200: _described(), **refusals(400, 404, 408, 413, 415, 503)},
        openapi_extra=openapi.json_body(SpeechRequest),
    )
    async def speech(request: Request) -> Response:
        appliance.speech_service.check_admission()
        asked = await json_body(request, "input, model and voice", _understood)
        return SpeechReply(appliance, asked, _voice(appliance, asked), request.headers.get("traceparent", ""))

    @routes.get("/voices", summary="Voices that can be asked for", response_model=VoiceList, responses=refusals(503))
    async def voices() -> VoiceList:
        openai_aliases.require_models(appliance)
        known = appliance.synthesis.voices()
        return VoiceList(
            data=[
                VoiceEntry(
                    id=each.name, name=each.name, language=each.language, rate=each.rate, default=each is known[0]
                )
                for each in known
            ]
        )

    return routes


def _voice(appliance: Appliance, asked: SpeechRequest) -> str | None:
    """The voice that is meant: by its own name, else by the model's, else the default one."""
    model = openai_aliases.model(appliance, "tts", asked.model)
    voice = openai_aliases.voice(appliance, asked.voice)
    if voice is None and model in [each.name for each in appliance.synthesis.voices()]:
        return model
    return voice


def _understood(values: dict[str, Any]) -> SpeechRequest:
    check_plain(values)
    return understood(SpeechRequest, values, REFUSED, strict=True)


def _described() -> dict[str, Any]:
    """The good answers, for the OpenAPI document."""
    kinds = sorted({each.media_type.partition(";")[0] for each in FORMATS.values()})
    content: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    content["text/event-stream"] = openapi.events("Each event; its data is JSON.")
    return {"description": "The text, spoken.", "content": content}


class SpeechReply(WorkingReply):
    """Speaks while it sends."""

    def __init__(self, appliance: Appliance, asked: SpeechRequest, voice: str | None, traceparent: str) -> None:
        super().__init__()
        self._service = appliance.speech_service
        self._asked = asked
        self._voice = voice
        self._metrics = appliance.metrics
        self._traceparent = traceparent
        self._begun = False

    async def reply(self, send: Send) -> None:
        if self._asked.stream_format == "audio":
            await self._spoken(send)
            await send(body(b"", more=False))
            return
        try:
            seconds = await self._spoken(send)
            await send(body(data_of({"type": "speech.audio.done", "usage": self._usage(seconds)})))
        except ChatapiError as error:
            if not self._begun:
                raise
            self._metrics.errors.labels(error.code).inc()
            await send(body(data_of({"type": "error", "error": fault(error)})))
        await send(body(b"", more=False))

    async def _spoken(self, send: Send) -> float:
        """Send the file as it grows; how many seconds it has."""
        file: Encoder | None = None
        seconds = 0.0
        asked = self._asked
        async with self._service.synthesize(asked.input, self._voice, asked.speed, self._traceparent) as pieces:
            async for audio in pieces:
                if file is None:
                    file = Encoder(asked.response_format, audio.rate)
                seconds += audio.seconds
                await self._sent(await anyio.to_thread.run_sync(file.feed, audio), file, send)
        if file is None:
            raise InternalError("the voice had nothing to say")
        await self._sent(await anyio.to_thread.run_sync(file.finish), file, send)
        return seconds

    async def _sent(self, data: bytes, file: Encoder, send: Send) -> None:
        if not data:
            return
        events = self._asked.stream_format == "sse"
        if not self._begun:
            self._begun = True
            await send(start("text/event-stream", EVENTS) if events else start(file.media_type))
        if events:
            data = data_of({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        await send(body(data))

    def _usage(self, seconds: float) -> dict[str, int]:
        """Words of the text, and tokens of the sound."""
        read, spoken = math.ceil(count_words(self._asked.input)), math.ceil(seconds * SOUND_TOKENS)
        return {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
