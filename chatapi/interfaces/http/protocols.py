"""uvicorn's protocols for HTTP and WebSockets, with bounds on what one connection may send and how long it may take."""

from __future__ import annotations

import json
import logging
import sys
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from chatapi.errors import BadInput, Busy, ChatapiError, TooLarge, TooSlow
from chatapi.interfaces.http.connections import ConnectionEntry, ConnectionTable
from chatapi.interfaces.http.problems import Problem
from chatapi.runtime.byte_budget import ByteBudget

FAULT = "chatapi.fault"
"""Of a request's scope: the error that it is answered with, once its sender was let in."""
REFUSED = "chatapi.refused"
"""Of a request's scope: why its connection is refused."""
HEAD_BYTES = 32 << 10
"""Largest head of a request, its path and query included."""
SLICE = 4 << 10
"""Bytes parsed at a time where a few of them may be a whole chunk or frame, each of which takes microseconds."""
FRAMES = 2048
"""Frames of a WebSocket that may be small; beyond them each must bring `FRAME_BYTES` on average."""
FRAME_BYTES = 32
FRAGMENTS = 1024
"""Most frames of one WebSocket message."""
BEGINNING = 8
"""Requests that begin in one round of the event loop; each takes a millisecond or more of it."""
HEALTH = (b"GET /health ", b"GET /ready ", b"HEAD /health ", b"HEAD /ready ")
"""How requests begin that need not wait for others."""
LINGER_SECONDS = 2.0
"""How long what a refused client still sends is thrown away, so that it gets to read the refusal."""

_quiet = logging.Logger("handshake", logging.CRITICAL + 1)


