"""Resumable uploads of recordings: tus 1.0.0 (https://tus.io/protocols/resumable-upload).

An upload has the id of the job that it becomes, and is in that job's folder from its first byte on. Its offset is the
size of its file, which is on the disk before a request is answered, so that it goes on after a restart. The package
tuspyserver is not used: it stores elsewhere, knows no owners, limits only the size, and has errors of its own kind.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from chatapi.appliance import Appliance
from chatapi.auth import KeyHolder
from chatapi.errors import BadInput, Busy, NotFound, StorageError, TooLarge, Unsupported, WrongMode
from chatapi.interfaces.http.job_routes import JobAccess, holder_of, limited_owner, own_id, owner_of
from chatapi.interfaces.http.json_body import media_type
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.response_models import ResponseModel
from chatapi.interfaces.http.transcription_routes import (
    RETRY_SECONDS,
    Submissions,
    TranscriptionOptionsModel,
    file_name,
    receive_raw,
    store_durably,
)
from chatapi.interfaces.http.validation import validated
from chatapi.jobs import JobLimits, new_id
from chatapi.services.transcription.job_parameters import TranscriptionParameters
from chatapi.storage import atomic_files

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination"
CHUNK_TYPE = "application/offset+octet-stream"
OPEN, ADDED = "upload.json", "uploaded.json"
"""Name of the file about an upload in the job's folder, before and after its job is added."""
ID = re.compile(r"j[0-9a-f]{24}")
MOST_METADATA = 64 << 10
"""Longest `Upload-Metadata`, in characters."""


@dataclass(frozen=True)
class ResumableUpload:
    """An upload, as it is stored."""

    id: str
    length: int
    """Bytes of the whole recording."""
    owner: str
    parameters: Mapping[str, Any]
    limited: bool = False
    """Whether its owner may have only so many uploads and jobs."""


class UploadModel(ResponseModel):
    """An upload."""

    id: str
    """Also that of the job which it becomes."""
    offset: int
    """Bytes that have arrived."""
    length: int
    """Bytes of the whole recording."""


