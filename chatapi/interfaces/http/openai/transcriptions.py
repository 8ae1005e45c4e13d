"""`/v1/audio/transcriptions` and `/v1/audio/translations`: speech recognition of a recording."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, field_validator, model_validator
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatapi.appliance import Appliance
from chatapi.engines import Segment, TranscriptionOptions
from chatapi.errors import Unprocessable
from chatapi.interfaces.http import openai_aliases, openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai import form_lists, transcript_formats
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import Parameters, RequestObject, parse_parameters
from chatapi.interfaces.http.openai.parameter_table import TRANSCRIPTIONS, TRANSLATIONS, Endpoint
from chatapi.interfaces.http.openai.uploads import Upload, receive_form
from chatapi.interfaces.http.problems import Traceparent, fault
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, data_of, encoded, start
from chatapi.services.transcription.segmenter import SegmentationRules
from chatapi.services.transcription.transcriber import TranscribedChunk, TranscriptionRequest

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}
MOST_KEYWORDS = 200
"""Most keywords of one request."""


class TranslationRequest(Parameters):
    """The parameters of `/v1/audio/translations` beside the file."""

    model: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    """whisper-1, default, or a name from /v1/models."""
    prompt: Annotated[str, Field(max_length=8000)] = ""
    """Context before the recording: its names and style become likelier in the transcript."""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0
    """Sampling temperature: 0 takes the likeliest token; higher values vary more."""

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, values: Any) -> Any:
        """Accepts every way in which clients write lists into forms."""
        return form_lists.normalized(values, cls.model_fields) if isinstance(values, dict) else values

    @property
    def translated(self) -> bool:
        return True

    @property
    def transcription_options(self) -> TranscriptionOptions:
        return TranscriptionOptions(
            self.prompt, self.temperature, translate=True, tokens=self.response_format == "verbose_json"
        )

    def options(self, rules: SegmentationRules) -> TranscriptionRequest:
        """The transcription request; `rules` are the box's segmentation rules, used by default.

        Raises Unprocessable that names a parameter in conflict with another.
        """
        del rules
        return TranscriptionRequest(None, self.transcription_options)


class ChunkingStrategy(RequestObject):
    """Voice activity detection that splits the recording."""

    type: Literal["server_vad"]
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    """Padding before and after speech, in milliseconds, as far as the pause has room for both."""
    silence_duration_ms: Annotated[int, Field(ge=32, le=10_000)] = 200
    """The shortest pause that splits, in milliseconds."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which audio counts as speech."""


