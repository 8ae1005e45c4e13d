"""`/v1/realtime`: live conversation for whoever speaks OpenAI's Realtime API over a WebSocket."""

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
from chatapi.interfaces.http.realtime.items import new_id
from chatapi.services.live import SessionOrigin

__all__ = ["router"]

log = logging.getLogger(__name__)

READY_SECONDS = 10
"""How long a client may wait for the models to load."""
CLOSE: tuple[tuple[type[ChatapiError], int], ...] = (
    (TooSlow, 1000),
    (CallerError, 1008),
    (InternalError, 1011),
    (ChatapiError, 1013),
)
"""Why a connection ends -> its close code; the first class that fits decides."""


def router(appliance: Appliance) -> APIRouter:
    """Its route."""
    routes = APIRouter()

    @routes.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await websocket.accept("realtime" if "realtime" in websocket.scope["subprotocols"] else None)
        try:
            await _served(websocket, appliance)
        except Exception as raised:
            await _ended(websocket, appliance, collapse_exception_group(raised))

    return routes


async def _served(websocket: WebSocket, appliance: Appliance) -> None:
    """Raises a ChatapiError that the client is still to be told, or Gone."""
    with anyio.move_on_after(READY_SECONDS):
        await appliance.until_warm()
    if not appliance.warm:
        raise NotReady("the models are still loading", retry_after=5)
    query = websocket.query_params
    config = SessionConfig(model=openai_aliases.model(appliance, "llm", query.get("model")))
    origin = SessionOrigin("realtime", websocket.headers.get("traceparent", ""))
    opened = appliance.live.session(options(config, appliance, []), query.get("conversation"), origin)
    async with opened as (session, events):
        await RealtimeConnection(websocket, appliance, session, events, config).run()


async def _ended(websocket: WebSocket, appliance: Appliance, error: BaseException) -> None:
    """Say why, if anybody is left to hear it."""
    if isinstance(error, (RealtimeClosed, WebSocketDisconnect)):
        return
    if not isinstance(error, ChatapiError):
        log.exception("unexpected error", exc_info=error)
        error = InternalError("something went wrong here; the log has it")
    appliance.metrics.errors.labels(error.code).inc()
    code = next(code for kind, code in CLOSE if isinstance(error, kind))
    event: dict[str, Any] = {"type": "error", "event_id": new_id("event"), "error": {**fault(error), "event_id": None}}
    try:
        await send(websocket, event, appliance.settings.server.send_seconds)
        with anyio.move_on_after(appliance.settings.server.send_seconds):
            await websocket.close(code, error.code)
    except (RealtimeClosed, WebSocketDisconnect, RuntimeError):
        # It left while it was told.
        return
