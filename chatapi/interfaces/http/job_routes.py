"""The routes of jobs.

The routes act on the store, as `chatapi jobs` does, and the process that runs a job obeys, be it this server or a
command: a running job is paused or cancelled at its next checkpoint. Only threads touch the store, which all routes and
the runner share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Send

from chatapi.appliance import Appliance
from chatapi.auth import OPERATE, KeyHolder
from chatapi.errors import Busy, NotFound, WrongMode
from chatapi.interfaces.http import openapi
from chatapi.interfaces.http.job_models import JobDetails, JobModel, JobPage, job_document, step_documents
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.openapi import problems
from chatapi.interfaces.http.problems import EVERYWHERE, problem
from chatapi.interfaces.http.streaming import CancellableResponse, EventStream, event_of
from chatapi.jobs import JobRecord, JobState, JobStore, SharedStore, follow
from chatapi.observability.metrics import Metrics
from chatapi.services.transcription import job_parameters

FOLLOWERS = 16
"""Largest number of event streams at a time."""
FOLLOWER_SECONDS = 5.0
"""Retry-After when there are too many, in seconds."""
THREADS = 4
"""Largest number of requests that use the store at a time."""
LOG_BYTES = 1 << 20
"""Largest part of a log in one response, in bytes."""
TEXT_CHARS = 100_000
"""Largest part of a transcript in the document of a job, in characters: its end."""
LAST_EVENT = (1 << 63) - 1
"""Largest number that SQLite stores."""

T = TypeVar("T")


class JobAccess:
    """The jobs of a data directory, for routes."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._threads = anyio.CapacityLimiter(THREADS)
        self.followers = 0

    async def call(self, function: Callable[[JobStore], T], otherwise: Callable[[], T] | None = None) -> T:
        """The result of a function of the store. `otherwise`: the result while no job was ever added.

        Raises NotFound (unknown_job), WrongMode, Busy, NotReady (jobs_locked), StorageError.
        """

        def run() -> T:
            if not self._shared.exists():
                if otherwise is None:
                    raise NotFound("there is no job", code="unknown_job")
                return otherwise()
            with self._shared.opened() as store:
                return function(store)

        return await anyio.to_thread.run_sync(run, limiter=self._threads)

    async def taken(self, job: str, holder: KeyHolder) -> JobStore:
        """The store, which has this job; the caller gives it back. Raises as `call` does."""
        await self.call(lambda store: visible(store, job, holder))
        return await anyio.to_thread.run_sync(self._shared.take, limiter=self._threads)

    def give_back(self, store: JobStore) -> None:
        """End the use of a store that was taken. Blocking."""
        self._shared.give_back(store)


def owner_of(holder: KeyHolder) -> str | None:
    """The owner of the jobs that a client sees; None: it sees all. Keys for transcription see their own."""
    return None if holder.may((OPERATE,)) else own_id(holder)


def own_id(holder: KeyHolder) -> str:
    """The owner of the jobs that a client adds."""
    return holder.owner_id


def limited_owner(holder: KeyHolder) -> str | None:
    """The owner whose jobs and uploads are limited, so that one key leaves room for others; None: only all are."""
    return holder.id or None


def visible(store: JobStore, job: str, holder: KeyHolder) -> JobRecord:
    """A job that the client may see. Raises NotFound (unknown_job)."""
    found, owner = store.get(job), owner_of(holder)
    if owner is not None and found.owner != owner:
        raise NotFound(f"there is no job {job!r}, or it has been deleted", code="unknown_job")
    return found


def holder_of(request: Request) -> KeyHolder:
    """The client of a request."""
    found: KeyHolder = request.scope[KEY_HOLDER]
    return found


class JobEvents(CancellableResponse):
    """The events of a job as server-sent events, until it has ended; the last one is named `end`."""

    def __init__(self, access: JobAccess, metrics: Metrics, job: str, after: int, holder: KeyHolder) -> None:
        super().__init__()
        self._access, self._metrics, self._job, self._after, self._holder = access, metrics, job, after, holder

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
        store = await self._access.taken(self._job, self._holder)
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
                await anyio.to_thread.run_sync(self._access.give_back, store)


def router(appliance: Appliance) -> APIRouter:
    """All routes of this module."""
    routes = APIRouter(responses=problems(*EVERYWHERE))
    access = JobAccess(appliance.jobs.shared)
    _add_list(routes, access)
    _add_reads(routes, access, appliance)
    _add_events(routes, access, appliance.metrics)
    for action in ("pause", "resume", "cancel", "retry"):
        _add_action(routes, access, action)
    _add_deletion(routes, access)
    return routes


def _add_list(routes: APIRouter, access: JobAccess) -> None:
    @routes.get("/jobs", summary="Jobs, the newest first", response_model=JobPage, responses=problems(404, 422, 503))
    async def jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        state: JobState | None = None,
        kind: Annotated[str, Query(max_length=100)] = "",
        before: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = {"states": (state,)} if state else {}
        holder = holder_of(request)

        def find(store: JobStore) -> dict[str, Any]:
            if before:
                visible(store, before, holder)
            found = store.find(**chosen, kind=kind, most=limit + 1, before=before, owner=owner_of(holder))
            following = found[limit - 1].id if len(found) > limit else None
            return {"jobs": [job_document(job) for job in found[:limit]], "next": following}

        return await access.call(find, lambda: {"jobs": [], "next": None})


def _add_reads(routes: APIRouter, access: JobAccess, appliance: Appliance) -> None:
    @routes.get("/jobs/{job}", summary="A job and its steps", response_model=JobDetails, responses=problems(404, 503))
    async def job(request: Request, job: str) -> dict[str, Any]:
        holder = holder_of(request)

        def read(store: JobStore) -> dict[str, Any]:
            found = visible(store, job, holder)
            document = {**job_document(found), "steps": step_documents(store.events(job)), "text": None}
            if found.kind == job_parameters.KIND:
                results = appliance.transcription_jobs.results
                document |= {"text": results.text(found)[-TEXT_CHARS:], "audio": results.audio(found) is not None}
            return document

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
        request: Request,
        job: str,
        last_event_id: Annotated[int, Header(ge=0, le=LAST_EVENT, description="Resumes behind it.")] = 0,
    ) -> Response:
        return JobEvents(access, metrics, job, last_event_id, holder_of(request))


def _add_action(routes: APIRouter, access: JobAccess, action: str) -> None:
    @routes.post(
        f"/jobs/{{job}}/{action}",
        summary=f"{action.capitalize()} a job",
        response_model=JobModel,
        responses=problems(404, 409, 503),
        name=f"{action}_job",
    )
    async def act(request: Request, job: str) -> dict[str, Any]:
        holder = holder_of(request)

        def run(store: JobStore) -> dict[str, Any]:
            found = visible(store, job, holder)
            if found.command and action in ("resume", "retry"):
                message = f"job {job} runs in the foreground; resume it with: {found.command}"
                raise WrongMode(message, code="job_in_foreground")
            return job_document(getattr(store, action)(job))

        return await access.call(run)


def _add_deletion(routes: APIRouter, access: JobAccess) -> None:
    @routes.delete(
        "/jobs/{job}", summary="Delete a job that has ended", status_code=204, responses=problems(404, 409, 503)
    )
    async def delete(request: Request, job: str) -> None:
        holder = holder_of(request)
        await access.call(lambda store: store.delete(visible(store, job, holder).id))
