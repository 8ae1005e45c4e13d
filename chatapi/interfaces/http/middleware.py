"""What stands before every route: the request's id, its key and origin, limits on size and time, log and metrics."""

from __future__ import annotations

import logging
import re
import secrets
import time

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatapi.auth import PREFIX, KeyHolder, Keyring, client_address
from chatapi.errors import (
    BadInput,
    Busy,
    ChatapiError,
    Forbidden,
    InternalError,
    SettingsError,
    TooLarge,
    TooSlow,
    Unauthorized,
    collapse_exception_group,
    drop_traceback_frames,
)
from chatapi.interfaces.http import scopes
from chatapi.interfaces.http.problems import refusal, status_of
from chatapi.interfaces.http.protocols import FAULT, REFUSED
from chatapi.interfaces.http.spooling import Spool
from chatapi.observability.logs import AUDIT, request_id
from chatapi.observability.metrics import Metrics
from chatapi.runtime.byte_budget import SHARE, ByteBudget
from chatapi.settings import Settings

log = logging.getLogger(__name__)
audit = logging.getLogger(AUDIT)

SANE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
LOOK_SECONDS = 1.0
"""Seconds between two looks at whether the key of an open WebSocket still is one."""
NOBODY = KeyHolder("-", ())
"""Who was not let in."""
LINGER_SECONDS = 2
"""How long the rest of a refused body is read and thrown away, so that its sender gets to read the refusal."""
ALWAYS = ("/health", "/ready")
"""Paths that are answered however busy the box is."""
RETRY_SECONDS = 5.0
"""Until a client is to try again that found too many connections or requests."""
LEFT = 499
"""In metrics and audit the status of a request whose client disconnected before the reply, as nginx writes it."""
POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
}


class ClientStalled(Exception):
    """The client took nothing for too long; its connection is dropped."""


