"""Requests to `POST /completion`: JSON, an audio body with options in the query, or a form; each becomes a `Turn`.

The media type decides where the options are, so neither they nor the body (see `json_body`) are declared to FastAPI;
`routes` describes both for the OpenAPI document.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from chatapi.audio.decode import Source
from chatapi.errors import BadInput, NotAcceptable, Unprocessable, Unsupported
from chatapi.interfaces.http import json_body
from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.validation import validated
from chatapi.runtime.admission import Priority
from chatapi.services.turns.completion import MAX_SEED, MAX_TEMPERATURE, Turn
from chatapi.storage.atomic_files import writing

AUDIO_TYPES = (
    "audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/flac", "audio/x-flac", "audio/ogg", "audio/opus",
    "audio/mpeg", "audio/mp3", "audio/mp4", "audio/m4a", "audio/x-m4a", "audio/aac", "audio/webm", "video/webm",
    "video/mp4", "application/ogg",
)  # fmt: skip
WAV_TYPES = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/*")
MOST_FIELDS = 20
"""Most parts of a form."""


class CompletionOptions(DescribedModel):
    """Options of a turn."""

    model_config = ConfigDict(extra="forbid")

    reply: Literal["text", "voice"] | None = None
    """text: JSON; voice: WAV. When omitted, `Accept` decides, else text."""
    stream: bool | None = None
    """Whether the reply is streamed: server-sent events for text, a growing WAV for voice.

    `Accept: text/event-stream` means true when this is omitted, and streams voice as events too."""
    conversation: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Id of the conversation to continue; when omitted, a new one starts."""
    system: Annotated[str, Field(max_length=1_000_000)] | None = None
    """System prompt in place of the default, from this turn of the conversation on."""
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Longest answer, in tokens."""
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = None
    """Sampling temperature: 0 always takes the likeliest token; higher values vary more."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same seed, request and model give the same answer."""
    voice: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Name of a voice from /models, or default."""
    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of the spoken language, or auto."""


class PromptRequest(CompletionOptions):
    """A turn with a text prompt."""

    prompt: Annotated[str, Field(json_schema_extra={"minLength": 1})]
    """The user's message."""


