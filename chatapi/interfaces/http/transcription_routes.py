"""`POST /transcriptions`.

A recording is written to the folder of its job as it arrives, and accepted (202) once it and the job are on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, field_validator, model_validator
from starlette.responses import JSONResponse, Response

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder
from chatapi.errors import BadInput, Busy, TooLarge, Unprocessable, Unsupported, WaitAndRetry
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.job_models import JobModel, job_document
from chatapi.interfaces.http.job_routes import JobAccess, holder_of, limited_owner, own_id
from chatapi.interfaces.http.json_body import json_body, media_type
from chatapi.interfaces.http.openai import form_lists, known_speakers
from chatapi.interfaces.http.openai.uploads import receive_form
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.validation import validated
from chatapi.jobs import new_id
from chatapi.services.transcription import url_source
from chatapi.services.transcription.job_parameters import TranscriptionParameters
from chatapi.services.transcription.speakers import KnownSpeaker
from chatapi.services.transcription.transcript_files import TranscriptFormat
from chatapi.storage import atomic_files

UPLOADS = 16
"""Largest number of recordings that are uploaded at a time."""
UPLOADS_PER_KEY = 8
"""Largest number of them with one API key."""
RETRY_SECONDS = 10.0
"""Retry-After when there are too many, in seconds."""


class TranscriptionOptionsModel(DescribedModel):
    """Options of a transcription."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """What the recording is called; when omitted, as its file."""
    language: Annotated[str, Field(min_length=1, max_length=20)] | None = None
    """ISO 639-1 code of the spoken language, or auto: detected."""
    translate: bool = False
    """Whether the text is translated into English."""
    words: bool = False
    """Whether the JSON result has the times of words."""
    prompt: Annotated[str, Field(max_length=8000)] = ""
    """Context before the recording: its names and style become likelier in the transcript."""
    hotwords: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=200)] = ()
    """Words that become likelier in the transcript, such as names."""
    speakers: bool = False
    """Whether the result has speaker labels: A, B and so on, by their first words."""
    speaker_count: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many people speak; found out when omitted."""
    known_speaker_names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=known_speakers.MOST)
    ] = ()
    """Names of speakers of whom known_speaker_references has a sample."""
    known_speaker_references: Annotated[tuple[str, ...], Field(max_length=known_speakers.MOST)] = ()
    """2 to 10 s of speech of each of known_speaker_names, as data URLs."""
    formats: tuple[TranscriptFormat, ...] = ("json",)
    """Formats that are wanted; the first is the default of the result, and every format can be requested."""

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, values: Any) -> Any:
        """Accepts every way in which clients write lists into forms."""
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None and value != ""}
        return form_lists.normalized(given, cls.model_fields)

    @field_validator("formats")
    @classmethod
    def _formats(cls, value: tuple[TranscriptFormat, ...]) -> tuple[TranscriptFormat, ...]:
        return tuple(dict.fromkeys(value)) or ("json",)

    def parameters(self, name: str, url: str = "") -> TranscriptionParameters:
        """Raises Unprocessable (invalid_value)."""
        for each in ("speaker_count", known_speakers.NAMES, known_speakers.REFERENCES):
            if getattr(self, each) and not self.speakers:
                raise Unprocessable(f"{each} needs speakers=true", code="invalid_value", details={"param": each})
        return TranscriptionParameters(
            self.name or name or "recording", url=url, language=self.language, translate=self.translate,
            words=self.words, prompt=self.prompt, hotwords=self.hotwords, formats=self.formats,
            speakers=self.speakers, speaker_count=self.speaker_count, known_speakers=self.known_speaker_names,
        )  # fmt: skip

    async def voices(self) -> tuple[KnownSpeaker, ...]:
        """The samples of the known speakers. Raises Unprocessable that names the parameter."""
        return await known_speakers.known_speakers(self.known_speaker_names, self.known_speaker_references)


