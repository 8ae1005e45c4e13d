"""uvicorn's protocol for WebSockets, with limits on the size and time of what one connection sends."""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from chatapi.errors import Busy
from chatapi.interfaces.http.connections import ConnectionEntry
from chatapi.interfaces.http.protocols import LINGER_SECONDS, REJECTED, SLICE, Shared

FRAMES = 2048
"""Frames of a WebSocket that may be small; beyond them the average must be `FRAME_BYTES` bytes."""
FRAME_BYTES = 32
FRAGMENTS = 1024
"""Most frames of one WebSocket message."""
AHEAD_BYTES = 1 << 20
"""Bytes of waiting messages from which on nothing more is read: 16 s of audio as Realtime clients
send it."""
AHEAD_MESSAGES = 1024
"""Number of messages from which on nothing more is read."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection, from its handshake on."""

    def __init__(self, *arguments: Any, entry: ConnectionEntry, shared: Shared, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._entry = entry
        self._shared = shared
        self._held = shared.budget.open(entry.address)
        self._frames = 0
        self._bytes = 0
        self._waiting: deque[int] = deque()
        """Size in bytes of each complete message that is not received by the application yet."""
        self._waiting_bytes = 0
        """Of all of them."""
        self._received_at = self.loop.time()
        """When data arrived last, in seconds of the event loop."""
        self._processing = 0
        """Size in bytes of the message that the application processes."""
        self._timer: TimerHandle | None = None
        self._failed = False
        """Whether it was closed because of a fault of the client."""
        entry.connection = self

    def expire(self) -> None:
        """Does nothing: the WebSocket's application has its own idle timeout."""

    def shutdown(self) -> None:
        """Leaves an open session to its application, which sends an error and closes it; a client that does not answer
        that is disconnected."""
        if self.handshake_complete and not self.close_sent:
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.connections.remove(self._entry)
        self._held.release()
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for first in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            part = data[first : first + SLICE]
            self._bytes += len(part)
            self._received_at = self.loop.time()
            super().data_received(part)
            if self._frames > FRAMES + self._bytes // FRAME_BYTES:
                self._fail(1008, "too many small frames")
        self._count_memory()

    async def receive(self) -> Any:
        # A received message counts until the application requests the next one.
        self._processing = 0
        self._count_memory()
        message = await super().receive()
        if message["type"] == "websocket.receive":
            self._processing = self._waiting.popleft()
            self._waiting_bytes -= self._processing
            self._read_ahead()
        return message

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self._entry.rejection:
            cast(dict[str, Any], self.scope)[REJECTED] = self._entry.rejection

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
            self._waiting_bytes += self._waiting[-1]
        super().send_receive_event_to_app()
        self._read_ahead()

    def keepalive_timeout(self) -> None:
        """Called when a ping was not answered in time; closes the connection unless data arrives, or waits to be read:
        the answer may be behind it."""
        silent = self.loop.time() - self._received_at
        if self.read_paused or (self.ping_timeout is not None and silent < self.ping_timeout):
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:
            # Data arrived before the handshake response; no frame can be sent yet.
            self.transport.abort()
            return
        super().handle_parser_exception()
        self._failed = True

    async def send(self, message: Any) -> None:
        if self._failed:
            # The client caused the close; the application has done nothing wrong.
            raise ClientDisconnected
        await super().send(message)

    def _read_ahead(self) -> None:
        """Reads on while few messages wait for the application, which uvicorn would not: behind them, pings would wait
        for their answer until the client takes a box that is some seconds behind for lost."""
        if self.read_paused and self._waiting_bytes < AHEAD_BYTES and len(self._waiting) < AHEAD_MESSAGES:
            self.read_paused = False
            self.transport.resume_reading()

    def _count_memory(self) -> None:
        """Counts the memory in use, and starts the timeout of an incomplete message."""
        started = len(self.conn.reader.buffer) + (self.conn.cur_size or 0)
        try:
            self._held.hold(started + self._waiting_bytes + self._processing)
        except Busy:
            self._fail(1013, "busy")
            return
        if not started:
            self._cancel_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(
                self._shared.message_seconds, self._fail, 1008, "a message timed out before it was complete"
            )

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, code: int, reason: str) -> None:
        self._cancel_timer()
        if self.transport.is_closing() or self.close_sent:
            return
        self._held.release()
        self.conn.fail(code, reason)
        self.handle_parser_exception()
