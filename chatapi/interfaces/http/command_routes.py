"""The routes of command recognition, and of its teaching."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict
from starlette.responses import Response, StreamingResponse

from chatapi.appliance import Appliance
from chatapi.errors import Unsupported
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.command_models import (
    ClassificationModel,
    CommandsModel,
    SampleModel,
    SamplesModel,
    SubmissionModel,
    VersionsModel,
)
from chatapi.interfaces.http.completion_request import AUDIO_TYPES
from chatapi.interfaces.http.described import DescribedModel
from chatapi.interfaces.http.job_models import JobModel, job_document
from chatapi.interfaces.http.job_routes import holder_of, limited_owner, own_id, owner_of
from chatapi.interfaces.http.json_body import json_body, media_type
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.validation import validated
from chatapi.services.command_recognition.sample_store import MOST_LABEL, Submitter
from chatapi.services.command_recognition.teaching import CommandTeaching, version_document

MOST_PAGE = 1000
"""Most samples of one page."""
CHUNK = 1 << 20
"""Bytes of an archive that are sent at once."""


class ReviewModel(DescribedModel):
    """A decision about a sample."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["accepted", "quarantined"]
    """What the sample becomes."""


def _clip_request() -> dict[str, Any]:
    content = {name: {"schema": openapi.BINARY} for name in ("audio/wav", "audio/flac", "audio/ogg", "audio/webm")}
    return {"requestBody": {"required": True, "content": content}}


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_recognition(routes, appliance)
    _add_submission(routes, appliance.command_teaching)
    _add_samples(routes, appliance.command_teaching)
    _add_sample(routes, appliance.command_teaching)
    _add_training(routes, appliance.command_teaching)
    _add_versions(routes, appliance.command_teaching)
    return routes


def _require_audio(request: Request) -> None:
    if (kind := media_type(request)) not in AUDIO_TYPES:
        message = f"the media type {kind or '(none)'} is not supported; send an audio type such as audio/wav"
        raise Unsupported(message, code="unsupported_media_type")


