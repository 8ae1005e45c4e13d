"""One Wyoming connection: reads the client's events and sends ours.

One task reads events, another handles them in order. An error is sent as an `error` event and ends the connection,
because older clients do not know this event and would wait for the response for ever.
"""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread
from anyio.abc import SocketStream

from chatapi.appliance import Appliance
from chatapi.auth import Operation, audit, current_client, operation
from chatapi.auth.keyless_interface import KeylessClient
from chatapi.errors import ChatapiError, InternalError, NotReady, TooSlow, collapse_exception_group
from chatapi.interfaces.wyoming import events as wire
from chatapi.interfaces.wyoming.event_queue import EventQueue
from chatapi.interfaces.wyoming.framing import Bounds, Framing, WyomingEvent, encoded
from chatapi.interfaces.wyoming.handler import WyomingHandler
from chatapi.observability.metrics import Metrics

log = logging.getLogger(__name__)

READ = 1 << 16
"""Bytes read at a time."""
ESCAPED = 12
"""Most bytes of one character in JSON: two escapes, outside the basic multilingual plane."""
CLOSING_SECONDS = 2.0
"""Time for a client to read the final error, in seconds: closing while it still sends would lose the error."""


class WyomingClosed(Exception):
    """The client disconnected or stalled."""


class WyomingConnection:
    """One client's connection; `run` serves it until the client disconnects."""

    def __init__(self, stream: SocketStream, appliance: Appliance, client: KeylessClient, peer: str) -> None:
        """`peer`: the client's address, for the audit log."""
        self._stream = stream
        self._client = client
        self._peer = peer
        self._memory = appliance.byte_budget.open(client.address)
        self._received_event = False
        """Whether the client has sent an event."""
        self._appliance = appliance
        self._settings = appliance.settings
        self._queue = EventQueue()
        self._sending = anyio.Lock()
        self._started = self._alive_at = anyio.current_time()
        """Time of the start, and of the last event in either direction, on the event loop's clock."""

    async def run(self) -> None:
        """Serves the connection. Raises nothing."""
        code = ""
        try:
            with self._appliance.drain.counted():
                code = await self._serve()
        finally:
            self._memory.release()
            self._record(code)

    async def _serve(self) -> str:
        """Serves the client, and returns the code of the error that ended the connection; empty: the client did."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read)
                await self._handle_events()
        except Exception as error:
            return await self._close(_first(error))
        return ""

    async def _close(self, error: Exception) -> str:
        """Reports the error to the client, if there is one, and returns its code."""
        if isinstance(error, (WyomingClosed, anyio.BrokenResourceError, anyio.ClosedResourceError)):
            return ""
        if not isinstance(error, ChatapiError):
            log.error("Wyoming connection failed", exc_info=error)
            error = InternalError("internal error; the log of chatapi has the details")
        log.info("Wyoming client rejected", extra={"code": error.code, "error": error.message})
        await reject(self._stream, error, self._appliance.metrics)
        return error.code

    def _record(self, code: str) -> None:
        """Writes the connection's audit record."""
        holder, seconds = self._client.holder, anyio.current_time() - self._started
        connection = Operation("wyoming", "-", holder.scopes)
        audit.record("wyoming", holder, connection, self._peer, seconds, code=code)

    async def send(self, *events: WyomingEvent) -> None:
        """Sends events. Raises WyomingClosed when the client stalls for too long."""
        data = b"".join(map(encoded, events))
        async with self._sending:
            with anyio.move_on_after(self._settings.server.send_seconds) as timeout:
                await self._stream.send(data)
        if timeout.cancelled_caught:
            log.info("Wyoming client stalled, connection closed")
            raise WyomingClosed
        self._alive_at = anyio.current_time()

    async def take(self) -> WyomingEvent:
        """The next event to handle. Raises TooSlow (idle) when none arrives in time, WyomingClosed at the end."""
        try:
            if self._queue.waiting:
                return await self._queue.take()
            while (left := self._alive_at + self._idle_timeout - anyio.current_time()) > 0:
                with anyio.move_on_after(left):
                    return await self._queue.take()
        except anyio.EndOfStream:
            raise WyomingClosed from None
        raise TooSlow(f"the connection was idle for {self._idle_timeout:g} seconds and is closed", code="idle")

    @property
    def _idle_timeout(self) -> float:
        """Idle timeout of the connection, in seconds."""
        idle = self._settings.wyoming.idle_seconds
        return idle if self._received_event else min(idle, self._settings.server.head_seconds)

    def put_back(self, event: WyomingEvent) -> None:
        self._queue.put_back(event)

    async def _handle_events(self) -> None:
        current_client.enter(self._client.holder)
        handler, drain = WyomingHandler(self._appliance, self, self._client.holder), self._appliance.drain
        while True:
            try:
                with drain.lasting():
                    event = await self.take()
            except NotReady:
                # It waits for nothing, so that no error is due.
                raise WyomingClosed from None
            with drain.finishing():
                await handler.handle(event)

    async def _read(self) -> None:
        """Reads events into the queue. Raises WyomingClosed at the end, or the error of an invalid event."""
        settings = self._settings
        framing = Framing(Bounds(ESCAPED * settings.limits.prompt_chars + READ, settings.wyoming.payload_bytes))
        started: float | None = None
        while True:
            if not (received := await self._received(started)):
                # The client may have closed only its sending side and still wait for the response.
                self._queue.close()
                await anyio.sleep(settings.server.send_seconds)
                raise WyomingClosed
            framing.feed(received)
            self._memory.hold(framing.size + self._queue.held)
            while (event := await _next_event(framing)) is not None:
                self._received_event = True
                started, self._alive_at = None, anyio.current_time()
                await self._dispatch(event)
            if framing.partial and started is None:
                started = anyio.current_time()

    async def _received(self, started: float | None) -> bytes:
        """The next bytes, empty at the end. `started`: time when the incomplete event started."""
        timeout = self._settings.server.body_seconds
        with anyio.CancelScope(deadline=started + timeout if started is not None else float("inf")):
            try:
                return await self._stream.receive(READ)
            except anyio.EndOfStream:
                return b""
        raise TooSlow(f"an event was not complete after {timeout:g} seconds")

    async def _dispatch(self, event: WyomingEvent) -> None:
        known = event.type in wire.TYPES
        self._appliance.metrics.wyoming_events.labels(event.type if known else "other").inc()
        if known:
            self._client.authorize(operation("wyoming", event.type))
        if event.type == "ping":
            # Answered at once: a ping must not wait until a long response is done.
            await self.send(WyomingEvent("pong", {"text": wire.read(wire.Ping, event).text}))
        elif known:
            await self._queue.put(event)
        elif event.type not in wire.NOTIFICATIONS:
            # At once: a request that is being handled is not affected, and its client would wait for the response.
            unknown = f"event type {event.type!r} is not supported"
            await self.send(WyomingEvent("error", {"text": unknown, "code": "unknown_event"}))


async def reject(stream: SocketStream, error: ChatapiError, metrics: Metrics) -> None:
    """Sends the error and waits until the client closes the connection."""
    metrics.errors.labels(error.code).inc()
    with anyio.move_on_after(CLOSING_SECONDS):
        try:
            await stream.send(encoded(WyomingEvent("error", {"text": error.message, "code": error.code})))
            await stream.send_eof()
            while True:
                await stream.receive(READ)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            return


async def _next_event(framing: Framing) -> WyomingEvent | None:
    """The next event, parsed on a thread when it is large."""
    return await anyio.to_thread.run_sync(framing.take) if framing.heavy else framing.take()


def _first(error: BaseException) -> Exception:
    """The error to report: the first of an exception group."""
    while several := getattr(error := collapse_exception_group(error), "exceptions", None):
        error = several[0]
    return error if isinstance(error, Exception) else WyomingClosed()
