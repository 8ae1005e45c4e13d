"""`/v1/audio/transcriptions` and `/v1/audio/translations`: speech recognition of a recording."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, field_validator, model_validator
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatapi.appliance import Appliance
from chatapi.audio import skipped
from chatapi.engines import Segment, TranscriptionOptions
from chatapi.errors import Unprocessable
from chatapi.interfaces.http import openai_aliases, openapi
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.openai import diarized, form_lists, known_speakers, transcript_formats
from chatapi.interfaces.http.openai.errors import error_responses
from chatapi.interfaces.http.openai.parameter_parsing import (
    Parameters,
    RequestObject,
    invalid_parameter,
    parse_parameters,
)
from chatapi.interfaces.http.openai.parameter_table import TRANSCRIPTIONS, TRANSLATIONS, Endpoint
from chatapi.interfaces.http.openai.uploads import Upload, receive_form
from chatapi.interfaces.http.openai_aliases import MOST_KEYWORDS, Keyword
from chatapi.interfaces.http.problems import Traceparent, fault
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, body, data_of, encoded, start
from chatapi.services.transcription import transcript_files
from chatapi.services.transcription.segmenter import SegmentationRules
from chatapi.services.transcription.speakers import SpeakerOptions
from chatapi.services.transcription.transcriber import TranscribedChunk, TranscriptionRequest, prompt_text

MEDIA_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "diarized_json": "application/json",
}


class TranslationRequest(Parameters):
    """The parameters of `/v1/audio/translations` beside the file."""

    model: Annotated[str, Field(min_length=1, max_length=200)] = "default"
    """whisper-1, default, or a name from /v1/models."""
    prompt: Annotated[str, Field(max_length=8000)] = ""
    """Context before the recording: its names and style become likelier in the transcript."""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0
    """Sampling temperature: 0 takes the likeliest token; higher values vary more."""
    stream: bool = False
    """Must be false: translations are not streamed."""

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, values: Any) -> Any:
        """Accepts every way in which clients write lists into forms."""
        return form_lists.normalized(values, cls.model_fields) if isinstance(values, dict) else values

    @property
    def translated(self) -> bool:
        return True

    @property
    def timed(self) -> bool:
        """Whether the response has times."""
        return self.response_format in ("srt", "vtt", "verbose_json")

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
        if self.stream:
            raise invalid_parameter(
                "stream", "stream must be false: translations are not streamed", "unsupported_parameter"
            )
        return TranscriptionRequest(None, self.transcription_options, self.timed)


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

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"  # type: ignore[assignment]
    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of the spoken language; detected when omitted."""
    stream: bool = False
    """Whether the transcript is streamed as server-sent events."""
    include: tuple[Literal["logprobs"], ...] = ()
    """logprobs: the tokens' log-probabilities, with response_format json."""
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ()
    """Timestamps in verbose_json: of words, segments or both; segments by default."""
    keywords: Annotated[tuple[Keyword, ...], Field(max_length=MOST_KEYWORDS)] = ()
    """Words that become likelier in the transcript, such as names; they follow the prompt."""
    languages: Annotated[tuple[Annotated[str, Field(max_length=20)], ...], Field(max_length=100)] = ()
    """Languages of which the recording may be: one of them is used as `language`, several are detected."""
    chunking_strategy: Literal["auto"] | ChunkingStrategy | None = None
    """auto: split at pauses into the longest windows that fit; or each utterance by itself, by these rules."""

    speakers: bool = False
    """Whether segments, captions and text have speaker labels; response_format json then is diarized_json."""
    speaker_count: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many people speak; found out when omitted."""
    known_speaker_names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=known_speakers.MOST)
    ] = ()
    """Names of speakers of whom known_speaker_references has a sample."""
    known_speaker_references: Annotated[tuple[str, ...], Field(max_length=known_speakers.MOST)] = ()
    """2 to 10 s of speech of each of known_speaker_names, as data URLs."""

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
    def labelled(self) -> bool:
        """Whether the transcript has speaker labels."""
        return self.speakers or self.response_format == "diarized_json"

    @property
    def translated(self) -> bool:
        return False

    @property
    def transcription_options(self) -> TranscriptionOptions:
        tokens = self.response_format == "verbose_json" or bool(self.include) or self.stream
        prompt = prompt_text(self.prompt, self.keywords)
        return TranscriptionOptions(
            prompt, self.temperature, words="word" in self.timestamp_granularities, tokens=tokens
        )

    def options(self, rules: SegmentationRules) -> TranscriptionRequest:
        self._check()
        language = self.language or (self.languages[0] if len(self.languages) == 1 else None)
        return TranscriptionRequest(language, self.transcription_options, self.timed, self._rules(rules))

    def _check(self) -> None:
        form = self.response_format
        if self.timestamp_granularities and form != "verbose_json":
            raise _conflict("timestamp_granularities", f"needs response_format verbose_json, not {form}")
        if self.include and form != "json":
            raise _conflict("include", f"needs response_format json, not {form}")
        if self.stream and form not in ("json", "text", "diarized_json"):
            raise _conflict("response_format", f"is {form}; with stream=true it must be json, text or diarized_json")
        for name in ("speaker_count", known_speakers.NAMES, known_speakers.REFERENCES):
            if getattr(self, name) and not self.labelled:
                raise _conflict(name, "needs response_format diarized_json, or speakers=true")

    async def speaker_options(self) -> SpeakerOptions | None:
        """What is known of the speakers; None: no speaker labels. Raises Unprocessable that names a parameter."""
        if not self.labelled:
            return None
        known = await known_speakers.known_speakers(self.known_speaker_names, self.known_speaker_references)
        return SpeakerOptions.of(self.speaker_count, known)

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
        speakers = await parameters.speaker_options() if isinstance(parameters, TranscriptionForm) else None
    except BaseException:
        await upload.aclose()
        raise
    return TranscriptionResponse(appliance, upload, options, parameters, speakers, traceparent)


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
        speakers: SpeakerOptions | None,
        traceparent: str,
    ) -> None:
        super().__init__()
        self._speakers = speakers
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

    def _chunks(self) -> AbstractAsyncContextManager[AsyncIterator[TranscribedChunk]]:
        return self._service.transcribe_file(self._upload.source, self._options, self._traceparent, self._speakers)

    async def reply(self, send: Send) -> None:
        if isinstance(self._parameters, TranscriptionForm) and self._parameters.stream:
            await self._send_events(self._parameters, send)
            return
        async with self._chunks() as chunks:
            found = [chunk async for chunk in chunks]
        content = self._content(found)
        media_type = MEDIA_TYPES[self._parameters.response_format]
        await send(start(media_type, {"Content-Length": str(len(content))}))
        await send(body(content, more=False))

    def _content(self, found: list[TranscribedChunk]) -> bytes:
        parameters, form = self._parameters, self._parameters.response_format
        chunks, problem = diarized.labelled(found)
        segments = [segment for chunk in chunks for segment in chunk.segments]
        if form == "text":
            plain = transcript_files.turns(segments) if self._speakers else transcript_files.joined(segments) + "\n"
            return plain.encode("utf-8", "replace")
        if form == "srt":
            return transcript_files.srt(segments).encode("utf-8", "replace")
        if form == "vtt":
            return transcript_files.vtt(segments).encode("utf-8", "replace")
        if form == "verbose_json":
            timed = parameters.timestamp_granularities if isinstance(parameters, TranscriptionForm) else ()
            document = transcript_formats.verbose(
                chunks, timed or ("segment",), parameters.translated, parameters.temperature
            )
            return encoded({**document, **diarized.problem(problem)})
        if self._speakers:
            return encoded(diarized.document(segments, chunks[-1].processed, problem))
        return encoded(self._json(segments, chunks[-1].processed))

    def _json(self, segments: list[Segment], seconds: float) -> dict[str, Any]:
        document: dict[str, Any] = {"text": transcript_files.joined(segments)}
        if isinstance(self._parameters, TranscriptionForm) and self._parameters.include:
            document["logprobs"] = transcript_formats.logprobs(segments)
        return {**document, "usage": transcript_formats.duration(seconds)}

    async def _send_events(self, parameters: TranscriptionForm, send: Send) -> None:
        chunks: list[TranscribedChunk] = []
        segments: list[Segment] = []
        stream = EventStream(send, self._metrics, lambda error: data_of({"type": "error", "error": fault(error)}))
        async with stream.ending(), self._chunks() as transcribed:
            async for chunk in transcribed:
                chunks.append(chunk)
                for each in chunk.segments:
                    before = transcript_files.between(each) if segments else ""
                    segments.append(each)
                    await stream.send(data_of(_delta(before + each.text.strip(), [each], parameters)))
            spoken, problem = diarized.labelled(chunks)
            if self._speakers:
                named = (segment for chunk in spoken for segment in chunk.segments)
                for number, each in enumerate(named):
                    await stream.send(data_of(diarized.event(number, each)))
            done = {"type": "transcript.text.done", "text": transcript_files.joined(segments)}
            more: dict[str, Any] = {"logprobs": transcript_formats.logprobs(segments)} if parameters.include else {}
            if lost := skipped.collected():
                more["audio_skipped"] = str(lost)
            usage = transcript_formats.tokens(segments, chunks[-1].processed)
            await stream.send(data_of({**done, **more, **diarized.problem(problem), "usage": usage}))


def _delta(text: str, segments: list[Segment], parameters: TranscriptionForm) -> dict[str, Any]:
    more = {"logprobs": transcript_formats.logprobs(segments)} if parameters.include else {}
    return {"type": "transcript.text.delta", "delta": text, **more}