class ResumableUploads:
    """The uploads of a data directory. Belongs to one event loop."""

    def __init__(self, appliance: Appliance) -> None:
        access = JobAccess(appliance.jobs.shared)
        self.submissions = Submissions(appliance, access)
        self.most_bytes = appliance.settings.transcription.upload_bytes
        self._limits = JobLimits.of(appliance.settings.jobs)
        """Those of unfinished jobs are those of unfinished uploads."""
        self._jobs = appliance.transcription_jobs
        self._receiving: set[str] = set()
        self._finishing = anyio.Lock()
        self.creating = anyio.Lock()
        """Held by `create`, which counts the others."""

    def place(self, upload: str) -> Path:
        """The file of an upload. Raises NotFound."""
        if not ID.fullmatch(upload):
            raise NotFound(f"there is no upload {upload[:40]!r}", code="unknown_upload")
        return self._jobs.source(upload)

    def offset(self, upload: ResumableUpload) -> int:
        """Bytes that are stored."""
        place = self.place(upload.id)
        if place.with_name(ADDED).exists():
            return upload.length
        return place.stat().st_size if place.exists() else 0

    def find(self, upload: str, request: Request) -> ResumableUpload:
        """An upload that the client may see. Blocking. Raises NotFound."""
        place, owner = self.place(upload), owner_of(holder_of(request))
        for name in (OPEN, ADDED):
            found = _stored(place.with_name(name))
            if found is not None and (owner is None or found.owner == owner):
                return found
        raise NotFound(f"there is no upload {upload!r}, or it has expired", code="unknown_upload")

    def create(self, length: int, holder: KeyHolder, parameters: TranscriptionParameters) -> ResumableUpload:
        """A new upload. Blocking. Raises Busy (too_many_uploads), StorageError."""
        limited = limited_owner(holder) is not None
        upload = ResumableUpload(new_id(), length, own_id(holder), asdict(parameters), limited)
        place = self.place(upload.id)
        jobs = place.parent.parent
        self._require_room(jobs, upload)
        atomic_files.require(jobs.parent, length, "the recording")
        try:
            with atomic_files.writing(jobs.parent):
                place.parent.mkdir(mode=0o700, parents=True)
                place.touch(0o600)
                atomic_files.write_whole(place.with_name(OPEN), json.dumps(asdict(upload)), private=True)
                store_durably(place)
        except BaseException:
            shutil.rmtree(place.parent, ignore_errors=True)
            raise
        return upload

    def _require_room(self, jobs: Path, upload: ResumableUpload) -> None:
        """Raises Busy (too_many_uploads)."""
        others = [found for each in jobs.glob(f"*/{OPEN}") if (found := _stored(each)) is not None]
        own = sum(each.owner == upload.owner for each in others) if upload.limited else 0
        limits = self._limits
        for number, most, whose in ((len(others), limits.unfinished, ""), (own, limits.per_owner, " of this key")):
            if number >= most:
                message = f"{number} uploads{whose} are unfinished and at most {most} may be; finish or delete one"
                raise Busy(message, retry_after=RETRY_SECONDS, code="too_many_uploads")

    @contextmanager
    def receiving(self, upload: str) -> Iterator[None]:
        """Raises WrongMode while another request sends to the upload."""
        if upload in self._receiving:
            raise WrongMode(f"another request sends to the upload {upload}", code="upload_in_use")
        self._receiving.add(upload)
        try:
            yield
        finally:
            self._receiving.discard(upload)

    async def append(self, upload: ResumableUpload, request: Request) -> int:
        """Store the body behind what is stored; returns the new offset. What arrived of a broken request is kept."""
        place, before = self.place(upload.id), self.offset(upload)
        try:
            await receive_raw(request, place, upload.length - before)
        finally:
            with anyio.CancelScope(shield=True):
                await self._store(place)
        return self.offset(upload)

    async def finish(self, upload: ResumableUpload) -> None:
        """Add the job of a complete upload, unless it is added; also while a request still sends. Raises as
        `JobStore.add`."""
        place = self.place(upload.id)
        async with self._finishing:
            if place.with_name(ADDED).exists():
                return
            await self._store(place)
            parameters = TranscriptionParameters.of_json(upload.parameters)
            try:
                await self.submissions.access.call(lambda store: store.get(upload.id))
            except NotFound:
                await self.submissions.add(parameters, upload.owner, upload.id, upload.limited)
            with atomic_files.writing(place.parent):
                place.with_name(OPEN).rename(place.with_name(ADDED))

    async def _store(self, place: Path) -> None:
        """Wait until a recording is on the disk, unless its job is added, which deletes it. Raises StorageError."""
        try:
            await anyio.to_thread.run_sync(store_durably, place)
        except StorageError:
            if not place.with_name(ADDED).exists():
                raise

    def delete(self, upload: ResumableUpload) -> None:
        """Delete an unfinished upload. Blocking. Raises WrongMode when its job is added, StorageError."""
        place = self.place(upload.id)
        if not place.with_name(OPEN).exists():
            raise WrongMode(f"the upload is complete; delete the job {upload.id}", code="upload_complete")
        try:
            shutil.rmtree(place.parent)
        except OSError as error:
            raise StorageError(f"cannot delete the upload: {error.strerror}") from error


