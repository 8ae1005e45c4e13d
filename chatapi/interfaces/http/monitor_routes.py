"""The routes of monitors: places whose streams are monitored, their coverage, and their events."""

from __future__ import annotations

import time
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.errors import BadInput, NotFound, Unprocessable, WaitAndRetry
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_routes import holder_of, own_id
from chatapi.interfaces.http.json_body import check_plain, json_body, media_type
from chatapi.interfaces.http.monitor_models import (
    CoverageModel,
    MonitorModel,
    MonitorRequestModel,
    MonitorsModel,
)
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE, problem
from chatapi.interfaces.http.spooling import Spool
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, event_of
from chatapi.services.stream_monitoring.config import MonitorConfig, of_document, of_text
from chatapi.services.stream_monitoring.detection_store import DetectionStore
from chatapi.services.stream_monitoring.ledger import Stretch
from chatapi.services.stream_monitoring.report import report
from chatapi.services.stream_monitoring.service import MonitoringService
from chatapi.services.transcription import url_source

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
ALL = "all"
"""Stands for every monitor instead of the id of one."""
HEARTBEAT_SECONDS = 15.0
"""Longest time without a byte to a viewer, in seconds: proxies close connections that are silent for longer."""
DAY = 86_400.0
LONGEST = 92 * DAY
"""Longest time of one answer about coverage, in seconds."""
MOST_STRETCHES = 2000
"""Most stretches of one answer."""


class MonitorEvents(CancellableResponse):
    """The events of a monitor, or of all: `monitors` with their documents first, then what changes."""

    def __init__(self, appliance: Appliance, monitor: str) -> None:
        """`monitor`: its id; empty: all."""
        super().__init__()
        self._appliance, self._monitor = appliance, monitor

    async def reply(self, send: Send) -> None:
        service, lock = self._appliance.monitoring, anyio.Lock()
        with service.viewing() as feed:
            stream = EventStream(send, self._appliance.metrics, lambda error: event_of("error", problem(error)))

            async def write(data: bytes) -> None:
                async with lock:
                    await stream.send(data)

            async with stream.ending():
                with self._appliance.drain.lasting():
                    await stream.start()
                    after = feed.number
                    wanted = [each for each in service.all() if self._wants(each.id)]
                    document = await listed(service)
                    document["monitors"] = [each.document() for each in wanted]
                    await write(event_of("monitors", document))
                    for columns in [each for monitor in wanted for each in list(monitor.columns)]:
                        await write(event_of("spectrum", columns))
                    async with anyio.create_task_group() as group:
                        group.start_soon(_beat, write)
                        async for event in feed.follow(after):
                            if self._wants(str(event.data.get("place", event.data.get("id", "")))):
                                await write(event_of(event.name, event.data))
                        group.cancel_scope.cancel()

    def _wants(self, place: str) -> bool:
        return self._monitor in ("", place)


async def _beat(write: Any) -> None:
    """Comments, which clients ignore."""
    while True:
        await anyio.sleep(HEARTBEAT_SECONDS)
        await write(b": still there\n\n")


async def listed(service: MonitoringService, ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """The document of all monitors."""
    kept = service.kept
    waiting = await anyio.to_thread.run_sync(kept.waiting) if kept is not None else 0
    return {
        "monitors": [each.document() for each in service.all()],
        "ignored": list(ignored),
        "faults": list(service.files.faults.values()),
        "waiting": waiting,
        "fault": kept.outbox.fault if kept is not None else "",
    }


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    _add_start(routes, appliance)
    _add_reads(routes, appliance)
    _add_changes(routes, appliance)
    _add_coverage(routes, appliance)
    return routes


def _add_start(routes: APIRouter, appliance: Appliance) -> None:
    schema = {"schema": openapi.model_schema(MonitorRequestModel)}

    @routes.post(
        "/monitors",
        summary="Monitor the places of a configuration, which go on after a restart",
        status_code=201,
        response_model=MonitorsModel,
        responses=problems(400, 408, 409, 413, 415, 422, 503, 507),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": schema, "application/yaml": {"schema": openapi.BINARY}},
            }
        },
    )
    async def start(request: Request) -> Response:
        config = await _config(request)
        await anyio.to_thread.run_sync(_check, config, appliance.settings.monitoring.private_urls)
        made = await appliance.monitoring.add(config, own_id(holder_of(request)))
        document = await listed(appliance.monitoring, config.ignored)
        document["monitors"] = [each.document() for each in made]
        headers = {"Location": f"/monitors/{made[0].id}"} if len(made) == 1 else {}
        return JSONResponse(document, 201, headers)


async def _config(request: Request) -> MonitorConfig:
    """The configuration in a body. Raises BadInput (bad_monitor_config), and as `json_body` does."""
    if media_type(request) in YAML_TYPES:
        body = await Spool.of(request).body(request)
        if not isinstance(body, bytes):
            raise BadInput("the configuration is too large", code="bad_monitor_config")
        return await anyio.to_thread.run_sync(of_text, body)
    return await json_body(request, "a configuration of places", _parsed)


def _parsed(values: dict[str, Any]) -> MonitorConfig:
    check_plain(values)
    return of_document(values, None)