class UrlTranscriptionModel(TranscriptionOptionsModel):
    """A recording at a URL, and its options."""

    url: Annotated[str, Field(min_length=1, max_length=url_source.URL_CHARS)]
    """http:// or https://; the host must have a public address, unless transcription.private_urls is set."""


class Submissions:
    """Accepts recordings and adds their jobs."""

    def __init__(self, appliance: Appliance, access: JobAccess) -> None:
        self.appliance, self.access = appliance, access
        self._uploads: Counter[str] = Counter()
        """How many recordings each owner uploads now."""

    async def check_room(self, holder: KeyHolder) -> None:
        """Raises Busy where a job would be rejected, before its recording arrives."""
        await self.access.call(lambda store: store.check_room(limited_owner(holder)), lambda: None)

    @contextmanager
    def uploading(self, holder: KeyHolder) -> Iterator[None]:
        """Raises Busy (too_many_uploads)."""
        owner, limited = own_id(holder), limited_owner(holder)
        if self._uploads.total() >= UPLOADS or (limited and self._uploads[limited] >= UPLOADS_PER_KEY):
            most = f"{UPLOADS} recordings are uploaded now, or {UPLOADS_PER_KEY} with this key"
            raise Busy(f"{most}; try again later", retry_after=RETRY_SECONDS, code="too_many_uploads")
        self._uploads[owner] += 1
        try:
            yield
        finally:
            self._uploads -= Counter((owner,))

    async def store_voices(self, options: TranscriptionOptionsModel, job: str) -> None:
        """Store the samples of the known speakers in the folder of a job. Raises Unprocessable, StorageError."""
        voices = await options.voices()
        if voices:
            await anyio.to_thread.run_sync(self.appliance.transcription_jobs.store_voices, job, voices)

    async def add(self, parameters: TranscriptionParameters, owner: str, job: str, limited: bool = False) -> Response:
        """Add a job, whose recording is in its folder already; `limited`: its owner may have only so many.

        Raises what `TranscriptionJobs.check` and `JobStore.add` raise.
        """
        self.appliance.transcription_jobs.check(parameters)
        # A client that disconnects now must not take the recording from a job that is added.
        with anyio.CancelScope(shield=True):
            added = await self.appliance.jobs.add(replace(parameters.job(owner, id_=job), limited=limited))
        return JSONResponse(job_document(added), 202, {"Location": f"/jobs/{added.id}"})

    async def add_for(self, parameters: TranscriptionParameters, holder: KeyHolder, job: str) -> Response:
        """As `add`, for a client."""
        return await self.add(parameters, own_id(holder), job, limited_owner(holder) is not None)

    @contextmanager
    def folder(self, job: str) -> Iterator[Path]:
        """Where the recording of a job is written; deleted when the job is not added. Raises StorageError."""
        place = self.appliance.transcription_jobs.source(job)
        with atomic_files.writing(self.appliance.settings.data):
            place.parent.mkdir(mode=0o700, parents=True)
        try:
            yield place
        except BaseException:
            shutil.rmtree(place.parent, ignore_errors=True)
            raise


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    access = JobAccess(appliance.jobs.shared)
    _add_submission(routes, Submissions(appliance, access))
    return routes


def _add_submission(routes: APIRouter, submissions: Submissions) -> None:
    @routes.post(
        "/transcriptions",
        summary="Transcribe a recording of any length as a job",
        status_code=202,
        response_model=JobModel,
        responses=problems(400, 408, 413, 415, 422, 503, 507),
        openapi_extra=openapi.Deferred(_request_body),
    )
    async def transcriptions(request: Request) -> Response:
        await submissions.check_room(holder_of(request))
        kind = media_type(request)
        if kind == "multipart/form-data":
            return await _form(request, submissions)
        if kind.endswith("json"):
            return await _url(request, submissions)
        if kind.startswith(("audio/", "video/")) or kind in ("application/octet-stream", "application/ogg"):
            return await _raw(request, submissions)
        raise Unsupported(
            f"the media type {kind or '(none)'} is not supported; send a form with a part named file, audio, or JSON "
            "with a url",
            code="unsupported_media_type",
        )


