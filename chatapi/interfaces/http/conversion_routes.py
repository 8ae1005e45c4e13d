"""`POST /conversions`: a recording, said in another voice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.audio import Audio, joined
from chatapi.audio.decode import Source, duration
from chatapi.audio.provenance import marked_wav, marked_wav_header
from chatapi.auth import KeyHolder
from chatapi.errors import NotFound, Unprocessable, WrongMode
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_models import JobModel, job_document
from chatapi.interfaces.http.job_routes import JobAccess, holder_of, limited_owner, own_id, owner_of, visible
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.streaming import CancellableResponse, body, start
from chatapi.interfaces.http.text_parameters import parse_bool
from chatapi.interfaces.http.voice_forms import receive_voice_form
from chatapi.jobs import new_id
from chatapi.jobs.store import JobStore
from chatapi.services.voice_conversion.jobs import KIND, ConversionParameters
from chatapi.services.voice_conversion.references import ReferenceClip
from chatapi.services.voice_conversion.service import TargetVoice, VoiceConversion, mark
from chatapi.services.voice_conversion.store import MOST_CONSENT, MOST_NAME, checked_consent
from chatapi.storage import atomic_files


class ConversionResponse(CancellableResponse):
    """The converted recording as WAV."""

    def __init__(
        self,
        service: VoiceConversion,
        source: Source,
        target: TargetVoice | Sequence[ReferenceClip],
        streamed: bool = False,
    ) -> None:
        """`streamed`: each part as soon as it is converted; otherwise the file is sent when it is complete."""
        super().__init__()
        self._service, self._source, self._target, self._streamed = service, source, target, streamed

    async def reply(self, send: Send) -> None:
        async with self._service.convert(self._source, self._target) as conversion:
            if self._streamed:
                # An error of the first part gets a status of its own.
                first = await anext(conversion.chunks, Audio(np.zeros(0, np.float32), conversion.rate))
                await send(start("audio/wav"))
                await send(body(marked_wav_header(conversion.rate, mark(self._target)) + first.pcm16()))
                async for chunk in conversion.chunks:
                    await send(body(chunk.pcm16()))
                await send(body(b"", more=False))
                return
            parts = [Audio(np.zeros(0, np.float32), conversion.rate)]
            parts += [each async for each in conversion.chunks]
        content = marked_wav(joined(parts), mark(self._target))
        await send(start("audio/wav", {"Content-Length": str(len(content))}))
        await send(body(content, more=False))


def _request() -> dict[str, Any]:
    clips = {"type": "array", "items": openapi.BINARY}
    properties = {
        "source": {**openapi.BINARY, "description": "The recording."},
        "voice": {"type": "string", "minLength": 1, "maxLength": MOST_NAME, "description": "A voice's id or name."},
        "targets": {**clips, "description": "Clips of the voice, where it is not stored; they need consent."},
        "consent": {"type": "string", "maxLength": MOST_CONSENT},
        "job": {"type": "boolean", "default": False, "description": "Whether it is a job even if it is short."},
        "stream": {"type": "boolean", "default": False, "description": "Whether the WAV is sent as it is converted."},
    }
    schema = {"type": "object", "properties": properties, "required": ["source"]}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    service, jobs = appliance.voice_conversion, _ConversionSubmissions(appliance)
    _add_result(routes, appliance)

    @routes.post(
        "/conversions",
        summary="A recording in another voice: a stored one, or that of clips in the request; a long one as a job",
        response_class=Response,
        responses={
            200: {"description": "The WAV file.", "content": {"audio/wav": {"schema": openapi.BINARY}}},
            202: {"description": "The job of a long recording.", "model": JobModel},
            **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
        },
        openapi_extra=_request(),
    )
    async def convert(request: Request) -> Response:
        appliance.require_ready()
        service.check_admission()
        form = await receive_voice_form(request, ("voice", "consent", "stream", "job"), sourced=True)
        source, streamed = form.required_source(), parse_bool("stream", form.texts.get("stream", ""))
        voice = form.texts.get("voice", "")
        if bool(voice) == bool(form.clips):
            raise Unprocessable("give either voice or targets", code="missing_voice", details={"param": "voice"})
        if form.clips:
            checked_consent(form.texts.get("consent", ""))
        holder = holder_of(request)
        target = form.clips or await service.target(voice, owner_of(holder))
        if not streamed and await jobs.is_job(source, parse_bool("job", form.texts.get("job", ""))):
            return await jobs.add(source, target, holder)
        return ConversionResponse(service, source, target, streamed)

    return routes


class _ConversionSubmissions:
    """Adds the jobs of long recordings."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance, self._access = appliance, JobAccess(appliance.jobs.shared)

    async def is_job(self, source: Source, wanted: bool) -> bool:
        """Whether a recording is wanted as a job, or is too long to wait for. Raises what `duration` raises."""
        most = self._appliance.settings.voice_converter.max_seconds
        return wanted or await anyio.to_thread.run_sync(duration, source) > most

    async def add(self, source: Source, target: TargetVoice | Sequence[ReferenceClip], holder: KeyHolder) -> Response:
        """Adds a job. Raises Busy, StorageError, and what `VoiceConversion.target_of` raises."""
        appliance, jobs, job = self._appliance, self._appliance.conversion_jobs, new_id()
        await self._access.call(lambda store: store.check_room(limited_owner(holder)), lambda: None)
        if not isinstance(target, TargetVoice):
            target = await appliance.voice_conversion.target_of(target)
        parameters = ConversionParameters("the recording", target.name)
        try:
            await anyio.to_thread.run_sync(_store, jobs.source(job), source)
            await anyio.to_thread.run_sync(jobs.store_reference, job, target)
            request = replace(parameters.job(own_id(holder), job), limited=limited_owner(holder) is not None)
            # A client that disconnects now must not take the recording from a job that is added.
            with anyio.CancelScope(shield=True):
                added = await appliance.jobs.add(request)
        except BaseException:
            shutil.rmtree(jobs.source(job).parent, ignore_errors=True)
            raise
        return JSONResponse(job_document(added), 202, {"Location": f"/jobs/{added.id}"})


