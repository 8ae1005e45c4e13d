"""The HTTP application: routes, middleware, and the uvicorn server that runs it."""

from __future__ import annotations

import logging
import socket
import ssl
from functools import partial
from typing import Any, NoReturn

import anyio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from chatapi import auth
from chatapi.appliance import Appliance
from chatapi.errors import BadInput, NotFound
from chatapi.interfaces.http import (
    caption_routes,
    command_routes,
    conversation_routes,
    conversion_routes,
    conversion_socket,
    detection_routes,
    job_routes,
    monitor_routes,
    openai,
    openapi,
    page,
    realtime,
    routes,
    settings_routes,
    transcript_routes,
    transcription_routes,
    tus_routes,
    voice_routes,
)
from chatapi.interfaces.http.connections import ConnectionTable
from chatapi.interfaces.http.draining import DrainingServer, FurtherServer
from chatapi.interfaces.http.listening import BACKLOG
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.interfaces.http.protocols import HEAD_BYTES, HttpProtocol, Shared
from chatapi.interfaces.http.tls import SecureFurtherServer, SecureServer
from chatapi.interfaces.http.validation import reject_invalid
from chatapi.interfaces.http.websocket_protocol import SocketProtocol
from chatapi.runtime.byte_budget import ByteBudget
from chatapi.runtime.drain import ERROR_SECONDS, FINISH_SECONDS, Drain
from chatapi.setting_changes import SettingChanges
from chatapi.settings import Loaded, Settings, given
from chatapi.system.version import version

MOST_BYTES = 16 << 20
"""Largest WebSocket message, in bytes; a larger one closes its connection with code 1009."""
REPLY_HEADERS = (
    "X-Request-Id", "X-Chatapi-Conversation", "X-Chatapi-Transcript", "X-Chatapi-Reply", "X-Chatapi-Finish-Reason",
    "X-Chatapi-Usage", "X-Chatapi-Timings", "X-Chatapi-Ignored",
    "X-Chatapi-Audio-Skipped", "Retry-After", "Location",
    "Upload-Offset", "Upload-Length", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size",
)  # fmt: skip


def create_app(appliance: Appliance, loaded: Loaded | None = None) -> FastAPI:
    """The ASGI application of a running appliance; `loaded`: the sources of its settings, None: they are not known."""
    app = FastAPI(
        title="chatapi",
        version=version(),
        summary="Text or audio in, text or voice out, on the box itself.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (
        routes, conversation_routes, job_routes, transcription_routes, transcript_routes, tus_routes, caption_routes,
        command_routes, voice_routes, conversion_routes, conversion_socket, monitor_routes, detection_routes,
    ):  # fmt: skip
        app.include_router(module.router(appliance))
    app.include_router(
        settings_routes.router(appliance, SettingChanges(appliance, loaded or given(appliance.settings)))
    )
    app.include_router(openai.router(appliance))
    app.state.calls = realtime.Calls(appliance)
    app.include_router(realtime.router(appliance, app.state.calls))
    app.include_router(page.router())
    app.add_exception_handler(HTTPException, _reject_unroutable)
    app.add_exception_handler(RequestValidationError, reject_invalid)
    arguments = (appliance.settings, appliance.metrics, appliance.keyring, appliance.byte_budget)
    app.add_middleware(RequestMiddleware, *arguments)
    if appliance.settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(appliance.settings.server.cors_origins),
            allow_methods=auth.http_methods(),
            # Browser clients add headers of their arguments; the origins alone decide who may call.
            allow_headers=["*"],
            expose_headers=list(REPLY_HEADERS),
        )
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    app.state.background = (app.state.calls.run, appliance.captions.run, appliance.monitoring.run)
    prepare(app, appliance, appliance.byte_budget)
    appliance.metrics.http_connections.set_function(lambda: float(len(app.state.shared.connections)))
    return app


def prepare(app: Starlette, appliance: Appliance, budget: ByteBudget) -> None:
    """Give an application what `server` and `run_server` need. `budget`: that of its request bodies."""
    table = appliance.settings.server
    app.state.drain = appliance.drain
    app.state.shared = Shared(
        ConnectionTable(table.connections, table.connections_per_address), budget, table.body_seconds
    )


def server(app: Starlette, secure: ssl.SSLContext | None = None) -> uvicorn.Server:
    """The uvicorn server of the application, over HTTPS when a TLS context is given; `run_server` runs it."""
    # Our arguments log already has every error that ends a response early, with its request id.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = _config(app)
    drain: Drain = app.state.drain
    return SecureServer(config, drain, secure) if secure is not None else DrainingServer(config, drain)


def further_server(app: Starlette, secure: ssl.SSLContext | None = None) -> uvicorn.Server:
    """The uvicorn server of another application beside the box's own, over HTTPS when a TLS context is given;
    `run_server` runs it until the box shuts down."""
    drain: Drain = app.state.drain
    return (
        SecureFurtherServer(_config(app), drain, secure) if secure is not None else FurtherServer(_config(app), drain)
    )


def _config(app: Starlette) -> uvicorn.Config:
    shared: Shared = app.state.shared
    return uvicorn.Config(
        app,
        http=partial(HttpProtocol, shared=shared),  # type: ignore[arg-type]
        ws=SocketProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=round(FINISH_SECONDS + ERROR_SECONDS),
        ws_max_size=MOST_BYTES,
        # Compression hardly shrinks audio and costs CPU time.
        ws_per_message_deflate=False,
    )


async def run_server(web: uvicorn.Server, listening: socket.socket, settings: Settings) -> None:
    """Serves until a signal or `should_exit`."""
    app: Any = web.config.app
    connections: ConnectionTable = app.state.shared.connections

    async def sweep() -> None:
        seconds = settings.server.head_seconds
        while True:
            await anyio.sleep(seconds / 4)
            connections.sweep(seconds)

    async with anyio.create_task_group() as group:
        group.start_soon(sweep)
        for task in getattr(app.state, "background", ()):
            group.start_soon(task)
        await web.serve(sockets=[listening])
        group.cancel_scope.cancel()


async def _reject_unroutable(request: Request, error: Exception) -> NoReturn:
    """Raises our error for a file of the page that does not exist.

    Requests beyond the policy do not get here: `RequestMiddleware` rejects them.
    """
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    if error.status_code == 404:
        raise NotFound(f"{request.url.path} does not exist") from None
    raise BadInput(str(error.detail)) from None
