"""The whole HTTP face: routes, what stands before them, and the server that carries it."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from functools import partial
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from chatapi.appliance import Appliance
from chatapi.errors import BadInput, CallerError, NotFound, SettingsError, Unprocessable
from chatapi.interfaces.http import completion_request, openai, page, realtime, routes
from chatapi.interfaces.http.connections import BACKLOG, ConnectionTable
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.interfaces.http.problems import refusal
from chatapi.interfaces.http.protocols import HEAD_BYTES, HttpProtocol, Shared, SocketProtocol
from chatapi.interfaces.http.tls import SecureServer
from chatapi.settings import Settings
from chatapi.system.version import version

MOST_BYTES = 16 << 20
"""Of one WebSocket message; a larger one closes its connection with code 1009."""
REPLY_HEADERS = (
    "X-Request-Id", "X-Chatapi-Conversation", "X-Chatapi-Transcript", "X-Chatapi-Reply", "X-Chatapi-Finish-Reason",
    "X-Chatapi-Usage", "X-Chatapi-Timings", "Retry-After",
)  # fmt: skip


def create_app(appliance: Appliance) -> FastAPI:
    """The ASGI application over an appliance that is running."""
    app = FastAPI(
        title="chatapi",
        version=version(),
        summary="Text or audio in, text or voice out, on the box itself.",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(routes.router(appliance))
    app.include_router(openai.router(appliance))
    app.include_router(realtime.router(appliance))
    app.include_router(page.router())
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    own = (appliance.settings, appliance.metrics, appliance.keyring, appliance.byte_budget)
    app.add_middleware(RequestMiddleware, *own)
    if appliance.settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(appliance.settings.server.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            # Clients in browsers add headers of their own; who may call is told by the origins alone.
            allow_headers=["*"],
            expose_headers=list(REPLY_HEADERS),
        )
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    table = appliance.settings.server
    app.state.shared = Shared(
        ConnectionTable(table.connections, table.connections_per_address), appliance.byte_budget, table.body_seconds
    )
    appliance.metrics.http_connections.set_function(lambda: float(len(app.state.shared.connections)))
    return app


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        # Python's own words name the address a second time.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; set server.host or server.port") from error
    # Accepted connections inherit it. Without it a reply's second packet waits 40 ms for the first one's receipt.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(app: FastAPI, secure: ssl.SSLContext | None = None) -> uvicorn.Server:
    """What carries the app, by HTTPS when it is given what that needs; `carry` runs it."""
    # What ends a reply half-way is in our own log already, with its request id.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    shared: Shared = app.state.shared
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, shared=shared),  # type: ignore[arg-type]
        ws=SocketProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=5,
        ws_max_size=MOST_BYTES,
        # Sound hardly gets smaller by it, and a small box has other work.
        ws_per_message_deflate=False,
    )
    return SecureServer(config, secure) if secure is not None else uvicorn.Server(config)


async def carry(web: uvicorn.Server, listening: socket.socket, settings: Settings) -> None:
    """Serve until a signal or `should_exit`."""
    app: Any = web.config.app
    connections: ConnectionTable = app.state.shared.connections

    async def sweep() -> None:
        seconds = settings.server.head_seconds
        while True:
            await anyio.sleep(seconds / 4)
            connections.sweep(seconds)

    async with anyio.create_task_group() as group:
        group.start_soon(sweep)
        await web.serve(sockets=[listening])
        group.cancel_scope.cancel()


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, a method it does not take."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    path = request.url.path
    if error.status_code == 404:
        return refusal(path, NotFound(f"there is nothing at {path}"))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        told = CallerError(f"{path} does not take {request.method}; it takes {allowed}", code="method_not_allowed")
        return refusal(path, told, {"Allow": allowed}, status=405)
    return refusal(path, BadInput(str(error.detail)), status=error.status_code)


async def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    told = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return refusal(request.url.path, Unprocessable(told))


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that `/completion` names."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (completion_request.PromptRequest, routes.CompletionModel, routes.ProblemDocument, *openai.BODIES):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema
