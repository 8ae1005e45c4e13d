"""The routes of captions: clients start them, and any number of viewers watch their events."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.auth import OPERATE, TALK, TRANSCRIBE, KeyHolder
from chatapi.engines import TranscriptionOptions
from chatapi.errors import NotFound, Unprocessable, WaitAndRetry
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.caption_models import (
    CaptionDetails,
    CaptionList,
    CaptionModel,
    CaptionRequestModel,
    caption_document,
    details_document,
)
from chatapi.interfaces.http.job_routes import holder_of
from chatapi.interfaces.http.json_body import json_body
from chatapi.interfaces.http.openai.known_speakers import known_speakers
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE, problem
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, event_of
from chatapi.interfaces.http.validation import validated
from chatapi.services.captions.captioner import CaptionOptions
from chatapi.services.captions.service import CaptionRequest, Captions, CaptionService
from chatapi.services.transcription import url_source

HEARTBEAT_SECONDS = 15.0
"""Longest time without a byte to a viewer, in seconds: proxies close connections that are silent for longer."""
LAST_EVENT = (1 << 53) - 1
"""Largest number of an event that clients can hold."""


def visible(service: CaptionService, id_: str, holder: KeyHolder) -> Captions:
    """Captions that a client may see: its own, and with the scope operate all. Raises NotFound (unknown_captions)."""
    found = service.get(id_)
    if not holder.may((OPERATE,)) and found.request.owner != holder.name:
        raise NotFound(f"there are no captions {id_!r}, or they have been deleted", code="unknown_captions")
    return found


class CaptionEvents(CancellableResponse):
    """The events of captions as server-sent events, until they have ended; the last one is named `end`."""

    def __init__(self, appliance: Appliance, captions: Captions, after: int) -> None:
        super().__init__()
        self._appliance, self._captions, self._after = appliance, captions, after

    async def reply(self, send: Send) -> None:
        appliance, captions = self._appliance, self._captions
        lock = anyio.Lock()
        with appliance.captions.viewing(captions) as feed:
            stream = EventStream(send, appliance.metrics, lambda error: event_of("error", problem(error)))

            async def write(data: bytes) -> None:
                async with lock:
                    await stream.send(data)

            async with stream.ending():
                with appliance.drain.lasting():
                    await stream.start()
                    async with anyio.create_task_group() as group:
                        group.start_soon(_beat, write)
                        async for event in feed.follow(self._after):
                            number = b"id: %d\n" % event.number if event.number else b""
                            await write(number + event_of(event.name, event.data))
                        group.cancel_scope.cancel()
                await stream.send(event_of("end", caption_document(captions)))


async def _beat(write: Any) -> None:
    """Comments, which clients ignore."""
    while True:
        await anyio.sleep(HEARTBEAT_SECONDS)
        await write(b": still there\n\n")


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_start(routes, appliance)
    _add_reads(routes, appliance)
    _add_events(routes, appliance)
    return routes


def _add_start(routes: APIRouter, appliance: Appliance) -> None:
    @routes.post(
        "/captions",
        summary="Start captions of a microphone, a stream or pushed audio",
        status_code=201,
        response_model=CaptionModel,
        responses=problems(400, 403, 409, 413, 415, 422, 503),
        openapi_extra=openapi.json_body(CaptionRequestModel),
    )
    async def start(request: Request) -> Response:
        appliance.require_ready()
        wanted = await json_body(request, "a source and options", partial(validated, CaptionRequestModel))
        holder = holder_of(request)
        await _check(wanted, holder, appliance)
        known = await known_speakers(wanted.known_speaker_names, wanted.known_speaker_references)
        language = appliance.transcriber.language(wanted.language) if wanted.language else None
        options = CaptionOptions(language, TranscriptionOptions(wanted.prompt), True, wanted.speakers, known)
        captions = appliance.captions.start(
            CaptionRequest(wanted.source, wanted.title, wanted.url, options, holder.name)
        )
        return JSONResponse(caption_document(captions), 201, {"Location": f"/captions/{captions.id}"})


async def _check(wanted: CaptionRequestModel, holder: KeyHolder, appliance: Appliance) -> None:
    """Raises Forbidden, Unprocessable (url_not_public) before anything starts."""
    if wanted.source == "microphone":
        # Whoever starts it hears the room.
        holder.require((OPERATE,), "captions of the box's microphone")
        return
    holder.require((TALK, TRANSCRIBE), "captions")
    if wanted.source == "stream":
        url = url_source.checked(wanted.url)
        try:
            # Checked again for each connection that is made.
            await anyio.to_thread.run_sync(url_source.resolved, url, appliance.settings.captions.private_urls)
        except WaitAndRetry as error:
            raise Unprocessable(error.message, code=error.code, details={"param": "url"}) from error


def _add_reads(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.captions

    @routes.get("/captions", summary="Captions, the newest first", response_model=CaptionList)
    async def captions(request: Request) -> dict[str, Any]:
        holder = holder_of(request)
        sees_all = holder.may((OPERATE,))
        found = [each for each in service.all() if sees_all or each.request.owner == holder.name]
        return {"captions": [caption_document(each) for each in found]}

    @routes.get(
        "/captions/{captions}",
        summary="Captions and their last lines",
        response_model=CaptionDetails,
        responses=problems(404),
    )
    async def read(request: Request, captions: str) -> dict[str, Any]:
        return details_document(visible(service, captions, holder_of(request)))

    @routes.delete("/captions/{captions}", summary="End captions and forget them", status_code=204,
                   responses=problems(404))  # fmt: skip
    async def delete(request: Request, captions: str) -> None:
        service.delete(visible(service, captions, holder_of(request)))


def _add_events(routes: APIRouter, appliance: Appliance) -> None:
    @routes.get(
        "/captions/{captions}/events",
        summary="Lines and partial text as they come",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events: line, partial, state, gap, and at last end or error.",
                "content": {
                    "text/event-stream": openapi.events("An event with a name; lines and states have a number")
                },
            },
            **problems(404, 422, 503),
        },
    )
    async def events(
        request: Request,
        captions: str,
        last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT, description="Resumes behind it.")] = 0,
    ) -> Response:
        found = visible(appliance.captions, captions, holder_of(request))
        return CaptionEvents(appliance, found, last_event_id)
