"""Middleware of all routes: request id, API key, origin check, limits on size and time, audit log and metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import replace

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatapi import auth
from chatapi.audio import skipped
from chatapi.auth import PREFIX, SECRET_PREFIX, KeyHolder, Keyring, audit, client_address, current_client
from chatapi.auth.audit import ANONYMOUS
from chatapi.errors import (
    BadInput,
    Busy,
    ChatapiError,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    SettingsError,
    TooLarge,
    TooSlow,
    Unauthorized,
    collapse_exception_group,
    drop_traceback_frames,
)
from chatapi.interfaces.http import foreign_origin, head_requests
from chatapi.interfaces.http.body_limits import BodyLimits
from chatapi.interfaces.http.content_encoding import Inflater, inflater
from chatapi.interfaces.http.dialect import HttpDialect, client_of, own_dialect
from chatapi.interfaces.http.ignored import IgnoredParameters
from chatapi.interfaces.http.problems import status_of
from chatapi.interfaces.http.protocols import FAULT, REJECTED
from chatapi.interfaces.http.security_headers import SECURITY_HEADERS
from chatapi.interfaces.http.spooling import Spool
from chatapi.observability.logs import request_id
from chatapi.observability.metrics import Metrics
from chatapi.runtime.byte_budget import SHARE, ByteBudget
from chatapi.runtime.drain import shutting_down
from chatapi.settings import Settings

log = logging.getLogger(__name__)

VALID_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEY_CHECK_SECONDS = 1.0
"""Interval between checks that the API key of an open WebSocket is still valid, in seconds."""
LINGER_SECONDS = 2
"""Time for which the rest of a rejected body is discarded, in seconds, so that the client can read the error."""
RETRY_SECONDS = 5.0
"""Retry-After of a client rejected because of too many connections or requests, in seconds."""
KEY_HOLDER = "chatapi.key_holder"
"""Key of the client in the ASGI scope of its request."""
CLIENT_CLOSED_REQUEST = 499
"""Status in metrics and audit log of a request whose client disconnected before the response, as in nginx."""
SKIPPED_HEADER = "X-Chatapi-Audio-Skipped"
"""What of the request's audio could not be decoded, in words, where the response begins after the decoding."""


class ClientStalled(Exception):
    """The client received nothing for too long; its connection is closed."""


