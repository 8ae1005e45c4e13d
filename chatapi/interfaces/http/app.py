"""The HTTP application: routes, middleware, and the uvicorn server that runs it."""

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

from chatapi import auth
from chatapi.appliance import Appliance
from chatapi.errors import BadInput, MethodNotAllowed, NotFound, SettingsError, Unprocessable
from chatapi.interfaces.http import completion_request, openai, page, realtime, routes
from chatapi.interfaces.http.connections import BACKLOG, ConnectionTable
from chatapi.interfaces.http.middleware import RequestMiddleware
from chatapi.interfaces.http.problems import error_response
from chatapi.interfaces.http.protocols import HEAD_BYTES, HttpProtocol, Shared, SocketProtocol
from chatapi.interfaces.http.tls import SecureServer
from chatapi.settings import Settings
from chatapi.system.version import version

MOST_BYTES = 16 << 20
"""Largest WebSocket message, in bytes; a larger one closes its connection with code 1009."""
REPLY_HEADERS = (
    "X-Request-Id", "X-Chatapi-Conversation", "X-Chatapi-Transcript", "X-Chatapi-Reply", "X-Chatapi-Finish-Reason",
    "X-Chatapi-Usage", "X-Chatapi-Timings", "Retry-After",
)  # fmt: skip


def create_app(appliance: Appliance) -> FastAPI:
    """The ASGI application of a running appliance."""
    app = FastAPI(
        title="chatapi",
        version=version(),
        summary="Text or audio in, text or voice out, on the box itself.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(routes.router(appliance))
    app.include_router(openai.router(appliance))
    app.include_router(realtime.router(appliance))
    app.include_router(page.router())
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
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
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    table = appliance.settings.server
    app.state.shared = Shared(
        ConnectionTable(table.connections, table.connections_per_address), appliance.byte_budget, table.body_seconds
    )
    appliance.metrics.http_connections.set_function(lambda: float(len(app.state.shared.connections)))
    return app


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError when the address is in use or not local."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        # Python's arguments message repeats the address.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; set server.host or server.port") from error
    # Accepted connections inherit it. Without it the second packet of a response waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(app: FastAPI, secure: ssl.SSLContext | None = None) -> uvicorn.Server:
    """The uvicorn server of the application, over HTTPS when a TLS context is given; `run_server` runs it."""
    # Our arguments log already has every error that ends a response early, with its request id.
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
        # Compression hardly shrinks audio and costs CPU time.
        ws_per_message_deflate=False,
    )
    return SecureServer(config, secure) if secure is not None else uvicorn.Server(config)


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
        await web.serve(sockets=[listening])
        group.cancel_scope.cancel()


async def _http_problem(request: Request, error: Exception) -> Response:
    """The response to a file of the page that does not exist, and to HEAD where only GET is supported.

    Requests beyond the policy do not get here: `RequestMiddleware` rejects them.
    """
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    path = request.url.path
    if error.status_code == 404:
        return error_response(path, NotFound(f"{path} does not exist"))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        problem = MethodNotAllowed(f"{path} does not support {request.method}; it supports {allowed}", [allowed])
        return error_response(path, problem, {"Allow": allowed})
    return error_response(path, BadInput(str(error.detail)), status=error.status_code)


async def _validation_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for nothing else
    message = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return error_response(request.url.path, Unprocessable(message))


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that `/completion` refers to."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (completion_request.PromptRequest, routes.CompletionModel, routes.ProblemDocument, *openai.BODIES):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for method, described in operations.items():
                described["security"] = _security(method.upper(), path)
        app.openapi_schema = document
    return app.openapi_schema


def _security(method: str, path: str) -> list[dict[str, list[str]]]:
    """A route's scopes, as alternatives; the empty one is for a server without keys."""
    scopes = auth.http_operation(method, path).scopes
    return [*({"key": [scope]} for scope in scopes), {}] if scopes else [{"key": []}, {}]