class Pace:
    """Lets few requests begin in one round of the event loop, so that a crowd holds up nothing else for long."""

    def __init__(self, most: int = BEGINNING) -> None:
        self._most = self._left = most
        self._waiting: deque[Callable[[], None]] = deque()
        self._armed = False

    def admit(self, loop: AbstractEventLoop, begin: Callable[[], None]) -> bool:
        """Whether a request may begin at once; else `begin` is called when its time has come."""
        if not self._armed:
            self._armed = True
            loop.call_soon(self._next, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting.append(begin)
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
    """What all connections of a server have in common."""

    connections: ConnectionTable
    budget: ByteBudget
    message_seconds: float
    """A WebSocket message that was begun must be complete by then."""
    pace: Pace = field(default_factory=Pace)


class HttpProtocol(H11Protocol):
    """One connection, as long as HTTP is spoken on it."""

    _entry: ConnectionEntry | None = None
    _sized = False
    """Whether the request's body has a stated length, so that its parts are not small."""
    _ended = False

    def __init__(self, *arguments: Any, shared: Shared, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._shared = shared
        self._later = bytearray()
        """Received, and not parsed yet."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._entry = self._shared.connections.enter(self, self.client[0] if self.client else "")
        if self._entry is None:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entry is not None:
            self._shared.connections.leave(self._entry)
        self._later.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended or self._entry is None:
            return
        if self._later or not self._may_begin(data):
            self._later += data
            self.transport.pause_reading()
        elif len(data) <= SLICE or self._sized:
            super().data_received(data)
        else:
            self._later += data
            self.transport.pause_reading()
            self._parse_later()

    def _may_begin(self, data: bytes) -> bool:
        """Whether this is no new request, or one that may begin at once."""
        if self.conn.their_state is not h11.IDLE or data.startswith(HEALTH):
            return True
        if self._shared.pace.admit(self.loop, self._begin):
            return True
        if self._entry is not None:
            # It waits for the box, not the box for it.
            self._shared.connections.busy(self._entry)
        return False

    def _begin(self) -> None:
        """Its turn has come."""
        self._parse_later()
        if self._entry is not None and self.conn.their_state is h11.IDLE:
            self._shared.connections.idle(self._entry)

    def _parse_later(self) -> None:
        """The next slice now, the others each after what else is waiting for the event loop."""
        part = bytes(self._later[: len(self._later) if self._sized else SLICE])
        del self._later[: len(part)]
        if part and not self._ended and not self.transport.is_closing():
            super().data_received(part)
        if self._later:
            self.loop.call_soon(self._parse_later)
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def expire(self) -> None:
        """Whoever has begun a request is told."""
        if self.conn.trailing_data[0]:
            self._end(408, TooSlow("the head of the request did not arrive in time", code="head_too_slow"))
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP. `msg`: uvicorn's own words for it."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._end(431, _large_head())
        else:
            self._end(400, BadInput(f"this is not HTTP: {error or msg}", code="invalid_http"))

    def on_response_complete(self) -> None:
        self._sized = False
        if self._entry is not None:
            self._shared.connections.idle(self._entry)
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        """Called once for each request, when its head is there and nothing was done for it yet."""
        assert self._entry is not None  # noqa: S101 - set before any data comes
        self._shared.connections.busy(self._entry)
        if self._entry.refused:
            cast(dict[str, Any], self.scope)[REFUSED] = self._entry.refused
        head, self._sized = self._head()
        if head > HEAD_BYTES:
            cast(dict[str, Any], self.scope)[FAULT] = _large_head()
            return False
        if self._get_upgrade() != b"websocket":
            return False
        if fault := _handshake_fault(self._handshake()):
            told = f"the WebSocket handshake is not valid: {fault[:200]}"
            cast(dict[str, Any], self.scope)[FAULT] = BadInput(told, code="bad_handshake")
            return False
        return True

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        inner = self.ws_protocol_class
        self.ws_protocol_class = partial(inner, entry=self._entry, shared=self._shared)  # type: ignore
        super().handle_websocket_upgrade(event)
        self._later.clear()

    def _head(self) -> tuple[int, bool]:
        """Bytes of the request's head, and whether it states its body's length."""
        size, sized = len(self.scope["raw_path"]) + len(self.scope["query_string"]), False
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            sized = sized or name == b"content-length"
        return size, sized

    def _handshake(self) -> bytes:
        """The head as it came."""
        query = self.scope["query_string"]
        target = self.scope["raw_path"] + (b"?" + query if query else b"")
        line = b" ".join((self.scope["method"].encode(), target, b"HTTP/" + self.scope["http_version"].encode()))
        return b"\r\n".join((line, *(name + b": " + value for name, value in self.headers), b"", b""))

    def _end(self, status: int, error: ChatapiError) -> None:
        """Say what is wrong, where no reply has begun, and close. Whoever works for the connection finds it gone."""
        self._ended = True
        begun = self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if begun or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write(_reply(status, error))
        # It may be gone already.
        with suppress(OSError):
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


class SocketProtocol(WebSocketsSansIOProtocol):
    """One connection, from the moment a WebSocket is asked for on it."""

    def __init__(self, *arguments: Any, entry: ConnectionEntry, shared: Shared, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._entry = entry
        self._shared = shared
        self._held = shared.budget.open(entry.address)
        self._frames = 0
        self._bytes = 0
        self._waiting: deque[int] = deque()
        """Bytes of each message that is complete and not taken."""
        self._taken = 0
        """Bytes of the message that is being worked on."""
        self._timer: TimerHandle | None = None
        self._failed = False
        """Whether it was closed because of what the client sent."""
        entry.connection = self

    def expire(self) -> None:
        """Whoever answers a WebSocket judges its silence."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.leave(self._entry)
        self._held.release()
        self._complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for first in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            part = data[first : first + SLICE]
            self._bytes += len(part)
            super().data_received(part)
            if self._frames > FRAMES + self._bytes // FRAME_BYTES:
                self._fail(1008, "too many small frames")
        self._account()

    async def receive(self) -> Any:
        # What was taken counts until the next is asked for.
        self._taken = 0
        self._account()
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._taken = self._waiting.popleft()
        return message

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self._entry.refused:
            cast(dict[str, Any], self.scope)[REFUSED] = self._entry.refused

    def handle_events(self) -> None:
        self._frames += len(self.conn.events)
        super().handle_events()

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= FRAGMENTS:
            self._fail(1008, f"a message of more than {FRAGMENTS} frames")
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if not self.close_sent:
            self._waiting.append(sum(map(len, self.frames)))
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:
            # Something came before the handshake was answered; no frame can be sent yet.
            self.transport.abort()
            return
        super().handle_parser_exception()
        self._failed = True

    async def send(self, message: Any) -> None:
        if self._failed:
            # The client ended it; whoever still answers does nothing wrong.
            raise ClientDisconnected
        await super().send(message)

    def _account(self) -> None:
        """Count what is held, and give a message that is not complete its time."""
        begun = len(self.conn.reader.buffer) + (self.conn.cur_size or 0)
        try:
            self._held.hold(begun + sum(self._waiting) + self._taken)
        except Busy:
            self._fail(1013, "busy")
            return
        if not begun:
            self._complete()
        elif self._timer is None:
            self._timer = self.loop.call_later(
                self._shared.message_seconds, self._fail, 1008, "a message was begun and not complete in time"
            )

    def _complete(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, code: int, reason: str) -> None:
        self._complete()
        if self.transport.is_closing() or self.close_sent:
            return
        self._held.release()
        self.conn.fail(code, reason)
        self.handle_parser_exception()


def _large_head() -> TooLarge:
    return TooLarge(
        f"the head of the request has more than {HEAD_BYTES} bytes", code="head_too_large",
        details={"limit_bytes": HEAD_BYTES},
    )  # fmt: skip


def _handshake_fault(head: bytes) -> str:
    """What is wrong with the handshake of a WebSocket, by the library that is to answer it; empty: nothing."""
    protocol = ServerProtocol(logger=_quiet)
    protocol.receive_data(head)
    if protocol.handshake_exc is not None:
        return str(protocol.handshake_exc.__cause__ or protocol.handshake_exc)
    request = next((event for event in protocol.events_received() if isinstance(event, Request)), None)
    if request is None:
        return "it has no end"
    if protocol.accept(request).status_code == 101:
        return ""
    key = request.headers.get_all("Sec-WebSocket-Key")
    return "Sec-WebSocket-Key is not ASCII" if not "".join(key).isascii() else str(protocol.handshake_exc)


def _reply(status: int, error: ChatapiError) -> bytes:
    """A whole reply that closes the connection, where no request was understood that could be answered."""
    document = json.dumps(Problem.document(error, status), ensure_ascii=False).encode("utf-8", "replace")
    lines = (
        f"HTTP/1.1 {status} {_PHRASES[status]}", f"Content-Type: {Problem.media_type}",
        f"Content-Length: {len(document)}", "Connection: close", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + document


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