class RequestMiddleware:
    """The ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        keyring: Keyring,
        budget: ByteBudget,
        dialect: HttpDialect | None = None,
    ) -> None:
        """`dialect`: the API of the server; None: the box's own."""
        self._app = app
        self._server = settings.server
        self._dialect = dialect or own_dialect(settings, keyring)
        self._data = settings.data
        # A body beyond one client's share would otherwise be rejected for ever as if the box were busy.
        self._body_bytes = min(self._dialect.body_bytes, round(budget.limit * SHARE))
        self._metrics = metrics
        self._keyring = keyring
        self._budget = budget
        self._requests = 0
        self._parsing = anyio.CapacityLimiter(1)
        """Limits large bodies that are parsed at once: each takes several times its size in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._requests += 1
            try:
                await _HttpRequest(self, scope, receive, send).run()
            finally:
                self._requests -= 1
        elif scope["type"] == "websocket":
            await _WebSocket(self, scope, receive, send).run()
        else:
            await self._app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> KeyHolder:
        """Authenticates the client and returns its key holder. Raises Forbidden, Unauthorized, TooMany, SettingsError.

        Browsers can send the key of a WebSocket only as a subprotocol.
        """
        self._check_host(headers)
        self._check_origin(headers, scope["scheme"] in ("https", "wss"))
        return self._dialect.authenticate(scope, headers)

    def check_room(self, scope: Scope) -> None:
        """Raises Busy when the box has too many connections or requests, except for health checks."""
        if scope["path"] in self._dialect.health_paths:
            return
        if rejection := scope.get(REJECTED):
            raise Busy(f"{rejection}; try again later", code="too_many_connections", retry_after=RETRY_SECONDS)
        if self._requests > self._server.requests:
            message = f"{self._server.requests} requests are in progress, which is the limit; try again later"
            raise Busy(message, code="too_many_requests", retry_after=RETRY_SECONDS)

    def _check_host(self, headers: Headers) -> None:
        """Allows only server.hosts on loopback: a foreign page could point a host name at it (DNS rebinding)."""
        if self._dialect.host not in LOOPBACK:
            return
        host = re.sub(r":\d+$", "", headers.get("host", "localhost"))
        if host not in self._server.hosts:
            message = f"the host name {host!r} is not in server.hosts; add it there if it is a name of this server"
            raise Forbidden(message, code="unknown_host")

    def _check_origin(self, headers: Headers, secure: bool) -> None:
        """Rejects pages of other sites, and our own page over plain HTTP when the box serves HTTPS."""
        origin = headers.get("origin")
        if origin is None or origin in self._server.cors_origins:
            return
        scheme, _, netloc = origin.partition("://")
        if netloc != headers.get("host") or (secure and scheme != "https"):
            raise Forbidden(foreign_origin.message(origin, headers, self._server), code="foreign_origin")


class _WebSocket:
    """A WebSocket: checks the handshake, then closes the connection when its key is revoked."""

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._inner_receive = receive
        self._inner_send = send
        self._holder = ANONYMOUS
        self._operation = auth.operation("websocket", scope["path"])
        self._status = 0
        self._closed = False
        self._started = self._key_checked = time.monotonic()

    async def run(self) -> None:
        token = request_id.set(secrets.token_hex(8))
        try:
            await self._authenticate()
        finally:
            self._record()
            request_id.reset(token)

    async def _authenticate(self) -> None:
        try:
            self._middleware.check_room(self._scope)
            self._holder = self._scope[KEY_HOLDER] = self._middleware.check(self._scope, Headers(scope=self._scope))
            self._middleware._keyring.authorize(self._holder, self._operation)
            current_client.enter(self._holder)
        except ChatapiError as error:
            self._status = status_of(error)
            self._middleware._metrics.errors.labels(error.code).inc()
            response = self._middleware._dialect.error_response(self._scope["path"], error, None)
            await response(self._scope, self._inner_receive, self._inner_send)
            return
        await self._middleware._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        """The next message; closes the connection when the key is no longer valid."""
        message = await self._inner_receive()
        now = time.monotonic()
        if message["type"] == "websocket.receive" and now - self._key_checked >= KEY_CHECK_SECONDS:
            self._key_checked = now
            if not self._key_is_valid():
                self._closed = True
                await self._inner_send({"type": "websocket.close", "code": 1008, "reason": "unauthorized"})
                return {"type": "websocket.disconnect", "code": 1008, "reason": "unauthorized"}
        return message

    def _key_is_valid(self) -> bool:
        try:
            return self._middleware._keyring.is_valid(self._holder)
        except SettingsError:
            return False

    async def _send(self, message: Message) -> None:
        if not self._status:
            rejected = int(message.get("status", 403))
            self._status = 101 if message["type"] == "websocket.accept" else rejected
        if not self._closed:
            await self._inner_send(message)

    def _record(self) -> None:
        seconds, peer = time.monotonic() - self._started, client_of(self._scope)
        audit.record("websocket", self._holder, self._operation, peer, seconds, method="GET", status=self._status)


class _HttpRequest:
    """One request and its response in the middleware."""

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._inner_receive = receive
        self._inner_send = send
        self._headers = Headers(scope=scope)
        self._arrived = 0
        """Bytes of the body so far, decompressed."""
        self._inflater: Inflater | None = None
        self._body_complete = False
        self._disconnected = False
        self._status = 0
        self._holder = ANONYMOUS
        self._dialect = middleware._dialect
        scope["path"] = self._dialect.routed(scope["path"])
        self._operation = self._dialect.operation(scope["method"], scope["path"])
        if (fault := scope.get(FAULT)) is not None:
            # Only clients that may request the route get the error that the connection found in the request's head.
            self._operation = replace(self._operation, denial=fault)
        uploaded = self._dialect.upload_limits(self._operation.route, self._headers)
        self._limits = uploaded or BodyLimits.of_held(middleware._body_bytes, self._dialect.body_seconds)
        self._started = time.monotonic()
        address = client_of(scope)
        self._held = middleware._budget.open(client_address.counted(address))
        scope[Spool.KEY] = self._spool = Spool(middleware._data, middleware._parsing)
        scope[IgnoredParameters.KEY] = self._ignored = IgnoredParameters()
        offered = self._headers.get("x-request-id", "")
        # Ids are logged and returned, so a key sent there by mistake must not be used as one.
        valid = VALID_ID.fullmatch(offered) and PREFIX not in offered and not offered.startswith(SECRET_PREFIX)
        self._id = offered if valid else secrets.token_hex(8)

    async def run(self) -> None:
        token = request_id.set(self._id)
        try:
            with skipped.collect() as self._skipped:
                await self._respond()
        finally:
            self._spool.close()
            self._held.release()
            self._record()
            request_id.reset(token)

    async def _respond(self) -> None:
        try:
            self._middleware.check_room(self._scope)
            self._holder = self._scope[KEY_HOLDER] = self._middleware.check(self._scope, self._headers)
            self._middleware._keyring.authorize(self._holder, self._operation)
            current_client.enter(self._holder)
            self._check_length()
            encoding = self._headers.get("content-encoding", "")
            self._inflater = inflater(encoding, self._limits.bytes) if self._expects_body() else None
            if self._scope["method"] == "HEAD":
                await head_requests.respond(self._middleware._app, self._scope, self._receive, self._send)
            else:
                await self._middleware._app(self._scope, self._receive, self._send)
        except anyio.get_cancelled_exc_class():
            # Only a shutdown cancels a whole request, when its time to finish has passed.
            if not self._status and not self._disconnected:
                ending = shutting_down()
                self._middleware._metrics.errors.labels(ending.code).inc()
                response = self._dialect.error_response(self._scope["path"], ending, None)
                await response(self._scope, self._inner_receive, self._send)
            raise
        except Exception as raised:
            error = collapse_exception_group(raised)
            if self._disconnected and not self._status and isinstance(error, (ClientDisconnect, ChatapiError)):
                # The client is gone; this is no error to report or count.
                return
            if self._status:
                # The response has started: only closing the connection can show that it is incomplete.
                if not isinstance(error, (ClientStalled, ChatapiError)):
                    log.exception("response failed midway", exc_info=error)
                raise
            if isinstance(error, ClientStalled):
                raise
            if not isinstance(error, ChatapiError):
                log.exception("unexpected error", exc_info=error)
                error = InternalError("internal error; the log has the details under this request_id")
            await self._reject(error)
            drop_traceback_frames(raised)

    async def _reject(self, error: ChatapiError) -> None:
        # Frees memory for other requests while the error is sent.
        self._spool.close()
        self._held.release()
        headers = {}
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Basic realm="chatapi"' if self._wants_page() else "Bearer"
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(error.methods)
        self._middleware._metrics.errors.labels(error.code).inc()
        if not self._body_complete and self._expects_body():
            await self._discard_body()
            headers["Connection"] = "close"
        response = self._dialect.error_response(self._scope["path"], error, headers)
        await response(self._scope, self._inner_receive, self._send)

    def _wants_page(self) -> bool:
        """Whether a browser loads the page, so that it may prompt for the key; the page's API calls must not prompt."""
        return "text/html" in self._headers.get("accept", "") or self._scope["path"].startswith("/page/")

    def _expects_body(self) -> bool:
        return self._headers.get("content-length", "0") != "0" or "transfer-encoding" in self._headers

    async def _discard_body(self) -> None:
        discarded = 0
        with anyio.move_on_after(LINGER_SECONDS):
            while discarded < 2 * self._middleware._body_bytes:
                message = await self._inner_receive()
                discarded += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return

    def _check_length(self) -> None:
        stated = self._headers.get("content-length", "0")
        if not stated.isdecimal():
            raise BadInput(f"Content-Length is {stated!r}, which is not a number")
        self._check_size(int(stated))
        # Checked before the body arrives; its memory is counted as it arrives.
        if self._limits.held:
            self._middleware._budget.check(int(stated), self._held.address)

    def _check_size(self, size: int) -> None:
        if size > (limit := self._limits.bytes):
            raise TooLarge(
                f"the body is larger than {limit} bytes", code="body_too_large", details={"limit_bytes": limit}
            )

    async def _receive(self) -> Message:
        if self._body_complete:
            message = await self._inner_receive()
            self._disconnected = self._disconnected or message["type"] == "http.disconnect"
            return message
        left = min(self._started + self._limits.seconds - time.monotonic(), self._limits.silent_seconds)
        with anyio.move_on_after(max(left, 0)):
            message = await self._inner_receive()
            self._disconnected = message["type"] == "http.disconnect"
            self._body_complete = self._disconnected or not message.get("more_body", False)
            if self._inflater is not None and not self._disconnected:
                # On a thread, because a few bytes may become many.
                part, last = message.get("body", b""), self._body_complete
                message = {**message, "body": await anyio.to_thread.run_sync(self._inflater.feed, part, last)}
            self._arrived += len(message.get("body", b""))
            self._check_size(self._arrived)
            if self._limits.held:
                self._held.hold(self._arrived)
            return message
        raise TooSlow(f"the body did not arrive within {self._limits.seconds:g} seconds", code="body_too_slow")

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._id
            if ignored := self._ignored.text:
                headers[IgnoredParameters.HEADER] = ignored
                log.info("ignored parameters: %s", ignored)
            if self._skipped:
                headers[SKIPPED_HEADER] = str(self._skipped)
            if REJECTED in self._scope:
                headers["Connection"] = "close"
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        seconds = self._middleware._server.send_seconds
        with anyio.move_on_after(seconds):
            await self._inner_send(message)
            return
        log.warning("client stalled for %g seconds, connection closed", seconds)
        raise ClientStalled

    def _record(self) -> None:
        seconds = time.monotonic() - self._started
        status = self._status or (CLIENT_CLOSED_REQUEST if self._disconnected else 0)
        route, method = self._operation.route, self._scope["method"]
        metrics = self._middleware._metrics
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        metrics.requests.labels(route, known, status or "none").inc()
        metrics.request_seconds.labels(route).observe(seconds)
        peer = client_of(self._scope)
        audit.record("request", self._holder, self._operation, peer, seconds, method=method, status=status)
