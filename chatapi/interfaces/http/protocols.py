"""uvicorn's protocol for HTTP, with limits on the size and time of what one connection sends."""

from __future__ import annotations

import json
import logging
import sys
from asyncio import AbstractEventLoop, Transport
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from chatapi.errors import BadInput, ChatapiError, TooLarge, TooSlow
from chatapi.interfaces.http.connections import ConnectionEntry, ConnectionTable
from chatapi.interfaces.http.problems import Problem
from chatapi.runtime.byte_budget import ByteBudget

FAULT = "chatapi.fault"
"""Key in a request's scope: the error to respond with after authentication."""
REJECTED = "chatapi.rejected"
"""Key in a request's scope: why its connection is rejected."""
HEAD_BYTES = 32 << 10
"""Largest head of a request, including path and query, in bytes."""
SLICE = 4 << 10
"""Bytes parsed at a time when a few bytes may be a whole chunk or frame, each of which costs microseconds."""
STARTS_PER_ITERATION = 8
"""Most requests that start in one iteration of the event loop; each takes a millisecond or more."""
HEALTH = (b"GET /health ", b"GET /ready ", b"HEAD /health ", b"HEAD /ready ")
"""Request lines of health checks, which do not wait for other requests."""
LINGER_SECONDS = 2.0
"""Time for which data of a rejected client is discarded, in seconds, so that the client can read the error."""

_no_log = logging.Logger("handshake", logging.CRITICAL + 1)