def _stored(file: Path) -> ResumableUpload | None:
    """An upload as it is stored; None: it is not there, or cannot be read."""
    try:
        return ResumableUpload(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    uploads = ResumableUploads(appliance)
    _add_creation(routes, uploads)
    _add_state(routes, uploads)
    _add_chunks(routes, uploads)
    return routes


def _add_creation(routes: APIRouter, uploads: ResumableUploads) -> None:
    @routes.options("/uploads", summary="What tus supports here", status_code=204)
    async def options() -> Response:
        return _response(204, {"Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Max-Size": uploads.most_bytes})

    @routes.post(
        "/uploads",
        summary="Begin a resumable upload (tus 1.0.0) of a recording to transcribe",
        status_code=201,
        response_class=Response,
        responses={201: {"description": "Location has the upload."}, **problems(400, 408, 413, 415, 422, 503, 507)},
    )
    async def create(request: Request) -> Response:
        await uploads.submissions.check_room(holder_of(request))
        length, given = _number(request, "Upload-Length"), _metadata(request.headers.get("upload-metadata", ""))
        if length > uploads.most_bytes:
            message = f"the recording has {length} bytes and at most {uploads.most_bytes} are accepted"
            raise TooLarge(message, details={"limit_bytes": uploads.most_bytes})
        if not length:
            raise BadInput("Upload-Length is 0; an empty recording has no speech", code="bad_audio")
        known = {name: value for name, value in given.items() if name in TranscriptionOptionsModel.model_fields}
        options = validated(TranscriptionOptionsModel, known)
        parameters = options.parameters(file_name(given.get("filename")))
        uploads.submissions.appliance.transcription_jobs.check(parameters)
        async with uploads.creating:
            voices = await options.voices()
            upload = await anyio.to_thread.run_sync(uploads.create, length, holder_of(request), parameters)
            jobs = uploads.submissions.appliance.transcription_jobs
            await anyio.to_thread.run_sync(jobs.store_voices, upload.id, voices)
        headers: dict[str, Any] = {"Location": f"/uploads/{upload.id}", "Upload-Offset": 0}
        if media_type(request) == CHUNK_TYPE:
            with uploads.receiving(upload.id):
                headers["Upload-Offset"] = await _append(uploads, upload, request)
        return _response(201, headers)


def _add_state(routes: APIRouter, uploads: ResumableUploads) -> None:
    @routes.get(
        "/uploads/{upload}",
        summary="How far an upload is; HEAD has the same headers",
        response_model=UploadModel,
        responses=problems(404, 422, 503, 507),
    )
    async def state(request: Request, upload: str) -> Response:
        found = await anyio.to_thread.run_sync(uploads.find, upload, request)
        offset = uploads.offset(found)
        if offset == found.length:
            # A restart may have come between the last byte and the job.
            await uploads.finish(found)
        headers = _headers({"Upload-Offset": offset, "Upload-Length": found.length, "Cache-Control": "no-store"})
        document = {"id": found.id, "offset": offset, "length": found.length}
        return JSONResponse(document, headers=headers)


def _add_chunks(routes: APIRouter, uploads: ResumableUploads) -> None:
    @routes.patch(
        "/uploads/{upload}",
        summary="Send the next bytes of an upload; the last ones add the job",
        status_code=204,
        responses=problems(400, 404, 408, 409, 413, 415, 503, 507),
    )
    async def append(request: Request, upload: str) -> Response:
        if media_type(request) != CHUNK_TYPE:
            message = f"the media type must be {CHUNK_TYPE}"
            raise Unsupported(message, code="unsupported_media_type")
        with uploads.receiving(upload):
            found = await anyio.to_thread.run_sync(uploads.find, upload, request)
            offset = uploads.offset(found)
            if _number(request, "Upload-Offset") != offset:
                raise WrongMode(f"the upload is at the offset {offset}; HEAD tells it", code="wrong_offset")
            headers: dict[str, Any] = {"Upload-Offset": await _append(uploads, found, request)}
            if headers["Upload-Offset"] == found.length:
                headers["Location"] = f"/jobs/{found.id}"
            return _response(204, headers)

    @routes.delete(
        "/uploads/{upload}", summary="Delete an unfinished upload", status_code=204, responses=problems(404, 409, 507)
    )
    async def delete(request: Request, upload: str) -> Response:
        with uploads.receiving(upload):
            found = await anyio.to_thread.run_sync(uploads.find, upload, request)
            await anyio.to_thread.run_sync(uploads.delete, found)
        return _response(204, {})


async def _append(uploads: ResumableUploads, upload: ResumableUpload, request: Request) -> int:
    """Store the body; when the recording is complete, add its job. Returns the offset."""
    with uploads.submissions.uploading(holder_of(request)):
        offset = await uploads.append(upload, request)
    if offset == upload.length:
        await uploads.finish(upload)
    return offset


def _headers(headers: Mapping[str, Any]) -> dict[str, str]:
    return {"Tus-Resumable": VERSION, **{name: str(value) for name, value in headers.items()}}


def _response(status: int, headers: Mapping[str, Any]) -> Response:
    return Response(status_code=status, headers=_headers(headers))


def _number(request: Request, name: str) -> int:
    """A header that is a number of bytes. Raises BadInput."""
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadInput(f"{name} must be a number of bytes, not {text[:40]!r}")
    return int(text)


def _metadata(text: str) -> dict[str, str]:
    """The pairs of `Upload-Metadata`: names, and values in base64. Raises BadInput."""
    if len(text) > MOST_METADATA:
        raise BadInput(f"Upload-Metadata has more than {MOST_METADATA} characters")
    found = {}
    for pair in filter(None, (each.strip() for each in text.split(","))):
        name, _, value = pair.partition(" ")
        try:
            found[name] = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise BadInput(f"the value of {name[:40]!r} in Upload-Metadata is not text in base64") from None
    return found