def _request_body() -> dict[str, Any]:
    found = openapi.form_body(TranscriptionOptionsModel)
    content = found["requestBody"]["content"]
    content["application/json"] = {"schema": openapi.model_schema(UrlTranscriptionModel)}
    content["application/octet-stream"] = {"schema": openapi.BINARY}
    return found


async def _form(request: Request, submissions: Submissions) -> Response:
    job = new_id()
    with submissions.uploading(holder_of(request)), submissions.folder(job) as place:
        _require_space(request, place)
        upload = await receive_form(request, place)
        try:
            options = validated(TranscriptionOptionsModel, upload.fields)
            parameters = options.parameters(file_name(getattr(upload.form["file"], "filename", "")))
            await submissions.store_voices(options, job)
        finally:
            await upload.aclose()
        await anyio.to_thread.run_sync(store_durably, place)
        return await submissions.add_for(parameters, holder_of(request), job)


async def _raw(request: Request, submissions: Submissions) -> Response:
    job, options = new_id(), validated(TranscriptionOptionsModel, _query(request))
    parameters = options.parameters("")
    submissions.appliance.transcription_jobs.check(parameters)
    with submissions.uploading(holder_of(request)), submissions.folder(job) as place:
        _require_space(request, place)
        await submissions.store_voices(options, job)
        await receive_raw(request, place)
        if not place.stat().st_size:
            raise BadInput("the body is empty; send the recording in it", code="bad_audio")
        await anyio.to_thread.run_sync(store_durably, place)
        return await submissions.add_for(parameters, holder_of(request), job)


async def _url(request: Request, submissions: Submissions) -> Response:
    wanted = await json_body(request, "a url and options", partial(validated, UrlTranscriptionModel))
    url = url_source.checked(wanted.url)
    private = submissions.appliance.settings.transcription.private_urls
    # Checked again for each connection that is made.
    try:
        await anyio.to_thread.run_sync(url_source.resolved, url, private)
    except WaitAndRetry as error:
        raise Unprocessable(error.message, code=error.code, details={"param": "url"}) from error
    parameters = wanted.parameters(url_source.name_of(url), wanted.url)
    job = new_id()
    with submissions.folder(job):
        await submissions.store_voices(wanted, job)
        return await submissions.add_for(parameters, holder_of(request), job)


def _query(request: Request) -> dict[str, Any]:
    """The options of the query: a name that is repeated is a list."""
    return {name: request.query_params.getlist(name) for name in request.query_params}


def file_name(name: str | None) -> str:
    """The last part of a file's name."""
    return (name or "").replace("\\", "/").rpartition("/")[2][:200]


def _require_space(request: Request, place: Path) -> None:
    """Raises StorageError when the stated length does not fit on the disk."""
    stated = request.headers.get("content-length", "0")
    atomic_files.require(place.parent, int(stated) if stated.isdecimal() else 0, "the recording")


async def receive_raw(request: Request, place: Path, most: int | None = None) -> None:
    """Append the body to a file. Raises StorageError; TooLarge when it has more than `most` bytes, which are stored."""
    left = most
    with atomic_files.writing(place.parent):
        descriptor = await anyio.to_thread.run_sync(
            lambda: os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        )
    with FileIO(descriptor, "ab") as file:
        async for chunk in request.stream():
            with atomic_files.writing(place.parent):
                await anyio.to_thread.run_sync(_write, file, chunk[:left])
            if left is not None and len(chunk) > left:
                raise TooLarge(f"the body has more than the {most} bytes that are left of the recording")
            left = None if left is None else left - len(chunk)


def _write(file: FileIO, data: bytes) -> None:
    """Write all of the data; a single write may store a part of it. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def store_durably(place: Path) -> None:
    """Wait until a recording and its folder are on the disk. Raises StorageError."""
    with atomic_files.writing(place.parent):
        for each in (place, place.parent, place.parent.parent):
            atomic_files.sync(each)