class RequestPacer:
    """Limits how many requests start in one iteration of the event loop, so that many requests do not block it."""

    def __init__(self, most: int = STARTS_PER_ITERATION) -> None:
        self._most = self._left = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._armed = False

    def admit(self, loop: AbstractEventLoop, start: Callable[[], None]) -> bool:
        """Whether a request may start at once; otherwise `start` is called in a later iteration."""
        if not self._armed:
            self._armed = True
            loop.call_soon(self._next, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.append(start)
        return False

    def _next(self, loop: AbstractEventLoop) -> None:
        self._armed, self._left = False, self._most
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
        if self._waiting:
            self._armed = True
            loop.call_soon(self._next, loop)


@dataclass(frozen=True)
class Shared:
    """State that all connections of a server share."""

    connections: ConnectionTable
    budget: ByteBudget
    message_seconds: float
    """Timeout of a WebSocket message, from its first to its last byte, in seconds."""
    pacer: RequestPacer = field(default_factory=RequestPacer)


class HttpProtocol(H11Protocol):
    """One HTTP connection."""

    _entry: ConnectionEntry | None = None
    _sized = False
    """Whether the request has a Content-Length, so that its body has no small chunks."""
    _ended = False

    def __init__(self, *arguments: Any, shared: Shared, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared = shared
        self._unparsed = bytearray()
        """Received bytes that are not parsed yet."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._entry = self._shared.connections.add(self, self.client[0] if self.client else "")
        if self._entry is None:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entry is not None:
            self._shared.connections.remove(self._entry)
        self._unparsed.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended or self._entry is None:
            return
        if self._unparsed or not self._may_start(data):
            self._unparsed += data
            self.transport.pause_reading()
        elif len(data) <= SLICE or self._sized:
            super().data_received(data)
        else:
            self._unparsed += data
            self.transport.pause_reading()
            self._parse_slice()

    def _may_start(self, data: bytes) -> bool:
        """Whether the data is no new request, or a request that may start at once."""
        if self.conn.their_state is not h11.IDLE or data.startswith(HEALTH):
            return True
        if self._shared.pacer.admit(self.loop, self._start_delayed):
            return True
        if self._entry is not None:
            # The client waits for the box, so the connection is not idle.
            self._shared.connections.mark_busy(self._entry)
        return False

    def _start_delayed(self) -> None:
        """Starts a request that had to wait."""
        self._parse_slice()
        if self._entry is not None and self.conn.their_state is h11.IDLE:
            self._shared.connections.mark_idle(self._entry)

    def _parse_slice(self) -> None:
        """Parses the next slice now, and each further slice in a later iteration of the event loop."""
        part = bytes(self._unparsed[: len(self._unparsed) if self._sized else SLICE])
        del self._unparsed[: len(part)]
        if part and not self._ended and not self.transport.is_closing():
            super().data_received(part)
        if self._unparsed:
            self.loop.call_soon(self._parse_slice)
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def expire(self) -> None:
        """Closes the connection, with a 408 when a request has started."""
        if self.conn.trailing_data[0]:
            self._end(408, TooSlow("the head of the request did not arrive in time", code="head_too_slow"))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Rejects data that is not HTTP. `msg`: uvicorn's message."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._end(431, _large_head())
        else:
            self._end(400, BadInput(f"this is not HTTP: {error or msg}", code="invalid_http"))

    def on_response_complete(self) -> None:
        self._sized = False
        if self._entry is not None:
            self._shared.connections.mark_idle(self._entry)
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        """Called once for each request, after its head is parsed and before it is handled."""
        assert self._entry is not None  # noqa: S101 - set before any data arrives
        self._shared.connections.mark_busy(self._entry)
        if self._entry.rejection:
            cast(dict[str, Any], self.scope)[REJECTED] = self._entry.rejection
        head, self._sized = self._head()
        if head > HEAD_BYTES:
            cast(dict[str, Any], self.scope)[FAULT] = _large_head()
            return False
        if self._get_upgrade() != b"websocket":
            return False
        if fault := _handshake_fault(self._handshake()):
            message = f"the WebSocket handshake is not valid: {fault[:200]}"
            cast(dict[str, Any], self.scope)[FAULT] = BadInput(message, code="bad_handshake")
            return False
        return True

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        inner = self.ws_protocol_class
        self.ws_protocol_class = partial(inner, entry=self._entry, shared=self._shared)  # type: ignore
        super().handle_websocket_upgrade(event)
        self._unparsed.clear()

    def _head(self) -> tuple[int, bool]:
        """Size of the request's head in bytes, and whether it has a Content-Length."""
        size, sized = len(self.scope["raw_path"]) + len(self.scope["query_string"]), False
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            sized = sized or name == b"content-length"
        return size, sized

    def _handshake(self) -> bytes:
        """The raw head of the request."""
        query = self.scope["query_string"]
        target = self.scope["raw_path"] + (b"?" + query if query else b"")
        line = b" ".join((self.scope["method"].encode(), target, b"HTTP/" + self.scope["http_version"].encode()))
        return b"\r\n".join((line, *(name + b": " + value for name, value in self.headers), b"", b""))

    def _end(self, status: int, error: ChatapiError) -> None:
        """Sends the error, unless a response has started, and closes. The handler sees a disconnect."""
        self._ended = True
        started = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if started or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write(_reply(status, error))
        # The client may have disconnected already.
        with suppress(OSError):
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _large_head() -> TooLarge:
    return TooLarge(
        f"the head of the request has more than {HEAD_BYTES} bytes", code="head_too_large",
        details={"limit_bytes": HEAD_BYTES},
    )  # fmt: skip


def _handshake_fault(head: bytes) -> str:
    """The websockets library's complaint about the handshake; empty when it is valid."""
    protocol = ServerProtocol(logger=_no_log)
    protocol.receive_data(head)
    if protocol.handshake_exc is not None:
        return str(protocol.handshake_exc.__cause__ or protocol.handshake_exc)
    request = next((event for event in protocol.events_received() if isinstance(event, Request)), None)
    if request is None:
        return "it is incomplete"
    if protocol.accept(request).status_code == 101:
        return ""
    key = request.headers.get_all("Sec-WebSocket-Key")
    return "Sec-WebSocket-Key is not ASCII" if not "".join(key).isascii() else str(protocol.handshake_exc)


def _reply(status: int, error: ChatapiError) -> bytes:
    """A raw response that closes the connection, for data without a valid request."""
    document = json.dumps(Problem.document(error, status), ensure_ascii=False).encode("utf-8", "replace")
    lines = (
        f"HTTP/1.1 {status} {_PHRASES[status]}", f"Content-Type: {Problem.media_type}",
        f"Content-Length: {len(document)}", "Connection: close", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + document


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