def _store(place: Path, source: Source) -> None:
    with atomic_files.writing(place.parent.parent):
        place.parent.mkdir(mode=0o700, parents=True)
        with place.open("xb") as file:
            if isinstance(source, bytes):
                file.write(source)
            elif isinstance(source, Path):
                file.write(source.read_bytes())
            else:
                source.seek(0)
                shutil.copyfileobj(source, file)
        for each in (place, place.parent, place.parent.parent):
            atomic_files.sync(each)


def _add_result(routes: APIRouter, appliance: Appliance) -> None:
    access = JobAccess(appliance.jobs.shared)

    @routes.get(
        "/conversions/{job}",
        summary="The WAV file of a conversion job that is done; ranges are supported",
        response_class=Response,
        responses={
            200: {"description": "The WAV file.", "content": {"audio/wav": {"schema": openapi.BINARY}}},
            **problems(404, 409, 503),
        },
    )
    async def result(request: Request, job: str) -> Response:
        def find(store: JobStore) -> Path:
            found = visible(store, job, holder_of(request))
            if found.kind != KIND:
                raise NotFound(f"a job of kind {found.kind} has no converted recording", code="no_result")
            if found.state != "done":
                why = f": {found.failure.message}" if found.failure else ""
                raise WrongMode(f"job {job} is {found.state}{why}", code="job_not_done")
            place = appliance.conversion_jobs.result(found)
            if place is None:
                raise NotFound(f"the converted recording of job {job} is missing", code="no_result")
            return place

        place = await access.call(find)
        return FileResponse(place, media_type="audio/wav", headers={"Cache-Control": "private, no-cache"})
