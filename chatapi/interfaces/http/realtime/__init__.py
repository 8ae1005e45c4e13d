"""`/v1/realtime`: OpenAI's Realtime API over a WebSocket."""

from __future__ import annotations

import logging

import anyio
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatapi.appliance import Appliance
from chatapi.errors import CallerError, ChatapiError, InternalError, TooSlow, collapse_exception_group
from chatapi.interfaces.http.middleware import KEY_HOLDER
from chatapi.interfaces.http.realtime import beta_events, calls, client_secrets
from chatapi.interfaces.http.realtime.beta_events import BetaChannel
from chatapi.interfaces.http.realtime.calls import Calls
from chatapi.interfaces.http.realtime.connection import RealtimeConnection
from chatapi.interfaces.http.realtime.event_channel import (
    EventChannel,
    RealtimeClosed,
    WebSocketChannel,
    send_last_error,
)
from chatapi.interfaces.http.realtime.session_options import options
from chatapi.interfaces.http.realtime.session_requests import authorize_session, requested_session, until_warm
from chatapi.runtime.drain import shutting_down
from chatapi.services.live import SessionOrigin

__all__ = ["Calls", "router"]

log = logging.getLogger(__name__)

CLOSE: tuple[tuple[type[ChatapiError], int], ...] = (
    (TooSlow, 1000),
    (CallerError, 1008),
    (InternalError, 1011),
    (ChatapiError, 1013),
)
"""Error class -> WebSocket close code; the first class that matches decides."""
RESTARTING = 1012
"""Close code of a server that shuts down (service restart), from IANA's registry: clients connect again."""


def router(appliance: Appliance, call_registry: Calls) -> APIRouter:
    """The routes of the Realtime API."""
    routes = APIRouter()
    routes.include_router(client_secrets.router(appliance))
    routes.include_router(calls.router(appliance, call_registry))

    @routes.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await websocket.accept("realtime" if "realtime" in websocket.scope["subprotocols"] else None)
        try:
            with appliance.drain.lasting():
                await _serve(websocket, appliance)
        except Exception as raised:
            await _close(websocket, appliance, collapse_exception_group(raised))

    return routes


async def _serve(websocket: WebSocket, appliance: Appliance) -> None:
    """Serves the connection. Raises ChatapiError to report to the client, or RealtimeClosed."""
    await until_warm(appliance)
    query = websocket.query_params
    secret = client_secrets.session_of_secret(appliance, websocket.headers, tuple(websocket.scope["subprotocols"]))
    config = requested_session(appliance, query, secret)
    authorize_session(websocket.scope[KEY_HOLDER], config)
    origin = SessionOrigin("realtime", websocket.headers.get("traceparent", ""))
    channel = _channel(websocket, appliance)
    opened = appliance.live.session(options(config, appliance), query.get("conversation"), origin)
    async with opened as (session, events):
        connection = RealtimeConnection(channel, appliance, session, events, config, holder=websocket.scope[KEY_HOLDER])
        await connection.run(appliance.settings.live.idle_seconds)


def _channel(websocket: WebSocket, appliance: Appliance) -> EventChannel:
    """The channel of a connection, in the form that its client asks for."""
    channel = WebSocketChannel(websocket, appliance.settings.server.send_seconds)
    return BetaChannel(channel) if beta_events.wanted(websocket) else channel


async def _close(websocket: WebSocket, appliance: Appliance, error: BaseException) -> None:
    """Sends the error and closes, if the client is still connected."""
    if isinstance(error, (RealtimeClosed, WebSocketDisconnect)):
        return
    if not isinstance(error, ChatapiError):
        log.exception("unexpected error", exc_info=error)
        error = InternalError("internal error; the log has the details")
    appliance.metrics.errors.labels(error.code).inc()
    code = next(code for kind, code in CLOSE if isinstance(error, kind))
    if error.code == shutting_down().code:
        code = RESTARTING
    seconds = appliance.settings.server.send_seconds
    try:
        await send_last_error(WebSocketChannel(websocket, seconds), error)
        with anyio.move_on_after(seconds):
            await websocket.close(code, error.code)
    except (RealtimeClosed, WebSocketDisconnect, RuntimeError):
        # The client disconnected meanwhile.
        return
