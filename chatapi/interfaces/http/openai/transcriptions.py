"""`/v1/audio/transcriptions` and `/v1/audio/translations`: a recording written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, field_validator
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatapi.appliance import Appliance
from chatapi.engines import Segment, TranscriptionOptions
from chatapi.errors import ChatapiError, Unprocessable
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.openai import openapi, transcript_formats
from chatapi.interfaces.http.openai.errors import refusals
from chatapi.interfaces.http.openai.openapi import form_body
from chatapi.interfaces.http.openai.parameters import Parameters, understood
from chatapi.interfaces.http.openai.uploads import Upload, received
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.streaming import EVENTS, WorkingReply, body, data_of, encoded, start
from chatapi.services.transcription.segmenter import SegmentationRules
from chatapi.services.transcription.transcriber import TranscribedChunk, TranscriptionRequest

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}
REFUSED = {
    "keywords": "put them into prompt",
    "languages": "give the one that is spoken as language, or none to have it detected",
    "known_speaker_names": "who speaks is not told apart",
    "known_speaker_references": "who speaks is not told apart",
}
"""What OpenAI's clients can ask of a transcription and is not done here."""


class TranslationRequest(Parameters):
    """What `/v1/audio/translations` takes beside the file."""

    model: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    """whisper-1, default, or a name from /v1/models."""
    prompt: Annotated[str, Field(max_length=8000)] = ""
    """Text taken to have been said before: its names and style are rather written."""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0
    """0 takes the likeliest word; higher is more varied."""

    @property
    def translated(self) -> bool:
        return True

    @property
    def hearing(self) -> TranscriptionOptions:
        return TranscriptionOptions(
            self.prompt, self.temperature, translate=True, tokens=self.response_format == "verbose_json"
        )

    def options(self, rules: SegmentationRules) -> TranscriptionRequest:
        """How the recording is to be heard, by the box's own `rules` where nothing else is asked.

        Raises Unprocessable naming the parameter that contradicts another.
        """
        del rules
        return TranscriptionRequest(None, self.hearing)


class ChunkingStrategy(Parameters):
    """Where a recording is cut."""

    type: Literal["server_vad"]
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    """Kept before and after speech, as far as the pause has room for both."""
    silence_duration_ms: Annotated[int, Field(ge=32, le=10_000)] = 200
    """The shortest pause that cuts."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a sound is speech."""