class TranscriptionForm(TranslationRequest):
    """The parameters of `/v1/audio/transcriptions` beside the file."""

    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of the spoken language; detected when omitted."""
    stream: bool = False
    """Whether the transcript is streamed as server-sent events."""
    include: tuple[Literal["logprobs"], ...] = ()
    """logprobs: the tokens' log-probabilities, with response_format json."""
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    """Timestamps in verbose_json: of words, segments or both; segments by default."""
    keywords: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=MOST_KEYWORDS)] = ()
    """Words that become likelier in the transcript, such as names; they follow the prompt."""
    languages: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=100)] = ()
    """Languages of which the recording may be: one of them is used as `language`, several are detected."""
    chunking_strategy: Literal["auto"] | ChunkingStrategy | None = None
    """auto: split at pauses into the longest windows that fit; or each utterance by itself, by these rules."""

    @field_validator("chunking_strategy", mode="before")
    @classmethod
    def _parse_json(cls, value: Any) -> Any:
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
    def transcription_options(self) -> TranscriptionOptions:
        tokens = self.response_format == "verbose_json" or bool(self.include) or self.stream
        # The engine keeps the end of a prompt that is too long.
        prompt = " ".join(filter(None, (self.prompt, f"{', '.join(self.keywords)}." if self.keywords else "")))
        return TranscriptionOptions(
            prompt, self.temperature, words="word" in self.timestamp_granularities, tokens=tokens
        )

    def options(self, rules: SegmentationRules) -> TranscriptionRequest:
        self._check()
        language = self.language or (self.languages[0] if len(self.languages) == 1 else None)
        return TranscriptionRequest(language, self.transcription_options, self._rules(rules))

    def _check(self) -> None:
        form = self.response_format
        if self.timestamp_granularities and form != "verbose_json":
            raise _conflict("timestamp_granularities", f"needs response_format verbose_json, not {form}")
        if self.include and form != "json":
            raise _conflict("include", f"needs response_format json, not {form}")
        if self.stream and form not in ("json", "text"):
            raise _conflict("response_format", f"is {form}; with stream=true it must be json or text")

    def _rules(self, rules: SegmentationRules) -> SegmentationRules | None:
        vad = self.chunking_strategy
        if not isinstance(vad, ChunkingStrategy):
            return None
        # The shortest pause that splits has room for half of its length on either side.
        pad = min(vad.prefix_padding_ms, vad.silence_duration_ms // 2)
        return SegmentationRules(vad.threshold, rules.min_speech_ms, pad, vad.silence_duration_ms)


def _conflict(param: str, message: str) -> Unprocessable:
    return Unprocessable(f"{param} {message}", details={"param": param})


def router(appliance: Appliance) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1/audio")

    @routes.post(
        "/transcriptions",
        summary="Transcribe a recording of any length",
        response_class=Response,
        responses={200: _success(stream=True), **error_responses(400, 404, 408, 413, 415, 503, 507)},
        openapi_extra=openapi.form_body(TranscriptionForm),
    )
    async def transcriptions(request: Request, traceparent: Traceparent = "") -> Response:
        return await _respond(request, appliance, TranscriptionForm, TRANSCRIPTIONS, traceparent)

    @routes.post(
        "/translations",
        summary="Translate a recording of any length into English text",
        response_class=Response,
        responses={200: _success(stream=False), **error_responses(400, 404, 408, 413, 415, 503, 507)},
        openapi_extra=openapi.form_body(TranslationRequest),
    )
    async def translations(request: Request, traceparent: Traceparent = "") -> Response:
        return await _respond(request, appliance, TranslationRequest, TRANSLATIONS, traceparent)

    return routes


async def _respond(
    request: Request,
    appliance: Appliance,
    form: type[TranslationRequest],
    endpoint: Endpoint,
    traceparent: str,
) -> TranscriptionResponse:
    """The response to an upload; it closes the upload, and a rejected upload is closed here."""
    appliance.transcription_service.check_admission()
    upload = await receive_form(request)
    try:
        parameters = parse_parameters(form, upload.fields, endpoint, IgnoredParameters.of(request))
        options = parameters.options(appliance.transcriber.rules)
        openai_aliases.model(appliance, "asr", parameters.model)
    except BaseException:
        await upload.aclose()
        raise
    return TranscriptionResponse(appliance, upload, options, parameters, traceparent)


def _success(stream: bool) -> dict[str, Any]:
    """The success response, for the OpenAPI document."""
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    content: dict[str, Any] = {name: {"schema": {"type": "string"}} for name in MEDIA_TYPES.values()}
    content["application/json"] = {"schema": text}
    if stream:
        content["text/event-stream"] = openapi.events("A server-sent event; its data is JSON.")
    return {"description": "The transcript.", "content": content}


class TranscriptionResponse(CancellableResponse):
    """Transcribes the recording while it sends the transcript."""

    def __init__(
        self,
        appliance: Appliance,
        upload: Upload,
        options: TranscriptionRequest,
        parameters: TranslationRequest,
        traceparent: str,
    ) -> None:
        super().__init__()
        self._service = appliance.transcription_service
        self._upload = upload
        self._options = options
        self._parameters = parameters
        self._metrics = appliance.metrics
        self._traceparent = traceparent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upload.aclose()

    async def reply(self, send: Send) -> None:
        if isinstance(self._parameters, TranscriptionForm) and self._parameters.stream:
            await self._send_events(self._parameters, send)
            return
        async with self._service.transcribe_file(self._upload.source, self._options, self._traceparent) as chunks:
            found = [chunk async for chunk in chunks]
        content = self._content(found)
        media_type = MEDIA_TYPES[self._parameters.response_format]
        await send(start(media_type, {"Content-Length": str(len(content))}))
        await send(body(content, more=False))

    def _content(self, chunks: list[TranscribedChunk]) -> bytes:
        parameters = self._parameters
        segments = [segment for chunk in chunks for segment in chunk.segments]
        if parameters.response_format == "text":
            return (transcript_formats.joined(segments) + "\n").encode("utf-8", "replace")
        if parameters.response_format == "srt":
            return transcript_formats.srt(segments).encode("utf-8", "replace")
        if parameters.response_format == "vtt":
            return transcript_formats.vtt(segments).encode("utf-8", "replace")
        timed = parameters.timestamp_granularities if isinstance(parameters, TranscriptionForm) else ()
        if parameters.response_format == "verbose_json":
            return encoded(
                transcript_formats.verbose(chunks, timed or ("segment",), parameters.translated, parameters.temperature)
            )
        document: dict[str, Any] = {"text": transcript_formats.joined(segments)}
        if isinstance(parameters, TranscriptionForm) and parameters.include:
            document["logprobs"] = transcript_formats.logprobs(segments)
        document["usage"] = transcript_formats.duration(chunks[-1].processed)
        return encoded(document)

    async def _send_events(self, parameters: TranscriptionForm, send: Send) -> None:
        segments: list[Segment] = []
        seconds = 0.0
        stream = EventStream(send, self._metrics, lambda error: data_of({"type": "error", "error": fault(error)}))
        async with (
            stream.ending(),
            self._service.transcribe_file(self._upload.source, self._options, self._traceparent) as chunks,
        ):
            async for chunk in chunks:
                seconds = chunk.processed
                for each in chunk.segments:
                    before = transcript_formats.between(each) if segments else ""
                    segments.append(each)
                    await stream.send(data_of(_delta(before + each.text.strip(), [each], parameters)))
            done = {"type": "transcript.text.done", "text": transcript_formats.joined(segments)}
            more = {"logprobs": transcript_formats.logprobs(segments)} if parameters.include else {}
            await stream.send(data_of({**done, **more, "usage": transcript_formats.tokens(segments, seconds)}))


def _delta(text: str, segments: list[Segment], parameters: TranscriptionForm) -> dict[str, Any]:
    more = {"logprobs": transcript_formats.logprobs(segments)} if parameters.include else {}
    return {"type": "transcript.text.delta", "delta": text, **more}