def _check(config: MonitorConfig, private: bool) -> None:
    """Raises Unprocessable (url_not_public, invalid_url) before anything starts. Each connection is checked again."""
    for place in config.places:
        _check_address(place.url or place.base_url, private)


def _check_address(url: str, private: bool) -> None:
    try:
        url_source.resolved(url_source.checked(url), private)
    except WaitAndRetry:
        # A name that cannot be resolved now is tried again as long as the monitor runs.
        return
    except Unprocessable as error:
        message = error.message.replace("transcription.private_urls", "monitoring.private_urls")
        raise Unprocessable(message, code=error.code, details=error.details) from error


def _add_reads(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.monitoring

    @routes.get("/monitors", summary="The monitored places", response_model=MonitorsModel, responses=problems(503, 507))
    async def monitors() -> dict[str, Any]:
        return await listed(service)

    @routes.get(
        "/monitors/{monitor}/events",
        summary="States, spectra and reviews as they come; the id `all` stands for every monitor",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events: at first monitors, with all of them; then monitor, removed, "
                "spectrum, detection, and error.",
                "content": {"text/event-stream": openapi.events("An event with a name")},
            },
            **problems(404, 503),
        },
    )
    async def events(monitor: str) -> Response:
        return MonitorEvents(appliance, "" if monitor == ALL else service.get(monitor).id)

    @routes.get("/monitors/{monitor}", summary="A monitor", response_model=MonitorModel, responses=problems(404))
    async def read(monitor: str) -> dict[str, Any]:
        return service.get(monitor).document()


def _add_changes(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.monitoring

    @routes.delete(
        "/monitors/{monitor}",
        summary="End a monitor and forget it; what it found stays",
        status_code=204,
        responses=problems(404, 409, 503, 507),
    )
    async def delete(monitor: str) -> None:
        await service.delete(service.get(monitor))

    @routes.post(
        "/monitors/{monitor}/pause",
        summary="Stop listening, also over restarts",
        response_model=MonitorModel,
        responses=problems(404, 409, 503, 507),
    )
    async def pause(monitor: str) -> dict[str, Any]:
        found = service.get(monitor)
        await service.pause(found)
        return found.document()

    @routes.post(
        "/monitors/{monitor}/resume",
        summary="Go on where the place was, or begin a recording again",
        response_model=MonitorModel,
        responses=problems(404, 409, 503, 507),
    )
    async def resume(monitor: str) -> dict[str, Any]:
        found = service.get(monitor)
        await service.resume(found)
        return found.document()


def _add_coverage(routes: APIRouter, appliance: Appliance) -> None:
    service = appliance.monitoring

    @routes.get(
        "/monitors/{monitor}/coverage",
        summary="What was heard, missing and scored; also of places that are not monitored any more",
        response_model=CoverageModel,
        responses=problems(404, 422, 503, 507),
    )
    async def coverage(
        monitor: str,
        since: Annotated[float, Query(alias="from", description="Seconds since 1970; default: a day before `to`.")] = 0,
        to: Annotated[float, Query(description="Seconds since 1970; default: now.")] = 0,
    ) -> dict[str, Any]:
        end = to or time.time()
        start = since or end - DAY
        if not 0 <= start < end <= 1e11 or end - start > LONGEST:
            raise Unprocessable(
                f"from must be before to, and at most {LONGEST / DAY:.0f} days", details={"param": "from"}
            )
        known = any(each.id == monitor for each in service.all())
        kept = await _existing(service, appliance)
        return await anyio.to_thread.run_sync(_coverage, kept, monitor, (start, end), known)


async def _existing(service: MonitoringService, appliance: Appliance) -> DetectionStore:
    """Raises NotFound (unknown_monitor) where nothing was ever monitored."""
    if service.kept is None and not DetectionStore.exists(appliance.settings.data):
        raise NotFound("nothing was monitored yet", code="unknown_monitor")
    return await service.opened()


def _coverage(kept: DetectionStore, place: str, span: tuple[float, float], known: bool) -> dict[str, Any]:
    """`known`: whether the place is monitored, though nothing may have been heard yet. Blocking."""
    start, end = span
    if not known and place not in kept.ledger.places():
        raise NotFound(f"the place {place!r} was never heard", code="unknown_monitor")
    found = report(kept.ledger, place, start, end).document()
    found.pop("detections")
    stretches = _joined(kept.ledger.coverage(place, start, end), (end - start) / MOST_STRETCHES)
    return {**found, "stretches": [vars(each) for each in stretches]}


def _joined(found: list[Stretch], shortest: float) -> list[Stretch]:
    """Few enough stretches: those that are shorter than `shortest` seconds become a part of the one before them, but
    for gaps, which take the time of what is around them."""
    if len(found) <= MOST_STRETCHES:
        return found
    joined: list[Stretch] = []
    for each in found:
        last = joined[-1] if joined else None
        if last is not None and last.end - last.start < shortest:
            worse = min((last, each), key=lambda one: one.state == "scored")
            joined[-1] = Stretch(last.start, each.end, worse.state, worse.detail)
        else:
            joined.append(each)
    return joined
