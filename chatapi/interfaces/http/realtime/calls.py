"""`/v1/realtime/calls`: live sessions over WebRTC, for browsers."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chatapi.appliance import Appliance
from chatapi.errors import (
    BadInput,
    NotFound,
    NotReady,
    Unprocessable,
    Unsupported,
    collapse_exception_group,
)
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.json_body import check_plain, media_type
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.realtime.client_secrets import session_of_secret
from chatapi.interfaces.http.realtime.session_description import MOST_CHARS, checked_offer
from chatapi.interfaces.http.realtime.session_requests import requested_session, until_warm
from chatapi.services.live.conversation_item import new_id

if TYPE_CHECKING:
    from chatapi.interfaces.http.realtime.call import Call

log = logging.getLogger(__name__)

SDP = "application/sdp"


class Calls:
    """The calls of a running server. Their number is that of live sessions, which `live.sessions` limits."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._group: TaskGroup | None = None
        self._calls: dict[str, Call] = {}

    async def run(self) -> None:
        """Holds the calls until it is cancelled."""
        async with anyio.create_task_group() as self._group:
            await anyio.sleep_forever()

    async def answer(self, request: Request, offer: str, session: dict[str, Any]) -> tuple[str, str]:
        """Starts a call; returns its id and the answer to the offer. Raises ChatapiError."""
        # It is optional, and takes a while to load.
        try:
            call_module = importlib.import_module("chatapi.interfaces.http.realtime.call")
        except ModuleNotFoundError as error:
            raise Unsupported(
                f"calls over WebRTC need the extra webrtc ({error.name} is missing): "
                "pip install 'chatapi-appliance[webrtc]'; the WebSocket /v1/realtime needs nothing more",
                code="webrtc_missing",
            ) from None
        if self._group is None:
            raise NotReady("the server is starting or shutting down; send the request again")
        query = request.query_params
        config = requested_session(self._appliance, query, session, IgnoredParameters.of(request))
        wanted = call_module.CallRequest(
            offer, config, request.scope[KEY_HOLDER], query.get("conversation"), request.headers.get("traceparent", "")
        )
        call, call_id = call_module.Call(self._appliance, wanted), new_id("rtc")
        return call_id, await self._group.start(self._hold, call_id, call)

    def hang_up(self, call_id: str) -> None:
        """Ends a call. Raises NotFound (call_not_found)."""
        if (call := self._calls.get(call_id)) is None:
            raise NotFound(f"call {call_id!r} does not exist, or has ended", code="call_not_found")
        call.hang_up()

    async def _hold(self, call_id: str, call: Call, *, task_status: TaskStatus[str]) -> None:
        started = _Started(task_status)
        self._calls[call_id] = call
        try:
            await call.run(task_status=started)
        except Exception as raised:
            error = collapse_exception_group(raised)
            if not started.is_set:
                raise error from None
            # Its client cannot be told, and other calls continue.
            log.exception("call failed", exc_info=error)
        finally:
            del self._calls[call_id]


class _Started(TaskStatus[str]):
    """Passes on that a call has started, and remembers it."""

    def __init__(self, status: TaskStatus[str]) -> None:
        self.is_set = False
        self._status = status

    def started(self, value: str | None = None) -> None:
        self.is_set = True
        self._status.started(value or "")


def router(appliance: Appliance, calls: Calls) -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(prefix="/v1/realtime/calls", include_in_schema=False)

    @routes.post("")
    async def call(request: Request) -> Response:
        await until_warm(appliance)
        secret = session_of_secret(appliance, request.headers)
        async with _offered(request) as (sdp, session):
            offer = checked_offer(sdp, request.client.host if request.client else "")
            call_id, answer = await calls.answer(request, offer, {**session, **secret})
        return Response(answer, 201, {"Location": f"/v1/realtime/calls/{call_id}"}, SDP)

    @routes.post("/{call}/hangup")
    async def hang_up(call: str) -> Response:
        calls.hang_up(call)
        return Response(status_code=200)

    @routes.delete("/{call}")
    async def delete(call: str) -> Response:
        calls.hang_up(call)
        return Response(status_code=204)

    return routes


@asynccontextmanager
async def _offered(request: Request) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The offer and the session in a body: the offer alone, or a form with the parts sdp and session. Raises BadInput,
    Unsupported."""
    kind = media_type(request)
    if kind == SDP:
        yield _text(await request.body()), {}
    elif kind == "multipart/form-data":
        try:
            async with request.form(max_files=2, max_fields=8, max_part_size=MOST_CHARS) as form:
                parts = {name: form.get(name) for name in ("sdp", "session")}
                read = {
                    name: part if isinstance(part, str) or part is None else _text(await part.read())
                    for name, part in parts.items()
                }
                yield read["sdp"] or "", _session(read["session"])
        except HTTPException as error:
            raise BadInput(f"the form cannot be read: {error.detail}", code="invalid_form") from None
    else:
        raise Unsupported(
            f"the media type {kind or '(none)'} is not supported; send {SDP}, or multipart/form-data with the parts "
            "sdp and session",
            code="unsupported_media_type",
        )


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadInput("the offer is not UTF-8 text", code="invalid_sdp") from None


def _session(text: str | None) -> dict[str, Any]:
    """The session in a form. Raises Unprocessable."""
    try:
        session = json.loads(text or "{}")
    except (ValueError, RecursionError):
        session = None
    if not isinstance(session, dict):
        raise Unprocessable("session must be a JSON object", details={"param": "session"})
    check_plain(session)
    return session