class TranscriptionForm(TranslationRequest):
    """What `/v1/audio/transcriptions` takes beside the file."""

    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of what is spoken; left out, it is detected."""
    stream: bool = False
    """Whether the text comes as it is understood, as server-sent events."""
    include: tuple[Literal["logprobs"], ...] = ()
    """logprobs: the tokens' log-probabilities, with response_format json."""
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    """What has its times in verbose_json; segments where nothing is named."""
    chunking_strategy: Literal["auto"] | ChunkingStrategy | None = None
    """auto: cut at pauses, and heard as much at once as fits; or each stretch of speech by itself, by these rules."""

    @field_validator("chunking_strategy", mode="before")
    @classmethod
    def _unpacked(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        return value

    @property
    def translated(self) -> bool:
        return False

    @property
    def hearing(self) -> TranscriptionOptions:
        tokens = self.response_format == "verbose_json" or bool(self.include) or self.stream
        return TranscriptionOptions(
            self.prompt, self.temperature, words="word" in self.timestamp_granularities, tokens=tokens
        )

    def options(self, rules: SegmentationRules) -> TranscriptionRequest:
        self._check()
        return TranscriptionRequest(self.language, self.hearing, self._rules(rules))

    def _check(self) -> None:
        form = self.response_format
        if self.timestamp_granularities and form != "verbose_json":
            raise _misfit("timestamp_granularities", f"goes with response_format verbose_json, not {form}")
        if self.include and form != "json":
            raise _misfit("include", f"goes with response_format json, not {form}")
        if self.stream and form not in ("json", "text"):
            raise _misfit("response_format", f"is {form}; with stream it can be json or text")

    def _rules(self, rules: SegmentationRules) -> SegmentationRules | None:
        vad = self.chunking_strategy
        if not isinstance(vad, ChunkingStrategy):
            return None
        # A pause that just cuts has room for half of itself on either side.
        pad = min(vad.prefix_padding_ms, vad.silence_duration_ms // 2)
        return SegmentationRules(vad.threshold, rules.min_speech_ms, pad, vad.silence_duration_ms)


def _misfit(param: str, told: str) -> Unprocessable:
    return Unprocessable(f"{param} {told}", details={"param": param})


def router(appliance: Appliance) -> APIRouter:
    """Its routes."""
    routes = APIRouter(prefix="/v1/audio")

    @routes.post(
        "/transcriptions",
        summary="A recording of any length as text",
        response_class=Response,
        responses={200: _described(stream=True), **refusals(400, 404, 408, 413, 415, 503, 507)},
        openapi_extra=form_body(TranscriptionForm),
    )
    async def transcriptions(request: Request) -> Response:
        return await _taken(request, appliance, TranscriptionForm, REFUSED)

    @routes.post(
        "/translations",
        summary="A recording of any length in another language, as English text",
        response_class=Response,
        responses={200: _described(stream=False), **refusals(400, 404, 408, 413, 415, 503, 507)},
        openapi_extra=form_body(TranslationRequest),
    )
    async def translations(request: Request) -> Response:
        return await _taken(request, appliance, TranslationRequest, {})

    return routes


async def _taken(
    request: Request, appliance: Appliance, form: type[TranslationRequest], refused: Mapping[str, str]
) -> TranscriptReply:
    """The reply to an upload with such a form; the upload is closed with it, or here where it is refused."""
    appliance.transcription_service.check_admission()
    upload = await received(request)
    try:
        asked = understood(form, upload.fields, refused)
        options = asked.options(appliance.transcriber.rules)
        openai_aliases.model(appliance, "asr", asked.model)
    except BaseException:
        await upload.aclose()
        raise
    return TranscriptReply(appliance, upload, options, asked, request.headers.get("traceparent", ""))


def _described(stream: bool) -> dict[str, Any]:
    """The good answers, for the OpenAPI document."""
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    content: dict[str, Any] = {name: {"schema": {"type": "string"}} for name in MEDIA_TYPES.values()}
    content["application/json"] = {"schema": text}
    if stream:
        content["text/event-stream"] = openapi.events("Each event; its data is JSON.")
    return {"description": "What was said.", "content": content}


class TranscriptReply(WorkingReply):
    """Works through the recording while it sends."""

    def __init__(
        self,
        appliance: Appliance,
        upload: Upload,
        options: TranscriptionRequest,
        asked: TranslationRequest,
        traceparent: str,
    ) -> None:
        super().__init__()
        self._service = appliance.transcription_service
        self._upload = upload
        self._options = options
        self._asked = asked
        self._metrics = appliance.metrics
        self._traceparent = traceparent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upload.aclose()

    async def reply(self, send: Send) -> None:
        if isinstance(self._asked, TranscriptionForm) and self._asked.stream:
            await self._as_events(self._asked, send)
            return
        async with self._service.transcribe_file(self._upload.source, self._options, self._traceparent) as chunks:
            found = [chunk async for chunk in chunks]
        content = self._written(found)
        media_type = MEDIA_TYPES[self._asked.response_format]
        await send(start(media_type, {"Content-Length": str(len(content))}))
        await send(body(content, more=False))

    def _written(self, chunks: list[TranscribedChunk]) -> bytes:
        asked = self._asked
        segments = [segment for chunk in chunks for segment in chunk.segments]
        if asked.response_format == "text":
            return (transcript_formats.joined(segments) + "\n").encode("utf-8", "replace")
        if asked.response_format == "srt":
            return transcript_formats.srt(segments).encode("utf-8", "replace")
        if asked.response_format == "vtt":
            return transcript_formats.vtt(segments).encode("utf-8", "replace")
        timed = asked.timestamp_granularities if isinstance(asked, TranscriptionForm) else ()
        if asked.response_format == "verbose_json":
            return encoded(
                transcript_formats.verbose(chunks, timed or ("segment",), asked.translated, asked.temperature)
            )
        document: dict[str, Any] = {"text": transcript_formats.joined(segments)}
        if isinstance(asked, TranscriptionForm) and asked.include:
            document["logprobs"] = transcript_formats.logprobs(segments)
        document["usage"] = transcript_formats.duration(chunks[-1].processed)
        return encoded(document)

    async def _as_events(self, asked: TranscriptionForm, send: Send) -> None:
        begun = False
        segments: list[Segment] = []
        seconds = 0.0

        async def event(data: dict[str, Any]) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send(start("text/event-stream", EVENTS))
            await send(body(data_of(data)))

        try:
            async with self._service.transcribe_file(self._upload.source, self._options, self._traceparent) as chunks:
                async for chunk in chunks:
                    seconds = chunk.processed
                    for each in chunk.segments:
                        before = transcript_formats.between(each) if segments else ""
                        segments.append(each)
                        await event(_delta(before + each.text.strip(), [each], asked))
            done = {"type": "transcript.text.done", "text": transcript_formats.joined(segments)}
            more = {"logprobs": transcript_formats.logprobs(segments)} if asked.include else {}
            await event({**done, **more, "usage": transcript_formats.tokens(segments, seconds)})
        except ChatapiError as error:
            if not begun:
                raise
            self._metrics.errors.labels(error.code).inc()
            await event({"type": "error", "error": fault(error)})
        await send(body(b"", more=False))


def _delta(text: str, segments: list[Segment], asked: TranscriptionForm) -> dict[str, Any]:
    more = {"logprobs": transcript_formats.logprobs(segments)} if asked.include else {}
    return {"type": "transcript.text.delta", "delta": text, **more}
