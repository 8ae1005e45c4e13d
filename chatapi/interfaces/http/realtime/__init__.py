"""`/v1/realtime`: OpenAI's Realtime API over a WebSocket."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from chatapi.appliance import Appliance
from chatapi.errors import CallerError, ChatapiError, InternalError, NotReady, TooSlow, collapse_exception_group
from chatapi.interfaces.http import openai_aliases
from chatapi.interfaces.http.problems import fault
from chatapi.interfaces.http.realtime.client_events import SessionConfig
from chatapi.interfaces.http.realtime.connection import RealtimeClosed, RealtimeConnection, options, send
from chatapi.services.live import SessionOrigin
from chatapi.services.live.items import new_id

__all__ = ["router"]

log = logging.getLogger(__name__)

READY_SECONDS = 10
"""Longest time a client waits for the models to load, in seconds."""
CLOSE: tuple[tuple[type[ChatapiError], int], ...] = (
    (TooSlow, 1000),
    (CallerError, 1008),
    (InternalError, 1011),
    (ChatapiError, 1013),
)
"""Error class -> WebSocket close code; the first class that matches decides."""


def router(appliance: Appliance) -> APIRouter:
    """The route of the Realtime API."""
    routes = APIRouter()

    @routes.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await websocket.accept("realtime" if "realtime" in websocket.scope["subprotocols"] else None)
        try:
            await _serve(websocket, appliance)
        except Exception as raised:
            await _close(websocket, appliance, collapse_exception_group(raised))

    return routes


async def _serve(websocket: WebSocket, appliance: Appliance) -> None:
    """Serves the connection. Raises ChatapiError to report to the client, or RealtimeClosed."""
    with anyio.move_on_after(READY_SECONDS):
        await appliance.until_warm()
    if not appliance.warm:
        raise NotReady("the models are still loading", retry_after=5)
    query = websocket.query_params
    config = SessionConfig(model=openai_aliases.model(appliance, "llm", query.get("model")))
    origin = SessionOrigin("realtime", websocket.headers.get("traceparent", ""))
    opened = appliance.live.session(options(config, appliance), query.get("conversation"), origin)
    async with opened as (session, events):
        await RealtimeConnection(websocket, appliance, session, events, config).run()


async def _close(websocket: WebSocket, appliance: Appliance, error: BaseException) -> None:
    """Sends the error and closes, if the client is still connected."""
    if isinstance(error, (RealtimeClosed, WebSocketDisconnect)):
        return
    if not isinstance(error, ChatapiError):
        log.exception("unexpected error", exc_info=error)
        error = InternalError("internal error; the log has the details")
    appliance.metrics.errors.labels(error.code).inc()
    code = next(code for kind, code in CLOSE if isinstance(error, kind))
    event: dict[str, Any] = {"type": "error", "event_id": new_id("event"), "error": {**fault(error), "event_id": None}}
    try:
        await send(websocket, event, appliance.settings.server.send_seconds)
        with anyio.move_on_after(appliance.settings.server.send_seconds):
            await websocket.close(code, error.code)
    except (RealtimeClosed, WebSocketDisconnect, RuntimeError):
        # The client disconnected meanwhile.
        return