class CompletionRequest(BaseModel):
    """A parsed request: the turn and the format of the response."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    turn: Turn
    kind: Literal["json", "wav", "events"]
    """Format of the response; `stream` says whether a WAV is sent while it is synthesized."""
    stream: bool


async def read(request: Request, traceparent: str) -> CompletionRequest:
    """Parses a request. Raises CallerError or RequestValidationError that names the fault, StorageError."""
    audio: Source | None = None
    media_type = json_body.media_type(request)
    if media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json")):
        _reject_query(request)
        options = await json_body.json_body(request, "a prompt", _from_json)
    elif media_type == "multipart/form-data":
        _reject_query(request)
        options, audio = await _from_form(request)
    elif media_type in AUDIO_TYPES:
        options, audio = _from_query(request), await Spool.of(request).body(request)
    else:
        raise Unsupported(
            f"the media type {media_type or '(none)'} is not supported; send application/json, multipart/form-data or "
            "an audio type such as audio/wav (with curl: -H 'Content-Type: application/json')",
            code="unsupported_media_type",
        )
    completion = _completion_request(options, audio, request.headers.get("accept", "*/*"))
    return completion.model_copy(update={"turn": replace(completion.turn, traceparent=traceparent)})


def _from_json(values: dict[str, Any]) -> CompletionOptions:
    if "prompt" not in values:
        raise Unprocessable("the request has neither a prompt nor audio", code="one_of_prompt_and_audio")
    return validated(PromptRequest, values, strict=True)


def _from_query(request: Request) -> CompletionOptions:
    return validated(CompletionOptions, _single(request.query_params.multi_items()), strict=False)


async def _from_form(request: Request) -> tuple[CompletionOptions, Source | None]:
    try:
        with writing(Path(tempfile.gettempdir())):
            async with request.form(max_files=2, max_fields=MOST_FIELDS, max_part_size=1 << 20) as form:
                return await _from_parts(form, Spool.of(request))
    except HTTPException as error:
        raise BadInput(f"the form cannot be read: {error.detail}", code="invalid_form") from None


async def _from_parts(form: FormData, spool: Spool) -> tuple[CompletionOptions, Source | None]:
    values = _single(form.multi_items())
    audio = values.pop("audio", None)
    if isinstance(audio, str):
        raise Unprocessable("the part audio is text; send it as a file", code="invalid_value")
    if audio is None and "prompt" not in values:
        raise Unprocessable("the form has neither a field prompt nor a part audio", code="one_of_prompt_and_audio")
    for name, value in values.items():
        if isinstance(value, UploadFile):
            raise Unprocessable(f"the part {name} is a file; only audio may be one")
    if audio is not None and "prompt" in values:
        raise Unprocessable(
            "the form has both a prompt and audio; it takes one of them", code="one_of_prompt_and_audio"
        )
    if audio is None:
        return validated(PromptRequest, values, strict=False), None
    return validated(CompletionOptions, values, strict=False), await spool.part(audio)


def _single(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in items:
        if name in values:
            raise Unprocessable(f"{name} is given more than once")
        values[name] = value
    return values


def _reject_query(request: Request) -> None:
    if request.query_params:
        names = ", ".join(request.query_params)
        raise Unprocessable(f"options in the query are for audio bodies only; put them into this body: {names}")


def _completion_request(options: CompletionOptions, audio: Source | None, accept: str) -> CompletionRequest:
    kind, stream = _kind(options, accept)
    turn = Turn(
        prompt=options.prompt if isinstance(options, PromptRequest) else None,
        audio=audio,
        speak=_speaks(options, accept),
        conversation=options.conversation,
        system=options.system,
        voice=options.voice,
        language=options.language,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        priority=Priority.REQUEST,
    )
    return CompletionRequest(turn=turn, kind=kind, stream=stream)


def _accepted(accept: str) -> dict[str, float]:
    """Media ranges of an Accept header with their weights (RFC 9110, 12.5.1); those of weight 0 are left out."""
    ranges: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (item.strip().lower() for item in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if name and weight > 0:
            ranges[name] = weight
    return ranges if accept.strip() else {"*/*": 1.0}


def _weight(ranges: dict[str, float], *names: str) -> float:
    return max((ranges.get(name, 0.0) for name in names), default=0.0)


def _speaks(options: CompletionOptions, accept: str) -> bool:
    if options.reply is not None:
        return options.reply == "voice"
    ranges = _accepted(accept)
    return _weight(ranges, *WAV_TYPES) > _weight(
        ranges, "application/json", "application/*", "text/event-stream", "*/*"
    )


def _kind(options: CompletionOptions, accept: str) -> tuple[Literal["json", "wav", "events"], bool]:
    """Format of the response and whether it streams. Raises NotAcceptable when `Accept` and the options conflict."""
    ranges, speaks = _accepted(accept), _speaks(options, accept)
    anything = "*/*" in ranges
    events = _weight(ranges, "text/event-stream", "text/*") > 0
    wav = _weight(ranges, *WAV_TYPES) > 0
    events_requested = "text/event-stream" in ranges and not (speaks and wav)
    stream = options.stream if options.stream is not None else events_requested
    if speaks:
        if stream and events and not wav:
            return "events", True
        if anything or wav:
            return "wav", stream
        allowed = "audio/wav, or text/event-stream unless stream=false"
    elif stream:
        if anything or events:
            return "events", True
        allowed = "text/event-stream"
    else:
        if anything or _weight(ranges, "application/json", "application/*"):
            return "json", False
        allowed = "application/json"
    requested = f"reply={'voice' if speaks else 'text'}" + (" with stream=true" if stream else "")
    raise NotAcceptable(f"{requested} answers with {allowed}, but Accept is {accept!r}")