def _add_recognition(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.command_recognition

    @routes.get(
        "/commands", summary="The commands that are recognized", response_model=CommandsModel, responses=problems(503)
    )
    async def commands() -> dict[str, Any]:
        labels = await service.labels()
        model = appliance.active.get("command", "")
        return {"labels": list(labels), "model": model, "version": service.version.number}

    @routes.post(
        "/commands/classify",
        summary="Which command a clip of about a second is",
        response_model=ClassificationModel,
        responses=problems(400, 408, 413, 415, 422, 503, 507),
        openapi_extra=_clip_request(),
    )
    async def classify(request: Request) -> dict[str, Any]:
        _require_audio(request)
        found = await service.classify_file(await Spool.of(request).body(request))
        return vars(found)


def _add_submission(routes: APIRouter, teaching: CommandTeaching) -> None:
    @routes.post(
        "/commands/samples",
        summary="Submits a clip as a sample of a word",
        status_code=201,
        response_model=SubmissionModel,
        responses=problems(400, 408, 409, 413, 415, 422, 429, 503, 507),
        openapi_extra=_clip_request(),
    )
    async def submit(
        request: Request, label: Annotated[str, Query(min_length=1, max_length=MOST_LABEL)]
    ) -> dict[str, Any]:
        _require_audio(request)
        by = Submitter(own_id(holder_of(request)), "http")
        found = await teaching.submission.submit_file(await Spool.of(request).body(request), label, by)
        return {
            "sample": asdict(found.sample),
            "duplicate": found.duplicate,
            "classification": vars(found.classification),
        }


def _add_samples(routes: APIRouter, teaching: CommandTeaching) -> None:
    store = teaching.samples

    @routes.get(
        "/commands/samples",
        summary="Samples, the newest first; without the scope operate those of the key",
        response_model=SamplesModel,
        responses=problems(404, 422, 503, 507),
    )
    async def samples(
        request: Request,
        label: Annotated[str, Query(max_length=MOST_LABEL)] = "",
        state: Literal["", "accepted", "quarantined"] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 100,
        before: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
    ) -> dict[str, Any]:
        find = partial(store.find, owner_of(holder_of(request)), label, state, limit + 1, before)
        found = await anyio.to_thread.run_sync(find)
        following = found[limit - 1].id if len(found) > limit else None
        return {"samples": [asdict(each) for each in found[:limit]], "next": following}

    @routes.get(
        "/commands/samples/export",
        summary="A tar archive of the samples and of samples.jsonl",
        response_class=Response,
        responses={200: {"content": {"application/x-tar": {"schema": openapi.BINARY}}}, **problems(503, 507)},
    )
    async def export(request: Request) -> Response:
        file = await anyio.to_thread.run_sync(Spool.of(request).open)
        await teaching.export(file, owner_of(holder_of(request)))
        file.seek(0)
        headers = {"Content-Disposition": 'attachment; filename="samples.tar"'}
        return StreamingResponse(iter(partial(file.read, CHUNK), b""), media_type="application/x-tar", headers=headers)


def _add_sample(routes: APIRouter, teaching: CommandTeaching) -> None:
    store = teaching.samples

    @routes.get(
        "/commands/samples/{sample}/audio",
        summary="The sound of a sample",
        response_class=Response,
        responses={200: {"content": {"audio/wav": {"schema": openapi.BINARY}}}, **problems(404, 503, 507)},
    )
    async def audio(request: Request, sample: str) -> Response:
        found = await anyio.to_thread.run_sync(store.get, sample, owner_of(holder_of(request)))
        return Response(await anyio.to_thread.run_sync(store.sound, found), media_type="audio/wav")

    @routes.patch(
        "/commands/samples/{sample}",
        summary="Accepts a quarantined sample, or quarantines an accepted one",
        response_model=SampleModel,
        responses=problems(400, 404, 408, 413, 415, 422, 503, 507),
        openapi_extra=openapi.json_body(ReviewModel),
    )
    async def review(request: Request, sample: str) -> dict[str, Any]:
        decision = await json_body(request, "a decision about a sample", partial(validated, ReviewModel))
        return asdict(await anyio.to_thread.run_sync(store.review, sample, decision.state == "accepted"))

    @routes.delete(
        "/commands/samples/{sample}",
        summary="Deletes a sample",
        status_code=204,
        responses=problems(404, 503, 507),
    )
    async def delete(request: Request, sample: str) -> None:
        await anyio.to_thread.run_sync(store.delete, sample, owner_of(holder_of(request)))


def _add_training(routes: APIRouter, teaching: CommandTeaching) -> None:
    @routes.post(
        "/commands/train",
        summary="Starts a training; GET /jobs/{job}/events follows it",
        status_code=202,
        response_model=JobModel,
        responses=problems(409, 422, 503, 507),
    )
    async def train(request: Request) -> dict[str, Any]:
        holder = holder_of(request)
        return job_document(await teaching.train(own_id(holder), limited_owner(holder) is not None))


def _add_versions(routes: APIRouter, teaching: CommandTeaching) -> None:
    async def listed() -> dict[str, Any]:
        active, versions = await teaching.listed()
        activations = await anyio.to_thread.run_sync(teaching.versions.activations)
        return {
            "active": active,
            "versions": [version_document(each, active) for each in versions],
            "activations": [vars(each) for each in activations],
        }

    @routes.get(
        "/commands/versions",
        summary="The versions of the taught classifier, with their figures",
        response_model=VersionsModel,
        responses=problems(503, 507),
    )
    async def versions() -> dict[str, Any]:
        return await listed()

    @routes.post(
        "/commands/versions/{version}/activate",
        summary="Activates a version; 0 is the model itself",
        response_model=VersionsModel,
        responses=problems(404, 422, 503, 507),
    )
    async def activate(version: int) -> dict[str, Any]:
        await teaching.switch(version, "activated")
        return await listed()

    @routes.post(
        "/commands/rollback",
        summary="Activates the version that the active one was trained from",
        response_model=VersionsModel,
        responses=problems(409, 503, 507),
    )
    async def roll_back() -> dict[str, Any]:
        await teaching.roll_back()
        return await listed()
