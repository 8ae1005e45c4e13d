"""The routes of jobs.

The routes act on the store, as `chatapi jobs` does, and the process that runs a job obeys, be it this server or a
command: a running job is paused or cancelled at its next checkpoint. The store is opened for each request, because
another process may create it or set it aside. Only threads touch it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Query
from starlette.responses import PlainTextResponse, Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.errors import Busy, NotFound, WrongMode
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_models import JobDetails, JobModel, JobPage, job_document, step_documents
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE, problem
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, event_of
from chatapi.jobs import JobState, JobStore, follow
from chatapi.observability.metrics import Metrics

FOLLOWERS = 16
"""Largest number of event streams at a time."""
FOLLOWER_SECONDS = 5.0
"""Retry-After when there are too many, in seconds."""
THREADS = 4
"""Largest number of requests that use the store at a time."""
LOG_BYTES = 1 << 20
"""Largest part of a log in one response, in bytes."""
LAST_EVENT = (1 << 63) - 1
"""Largest number that SQLite stores."""

T = TypeVar("T")


class JobAccess:
    """The jobs of a data directory, for routes."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._threads = anyio.CapacityLimiter(THREADS)
        self.followers = 0

    async def call(self, function: Callable[[JobStore], T], otherwise: Callable[[], T] | None = None) -> T:
        """The result of a function of the store. `otherwise`: the result while no job was ever added.

        Raises NotFound (unknown_job), WrongMode, Busy, NotReady (jobs_locked), StorageError.
        """

        def run() -> T:
            if not JobStore.exists(self._data):
                if otherwise is None:
                    raise NotFound("there is no job", code="unknown_job")
                return otherwise()
            with closing(JobStore(self._data)) as store:
                return function(store)

        return await anyio.to_thread.run_sync(run, limiter=self._threads)

    async def opened(self, job: str) -> JobStore:
        """The store, which has this job; the caller closes it. Raises as `call` does."""
        await self.call(lambda store: store.get(job))
        return await anyio.to_thread.run_sync(JobStore, self._data, limiter=self._threads)


class JobEvents(CancellableResponse):
    """The events of a job as server-sent events, until it has ended; the last one is named `end`."""

    def __init__(self, access: JobAccess, metrics: Metrics, job: str, after: int) -> None:
        super().__init__()
        self._access, self._metrics, self._job, self._after = access, metrics, job, after

    async def reply(self, send: Send) -> None:
        if self._access.followers >= FOLLOWERS:
            message = f"{FOLLOWERS} clients follow jobs already; try again later"
            raise Busy(message, retry_after=FOLLOWER_SECONDS, code="too_many_followers")
        self._access.followers += 1
        try:
            await self._follow(send)
        finally:
            self._access.followers -= 1

    async def _follow(self, send: Send) -> None:
        store = await self._access.opened(self._job)
        try:
            stream = EventStream(send, self._metrics, lambda error: event_of("error", problem(error)))
            async with stream.ending():
                await stream.start()
                async for event in follow(store, self._job, self._after):
                    data = {"job": event.job, "at": event.at, **event.data}
                    await stream.send(b"id: %d\n" % event.number + event_of(event.type, data))
                ended = await anyio.to_thread.run_sync(store.get, self._job)
                await stream.send(event_of("end", job_document(ended)))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(store.close)


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    access = JobAccess(appliance.settings.data)
    _add_list(routes, access)
    _add_reads(routes, access)
    _add_events(routes, access, appliance.metrics)
    for action in ("pause", "resume", "cancel", "retry"):
        _add_action(routes, access, action)
    _add_deletion(routes, access)
    return routes


def _add_list(routes: APIRouter, access: JobAccess) -> None:
    @routes.get("/jobs", summary="Jobs, the newest first", response_model=JobPage, responses=problems(404, 422, 503))
    async def jobs(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        state: JobState | None = None,
        kind: Annotated[str, Query(max_length=100)] = "",
        before: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = {"states": (state,)} if state else {}

        def find(store: JobStore) -> dict[str, Any]:
            found = store.find(**chosen, kind=kind, most=limit + 1, before=before)
            following = found[limit - 1].id if len(found) > limit else None
            return {"jobs": [job_document(job) for job in found[:limit]], "next": following}

        return await access.call(find, lambda: {"jobs": [], "next": None})


def _add_reads(routes: APIRouter, access: JobAccess) -> None:
    @routes.get("/jobs/{job}", summary="A job and its steps", response_model=JobDetails, responses=problems(404, 503))
    async def job(job: str) -> dict[str, Any]:
        def read(store: JobStore) -> dict[str, Any]:
            return {**job_document(store.get(job)), "steps": step_documents(store.events(job))}

        return await access.call(read)

    @routes.get(
        "/jobs/{job}/log",
        summary="The end of a job's log",
        response_class=PlainTextResponse,
        responses=problems(404, 422, 503),
    )
    async def log(job: str, limit_bytes: Annotated[int, Query(ge=1, le=LOG_BYTES)] = 64 << 10) -> Response:
        def read(store: JobStore) -> bytes:
            store.get(job)
            with store.database.translated():
                return _tail(store.log(job).read().encode(), limit_bytes)

        return PlainTextResponse(await access.call(read))


def _tail(content: bytes, most: int) -> bytes:
    """The last lines that fit into `most` bytes; of a longer line its end."""
    if len(content) <= most:
        return content
    kept = content[-most:]
    whole = kept[kept.find(b"\n") + 1 :] if content[-most - 1] != 10 else kept
    return whole or kept


def _add_events(routes: APIRouter, access: JobAccess, metrics: Metrics) -> None:
    @routes.get(
        "/jobs/{job}/events",
        summary="Progress and states of a job until it has ended",
        response_class=Response,
        responses={
            200: {
                "description": "Server-sent events: state, step, progress, and at last end or error.",
                "content": {"text/event-stream": openapi.events("An event with a name and a number; its data is JSON")},
            },
            **problems(404, 422, 503),
        },
    )
    async def events(
        job: str, last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT, description="Resumes behind it.")] = 0
    ) -> Response:
        return JobEvents(access, metrics, job, last_event_id)


def _add_action(routes: APIRouter, access: JobAccess, action: str) -> None:
    @routes.post(
        f"/jobs/{{job}}/{action}",
        summary=f"{action.capitalize()} a job",
        response_model=JobModel,
        responses=problems(404, 409, 503),
        name=f"{action}_job",
    )
    async def act(job: str) -> dict[str, Any]:
        def run(store: JobStore) -> dict[str, Any]:
            found = store.get(job)
            if found.command and action in ("resume", "retry"):
                message = f"job {job} runs in the foreground; resume it with: {found.command}"
                raise WrongMode(message, code="job_in_foreground")
            return job_document(getattr(store, action)(job))

        return await access.call(run)


def _add_deletion(routes: APIRouter, access: JobAccess) -> None:
    @routes.delete(
        "/jobs/{job}", summary="Delete a job that has ended", status_code=204, responses=problems(404, 409, 503)
    )
    async def delete(job: str) -> None:
        await access.call(lambda store: store.delete(job))
