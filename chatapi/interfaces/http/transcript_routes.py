"""The routes of what a transcription job has to show: its transcript, the names of its speakers, and its audio."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import FileResponse, Response

from chatapi.appliance import Appliance
from chatapi.audio import playback_copy
from chatapi.errors import NotFound, WrongMode
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.job_models import TranscriptModel
from chatapi.interfaces.http.job_routes import JobAccess, holder_of, visible
from chatapi.interfaces.http.json_body import json_body
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.interfaces.http.validation import validated
from chatapi.jobs import JobRecord, JobStore
from chatapi.services.transcription import job_parameters, transcript_files
from chatapi.services.transcription.job_parameters import TranscriptionParameters
from chatapi.services.transcription.transcript_files import TranscriptFormat

MOST_SPEAKERS = 200
"""Largest number of speakers that one request names."""
Name = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class SpeakerNamesModel(DescribedModel):
    """Names of speakers."""

    model_config = ConfigDict(extra="forbid")

    names: Annotated[dict[Annotated[str, Field(max_length=100)], Name], Field(min_length=1, max_length=MOST_SPEAKERS)]
    """Speaker label of the transcript, such as A -> the name that is shown and downloaded; empty: the label again."""


class AudioLinkModel(ResponseModel):
    """A link to the recording of a job."""

    url: str
    """Its path and query on this server; GET and HEAD need no key with it."""
    expires_at: int
    """When it expires, in seconds since 1970."""


class NamedSpeakersModel(ResponseModel):
    """The names of the speakers of a transcript."""

    names: dict[str, str]
    """Speaker label -> name, of all speakers that have one."""


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    access = JobAccess(appliance.jobs.shared)
    _add_result(routes, appliance, access)
    _add_speakers(routes, appliance, access)
    _add_audio(routes, appliance, access)
    return routes


def _done(store: JobStore, job: str, request: Request) -> JobRecord:
    """A transcription job that the client may see and that is done. Raises NotFound, WrongMode (job_not_done)."""
    found = visible(store, job, holder_of(request))
    if found.kind != job_parameters.KIND:
        raise NotFound(f"a job of kind {found.kind} has no transcript", code="no_result")
    if found.state != "done":
        why = f": {found.failure.message}" if found.failure else ""
        raise WrongMode(f"job {job} is {found.state}{why}", code="job_not_done")
    return found


def _missing(job: str) -> NotFound:
    return NotFound(f"the transcript of job {job} is missing or damaged", code="no_result")


def _add_result(routes: APIRouter, appliance: Appliance, access: JobAccess) -> None:
    content: dict[str, Any] = {
        kind.partition(";")[0]: {"schema": {"type": "string"}} for kind in transcript_files.MEDIA_TYPES.values()
    }
    content["application/json"] = {"schema": openapi.model_schema(TranscriptModel)}

    @routes.get(
        "/jobs/{job}/result",
        summary="The transcript of a job that is done",
        response_class=Response,
        responses={200: {"description": "The transcript.", "content": content}, **problems(404, 409, 422, 503)},
    )
    async def result(
        request: Request,
        job: str,
        form: Annotated[TranscriptFormat | None, Query(alias="format", description="Default: as requested.")] = None,
    ) -> Response:
        def read(store: JobStore) -> tuple[TranscriptFormat, str]:
            found = _done(store, job, request)
            document = appliance.transcription_jobs.results.transcript(found)
            if document is None:
                raise _missing(job)
            chosen = form or TranscriptionParameters.of(found).formats[0]
            return chosen, transcript_files.rendered(document, chosen)

        chosen, text = await access.call(read)
        return Response(text.encode("utf-8", "replace"), media_type=transcript_files.MEDIA_TYPES[chosen])


def _add_speakers(routes: APIRouter, appliance: Appliance, access: JobAccess) -> None:
    @routes.patch(
        "/jobs/{job}/speakers",
        summary="Name the speakers of a transcript",
        response_model=NamedSpeakersModel,
        responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
        openapi_extra=openapi.json_body(SpeakerNamesModel),
    )
    async def speakers(request: Request, job: str) -> dict[str, Any]:
        wanted = await json_body(request, "names of speakers", partial(validated, SpeakerNamesModel))

        def change(store: JobStore) -> dict[str, Any]:
            names = appliance.transcription_jobs.results.name_speakers(_done(store, job, request), wanted.names)
            if names is None:
                raise _missing(job)
            return {"names": names}

        return await access.call(change)


def _add_audio(routes: APIRouter, appliance: Appliance, access: JobAccess) -> None:
    def find(request: Request, job: str, store: JobStore) -> Path:
        """The copy of the recording. Raises NotFound (no_audio)."""
        found = appliance.transcription_jobs.results.audio(_done(store, job, request))
        if found is None:
            raise NotFound(f"the audio of job {job} is not kept (transcription.keep_audio)", code="no_audio")
        return found

    @routes.get(
        "/jobs/{job}/audio",
        summary="The recording of a job that is done, as MP3; ranges are supported",
        response_class=Response,
        responses={
            200: {"description": "The audio.", "content": {playback_copy.MEDIA_TYPE: {"schema": openapi.BINARY}}},
            **problems(404, 409, 503),
        },
    )
    async def audio(request: Request, job: str) -> Response:
        place = await access.call(partial(find, request, job))
        return FileResponse(place, media_type=playback_copy.MEDIA_TYPE, headers={"Cache-Control": "private, no-cache"})

    @routes.post(
        "/jobs/{job}/audio-link",
        summary="A link to the recording that needs no key and expires soon, for an audio player",
        response_model=AudioLinkModel,
        responses=problems(404, 409, 503),
    )
    async def audio_link(request: Request, job: str) -> dict[str, Any]:
        await access.call(partial(find, request, job))
        url, expires = appliance.keyring.links.create(holder_of(request), f"/jobs/{job}/audio")
        return {"url": url, "expires_at": expires}
