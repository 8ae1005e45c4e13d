"""The routes of detections: their files, their moderation, the export for training, and muted kinds of sound."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from chatapi.appliance import Appliance
from chatapi.errors import NotFound
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_routes import holder_of
from chatapi.interfaces.http.json_body import json_body
from chatapi.interfaces.http.monitor_models import (
    DetectionModel,
    DetectionReviewModel,
    DetectionsModel,
    MuteModel,
    MuteRequestModel,
    MutesModel,
    detection_document,
    mute_document,
)
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE
from chatapi.interfaces.http.validation import validated
from chatapi.services.stream_monitoring.detection_store import DetectionStore
from chatapi.services.stream_monitoring.ledger import Detection, Review
from chatapi.services.stream_monitoring.moderation import DetectionFilter
from chatapi.services.stream_monitoring.training_set import exported

MOST_PAGE = 500
"""Most detections of one page."""
LATEST = 1e11
Place = Annotated[str, Query(max_length=200, description="Of this place only.")]
Since = Annotated[float, Query(alias="from", ge=0, le=LATEST, description="Seconds since 1970.")]
Until = Annotated[float, Query(ge=0, le=LATEST, description="Seconds since 1970; 0: now.")]


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_list(routes, appliance)
    _add_export(routes, appliance)
    _add_files(routes, appliance)
    _add_review(routes, appliance)
    _add_mutes(routes, appliance)
    return routes


async def _store(appliance: Appliance) -> DetectionStore | None:
    """What was found; None: nothing was ever monitored."""
    if appliance.monitoring.kept is None and not DetectionStore.exists(appliance.settings.data):
        return None
    return await appliance.monitoring.opened()


async def _found(appliance: Appliance, id_: str) -> tuple[DetectionStore, Detection]:
    """Raises NotFound (unknown_detection)."""
    if (kept := await _store(appliance)) is None:
        raise NotFound("nothing was detected yet", code="unknown_detection")
    return kept, await anyio.to_thread.run_sync(kept.moderation.get, id_)


def _filter(place: str, since: float, to: float, state: str = "", muted: bool = False) -> DetectionFilter:
    return DetectionFilter((place,) if place else (), since, to or LATEST, state, muted)


def _add_list(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/detections",
        summary="Detections, the newest first",
        response_model=DetectionsModel,
        responses=problems(404, 422, 503, 507),
    )
    async def detections(
        place: Place = "",
        since: Since = 0,
        to: Until = 0,
        state: Literal["", "unreviewed", "positive", "negative", "unknown"] = "",
        muted: Annotated[bool, Query(description="Those that fell under a mute, instead of the others.")] = False,
        limit: Annotated[int, Query(ge=1, le=MOST_PAGE)] = 50,
        before: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
    ) -> dict[str, Any]:
        kept = await _store(appliance)
        if kept is None:
            return {"detections": [], "next": None, "counts": {}}
        wanted = _filter(place, since, to, state, muted)
        found = await anyio.to_thread.run_sync(kept.moderation.find, wanted, limit + 1, before)
        counts = await anyio.to_thread.run_sync(kept.moderation.counts, _filter(place, since, to, "", muted))
        following = found[limit - 1].id if len(found) > limit else None
        return {
            "detections": [detection_document(each) for each in found[:limit]],
            "next": following,
            "counts": counts,
        }


def _add_export(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/detections/export",
        summary="A training set as a tar archive: the clips of reviewed detections, and detections.jsonl and .tsv",
        response_class=Response,
        responses={200: {"content": {"application/x-tar": {"schema": openapi.BINARY}}}, **problems(422, 503, 507)},
    )
    async def export(
        place: Place = "",
        since: Since = 0,
        to: Until = 0,
        state: Annotated[
            Literal["", "positive", "negative", "unknown"], Query(description="Empty: all that were reviewed.")
        ] = "",
    ) -> Response:
        kept = await _store(appliance)
        wanted = _filter(place, since, to, state)
        headers = {"Content-Disposition": 'attachment; filename="detections.tar"'}
        return StreamingResponse(exported(kept, wanted), media_type="application/x-tar", headers=headers)


def _add_files(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/detections/{detection}",
        summary="A detection",
        response_model=DetectionModel,
        responses=problems(404, 503, 507),
    )
    async def detection(detection: str) -> dict[str, Any]:
        return detection_document((await _found(appliance, detection))[1])

    def add_file(path: str, suffix: str, media: str, summary: str) -> None:
        @routes.get(
            f"/detections/{{detection}}/{path}",
            summary=summary,
            response_class=Response,
            responses={200: {"content": {media: {"schema": openapi.BINARY}}}, **problems(404, 503, 507)},
            operation_id=f"detection_{path}",
        )
        async def file(detection: str) -> Response:
            kept, found = await _found(appliance, detection)
            content = await anyio.to_thread.run_sync(kept.content, found, suffix)
            headers = {"Content-Disposition": f'inline; filename="{found.name}{suffix}"'}
            return Response(content, media_type=media, headers=headers)

    add_file("audio", ".wav", "audio/wav", "The clip, as WAV")
    add_file("spectrogram", ".png", "image/png", "The spectrogram of the clip, as PNG")
    add_file("record", ".json", "application/json", "The record as it is stored, with the positive windows")


def _add_review(routes: APIRouter, appliance: Appliance) -> None:
    @routes.patch(
        "/detections/{detection}",
        summary="Confirm, reject or tag a detection; its stored record follows",
        response_model=DetectionModel,
        responses=problems(400, 404, 408, 413, 415, 422, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": openapi.model_schema(DetectionReviewModel)}},
            }
        },
    )
    async def review(request: Request, detection: str) -> dict[str, Any]:
        given = await json_body(request, "a state, tags or comments", partial(validated, DetectionReviewModel))
        kept, found = await _found(appliance, detection)
        before = found.review
        made = Review(
            before.state if given.state is None else given.state,
            before.tags if given.tags is None else given.tags,
            before.comments if given.comments is None else given.comments,
            holder_of(request).name,
        )
        changed = await anyio.to_thread.run_sync(kept.moderation.review, detection, made)
        document = detection_document(changed)
        appliance.monitoring.feed.keep("detection", document)
        return document


def _add_mutes(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get("/mutes", summary="Muted kinds of sound", response_model=MutesModel, responses=problems(422, 503, 507))
    async def mutes(place: Place = "") -> dict[str, Any]:
        kept = await _store(appliance)
        found = await anyio.to_thread.run_sync(kept.mutes.all, place) if kept is not None else []
        return {"mutes": [mute_document(each) for each in found]}

    @routes.post(
        "/mutes",
        summary="Mute the kind of sound of a rejected detection at its place",
        status_code=201,
        response_model=MuteModel,
        responses=problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": openapi.model_schema(MuteRequestModel)}},
            }
        },
    )
    async def mute(request: Request) -> dict[str, Any]:
        given = await json_body(request, "the id of a detection", partial(validated, MuteRequestModel))
        kept, found = await _found(appliance, given.detection)
        return mute_document(await anyio.to_thread.run_sync(kept.mutes.add, found.id, holder_of(request).name))

    @routes.delete(
        "/mutes/{mute}", summary="Hear a muted kind of sound again", status_code=204, responses=problems(404, 503, 507)
    )
    async def unmute(mute: str) -> None:
        kept = await _store(appliance)
        if kept is None:
            raise NotFound(f"there is no mute {mute!r}", code="unknown_mute")
        await anyio.to_thread.run_sync(kept.mutes.remove, mute)