class RequestMiddleware:
    """ASGI middleware around the whole face."""

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, keyring: Keyring, budget: ByteBudget
    ) -> None:
        self._app = app
        self._server = settings.server
        self._data = settings.data
        # What one client may hold at most would otherwise be refused for ever as if the box were busy.
        self._body_bytes = min(settings.limits.body_bytes, round(budget.limit * SHARE))
        self._metrics = metrics
        self._keyring = keyring
        self._budget = budget
        self._requests = 0
        self._parsing = anyio.CapacityLimiter(1)
        """Large bodies that are parsed at once: each takes several times its size meanwhile."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._requests += 1
            try:
                await _Exchange(self, scope, receive, send).run()
            finally:
                self._requests -= 1
        elif scope["type"] == "websocket":
            await _Socket(self, scope, receive, send).run()
        else:
            await self._app(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> KeyHolder:
        """Who asks. Raises Forbidden, Unauthorized, TooMany, SettingsError.

        Browsers can send a WebSocket's key only as a subprotocol.
        """
        self._check_host(headers)
        self._check_origin(headers, scope["scheme"] in ("https", "wss"))
        offered = scopes.offered_keys(headers, scope.get("subprotocols", ()))
        return self._keyring.authenticate(offered, _address(scope))

    def allow(self, holder: KeyHolder, path: str) -> None:
        """Count one more request, or WebSocket, of theirs. Raises TooMany, Forbidden."""
        self._keyring.count(holder)
        scopes.require(holder, path)

    def check_room(self, scope: Scope) -> None:
        """Raises Busy where the box has too many connections or requests, unless its health is asked for."""
        if scope["path"] in ALWAYS:
            return
        if refused := scope.get(REFUSED):
            raise Busy(f"{refused}; try again later", code="too_many_connections", retry_after=RETRY_SECONDS)
        if self._requests > self._server.requests:
            told = f"{self._server.requests} requests are worked on, which is all that are taken; try again later"
            raise Busy(told, code="too_many_requests", retry_after=RETRY_SECONDS)

    def _check_host(self, headers: Headers) -> None:
        """On loopback only its own names: a foreign page could point a name of its own there (DNS rebinding)."""
        if self._server.host not in LOOPBACK:
            return
        host = re.sub(r":\d+$", "", headers.get("host", "localhost"))
        if host not in self._server.hosts:
            raise Forbidden(f"the host name {host!r} is not in server.hosts", code="unknown_host")

    def _check_origin(self, headers: Headers, secure: bool) -> None:
        """Another site's page may not use this one's visitors, nor may our own where anybody could have changed it."""
        origin = headers.get("origin")
        if origin is None or origin in self._server.cors_origins:
            return
        scheme, _, netloc = origin.partition("://")
        if netloc != headers.get("host") or (secure and scheme != "https"):
            raise Forbidden(f"pages of {origin} may not call; server.cors_origins can allow it", code="foreign_origin")


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else "-"


def _audit(kind: str, scope: Scope, holder: KeyHolder, status: int, seconds: float) -> None:
    """Who asked for what, and never what was said. Of a path what the table knows: it may name a conversation."""
    route = getattr(scope.get("route"), "path", None) or scopes.entry(scope["path"]) or "other"
    fields = {
        "key": holder.name,
        "peer": _address(scope),
        "method": scope.get("method", "GET"),
        "route": route,
        "status": status,
        "seconds": round(seconds, 4),
    }
    audit.info(kind, extra=fields)


class _Socket:
    """A WebSocket: the same checks on its handshake; what follows is its face's own matter, while its key is one."""

    def __init__(self, guard: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._scope = scope
        self._inner_receive = receive
        self._inner_send = send
        self._holder = NOBODY
        self._status = 0
        self._closed = False
        self._begun = self._looked = time.monotonic()

    async def run(self) -> None:
        token = request_id.set(secrets.token_hex(8))
        try:
            await self._let_in()
        finally:
            _audit("websocket", self._scope, self._holder, self._status, time.monotonic() - self._begun)
            request_id.reset(token)

    async def _let_in(self) -> None:
        try:
            self._guard.check_room(self._scope)
            self._holder = self._guard.check(self._scope, Headers(scope=self._scope))
            self._guard.allow(self._holder, self._scope["path"])
        except ChatapiError as error:
            self._status = status_of(error)
            self._guard._metrics.errors.labels(error.code).inc()
            await refusal(self._scope["path"], error)(self._scope, self._inner_receive, self._inner_send)
            return
        await self._guard._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        """What comes; nothing more of whoever is no longer welcome."""
        message = await self._inner_receive()
        now = time.monotonic()
        if message["type"] == "websocket.receive" and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if not self._welcome():
                self._closed = True
                await self._inner_send({"type": "websocket.close", "code": 1008, "reason": "unauthorized"})
                return {"type": "websocket.disconnect", "code": 1008, "reason": "unauthorized"}
        return message

    def _welcome(self) -> bool:
        try:
            return self._guard._keyring.is_valid(self._holder)
        except SettingsError:
            return False

    async def _send(self, message: Message) -> None:
        if not self._status:
            refused = int(message.get("status", 403))
            self._status = 101 if message["type"] == "websocket.accept" else refused
        if not self._closed:
            await self._inner_send(message)


class _Exchange:
    """One request and its reply, on their way through the guard."""

    def __init__(self, guard: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._scope = scope
        self._inner_receive = receive
        self._inner_send = send
        self._headers = Headers(scope=scope)
        self._arrived = 0
        self._body_over = False
        self._left = False
        self._status = 0
        self._holder = NOBODY
        self._begun = time.monotonic()
        address = _address(scope)
        self._held = guard._budget.open("" if client_address.is_local(address) else client_address.client(address))
        scope[Spool.KEY] = self._spool = Spool(guard._data, guard._parsing)
        offered = self._headers.get("x-request-id", "")
        # Ids are logged and sent back, which a key that was put there by mistake may not be.
        sane = SANE_ID.fullmatch(offered) and PREFIX not in offered
        self._id = offered if sane else secrets.token_hex(8)

    async def run(self) -> None:
        token = request_id.set(self._id)
        try:
            await self._answered()
        finally:
            self._spool.close()
            self._held.release()
            self._note()
            request_id.reset(token)

    async def _answered(self) -> None:
        try:
            self._guard.check_room(self._scope)
            self._holder = self._guard.check(self._scope, self._headers)
            self._guard.allow(self._holder, self._scope["path"])
            self._check_head()
            self._check_length()
            await self._guard._app(self._scope, self._receive, self._send)
        except Exception as raised:
            error = collapse_exception_group(raised)
            if self._left and not self._status and isinstance(error, (ClientDisconnect, ChatapiError)):
                # Nobody is left to be told, and no fault of ours is to be counted.
                return
            if self._status:
                # The reply has begun: closing the connection is the only way left to say that it is not whole.
                if not isinstance(error, (ClientStalled, ChatapiError)):
                    log.exception("failed in mid-reply", exc_info=error)
                raise
            if isinstance(error, ClientStalled):
                raise
            if not isinstance(error, ChatapiError):
                log.exception("unexpected error", exc_info=error)
                error = InternalError("something went wrong here; the log has it under this request_id")
            await self._refuse(error)
            drop_traceback_frames(raised)

    async def _refuse(self, error: ChatapiError) -> None:
        # Others may have the room while its sender is still told.
        self._spool.close()
        self._held.release()
        headers = {}
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = 'Basic realm="chatapi"' if self._wants_page() else "Bearer"
        self._guard._metrics.errors.labels(error.code).inc()
        if not self._body_over and self._expects_body():
            await self._linger()
            headers["Connection"] = "close"
        await refusal(self._scope["path"], error, headers)(self._scope, self._inner_receive, self._send)

    def _wants_page(self) -> bool:
        """A browser at the door, or fetching the page's files, may ask for the key itself; the page's calls may not."""
        return "text/html" in self._headers.get("accept", "") or self._scope["path"].startswith("/page/")

    def _expects_body(self) -> bool:
        return self._headers.get("content-length", "0") != "0" or "transfer-encoding" in self._headers

    async def _linger(self) -> None:
        thrown_away = 0
        with anyio.move_on_after(LINGER_SECONDS):
            while thrown_away < 2 * self._guard._body_bytes:
                message = await self._inner_receive()
                thrown_away += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return

    def _check_head(self) -> None:
        """Raises what the connection found wrong with the request's head."""
        if (fault := self._scope.get(FAULT)) is not None:
            raise fault

    def _check_length(self) -> None:
        stated = self._headers.get("content-length", "0")
        if not stated.isdecimal():
            raise BadInput(f"Content-Length is {stated!r}, which is no number")
        self._check_size(int(stated))
        # Before it is sent; what it holds is counted as it arrives.
        self._guard._budget.check(int(stated), self._held.address)

    def _check_size(self, size: int) -> None:
        if size > (limit := self._guard._body_bytes):
            raise TooLarge(
                f"the body is larger than {limit} bytes", code="body_too_large", details={"limit_bytes": limit}
            )

    async def _receive(self) -> Message:
        if self._body_over:
            message = await self._inner_receive()
            self._left = self._left or message["type"] == "http.disconnect"
            return message
        left = self._begun + self._guard._server.body_seconds - time.monotonic()
        with anyio.move_on_after(max(left, 0)):
            message = await self._inner_receive()
            self._left = message["type"] == "http.disconnect"
            self._body_over = self._left or not message.get("more_body", False)
            self._arrived += len(message.get("body", b""))
            self._check_size(self._arrived)
            self._held.hold(self._arrived)
            return message
        raise TooSlow(
            f"the body did not arrive within {self._guard._server.body_seconds:g} seconds", code="body_too_slow"
        )

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._id
            if REFUSED in self._scope:
                headers["Connection"] = "close"
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        seconds = self._guard._server.send_seconds
        with anyio.move_on_after(seconds):
            await self._inner_send(message)
            return
        log.warning("the client took nothing for %g seconds; its connection is dropped", seconds)
        raise ClientStalled

    def _note(self) -> None:
        seconds = time.monotonic() - self._begun
        status = self._status or (LEFT if self._left else 0)
        route = getattr(self._scope.get("route"), "path", "other")
        method = self._scope["method"]
        metrics = self._guard._metrics
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        metrics.requests.labels(route, known, status or "none").inc()
        metrics.request_seconds.labels(route).observe(seconds)
        _audit("request", self._scope, self._holder, status, seconds)
