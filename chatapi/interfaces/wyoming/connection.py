"""One client's connection: its events in, ours out.

One task reads, another works on what was read, in the order in which it came. An error is told in an `error` event and
ends the connection: older clients know no such event, and would wait for the answer for ever.
"""

from __future__ import annotations

import logging

import anyio
import anyio.to_thread
from anyio.abc import SocketStream

from chatapi.appliance import Appliance
from chatapi.errors import ChatapiError, InternalError, TooSlow, collapse_exception_group
from chatapi.interfaces.wyoming import events as wire
from chatapi.interfaces.wyoming import listeners
from chatapi.interfaces.wyoming.event_queue import EventQueue
from chatapi.interfaces.wyoming.framing import Bounds, Framing, WyomingEvent, encoded
from chatapi.interfaces.wyoming.handler import WyomingHandler

log = logging.getLogger(__name__)

READ = 1 << 16
"""Bytes read at a time."""
ESCAPED = 12
"""Most bytes of one character in JSON: two escapes, outside the basic plane."""
LOOK_SECONDS = 1.0
"""Seconds between two looks at whether keys were made."""
PARTING = 2.0
"""Seconds for a client to take what it is told at last: it may still be sending, and to close on it would lose that."""


class WyomingClosed(Exception):
    """The client has left, or takes nothing."""


class WyomingConnection:
    """`run` serves it until the client leaves."""

    def __init__(self, stream: SocketStream, appliance: Appliance, address: str = "") -> None:
        """`address`: its client's, as limits count it; empty: this machine."""
        self._stream = stream
        self._held = appliance.byte_budget.open(address)
        self._met = False
        """Whether an event ever came."""
        self._appliance = appliance
        self._settings = appliance.settings
        self._inbox = EventQueue()
        self._sending = anyio.Lock()
        self._alive_at = self._looked = anyio.current_time()
        """When an event last came or went, and when it was last looked whether it may."""

    async def run(self) -> None:
        """Raises nothing."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read)
                await self._work()
        except Exception as error:
            await self._end(_first(error))
        finally:
            self._held.release()

    async def _end(self, error: Exception) -> None:
        if isinstance(error, ChatapiError):
            await self.refuse(error)
        elif not isinstance(error, (WyomingClosed, anyio.BrokenResourceError, anyio.ClosedResourceError)):
            log.error("a Wyoming connection failed", exc_info=error)
            await self.refuse(InternalError("something went wrong here; the log of chatapi says what"))

    async def refuse(self, error: ChatapiError) -> None:
        """Say why, and close."""
        self._appliance.metrics.errors.labels(error.code).inc()
        log.info("a Wyoming client was refused", extra={"code": error.code, "told": error.message})
        with anyio.move_on_after(PARTING):
            try:
                await self._stream.send(encoded(WyomingEvent("error", {"text": error.message, "code": error.code})))
                await self._stream.send_eof()
                while True:
                    await self._stream.receive(READ)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                return

    async def send(self, *events: WyomingEvent) -> None:
        """Raises Gone when the client takes nothing for too long."""
        data = b"".join(map(encoded, events))
        async with self._sending:
            with anyio.move_on_after(self._settings.server.send_seconds) as patience:
                await self._stream.send(data)
        if patience.cancelled_caught:
            log.info("a Wyoming client took nothing and was dropped")
            raise WyomingClosed
        self._alive_at = anyio.current_time()

    async def take(self) -> WyomingEvent:
        """The next event to work on. Raises TooSlow (idle) when none comes, Gone when none will."""
        try:
            if self._inbox.waiting:
                return await self._inbox.take()
            while (left := self._alive_at + self._patience - anyio.current_time()) > 0:
                with anyio.move_on_after(left):
                    return await self._inbox.take()
        except anyio.EndOfStream:
            raise WyomingClosed from None
        raise TooSlow(
            f"nothing was sent for {self._patience:g} seconds, after which a connection is closed", code="idle"
        )

    @property
    def _patience(self) -> float:
        """Seconds of silence after which the connection is closed."""
        idle = self._settings.wyoming.idle_seconds
        return idle if self._met else min(idle, self._settings.server.head_seconds)

    def put_back(self, event: WyomingEvent) -> None:
        self._inbox.put_back(event)

    async def _work(self) -> None:
        requests = WyomingHandler(self._appliance, self)
        while True:
            await requests.answer(await self.take())

    async def _read(self) -> None:
        """Raises Gone when nothing more is to be done for what was sent, and what is wrong with it."""
        settings = self._settings
        framing = Framing(Bounds(ESCAPED * settings.limits.prompt_chars + READ, settings.wyoming.payload_bytes))
        begun: float | None = None
        while True:
            if not (received := await self._received(begun)):
                # Perhaps only this side of it is closed, and the answer is waited for.
                self._inbox.close()
                await anyio.sleep(settings.server.send_seconds)
                raise WyomingClosed
            framing.feed(received)
            self._held.hold(framing.size + self._inbox.held)
            while (event := await _taken(framing)) is not None:
                self._met = True
                begun, self._alive_at = None, anyio.current_time()
                await self._sort(event)
            if framing.partial and begun is None:
                begun = anyio.current_time()

    async def _received(self, begun: float | None) -> bytes:
        """The next bytes, none at their end. `begun`: when the event began that is not complete."""
        most = self._settings.server.body_seconds
        with anyio.CancelScope(deadline=begun + most if begun is not None else float("inf")):
            try:
                return await self._stream.receive(READ)
            except anyio.EndOfStream:
                return b""
        raise TooSlow(f"an event was begun and not complete after {most:g} seconds")

    async def _sort(self, event: WyomingEvent) -> None:
        if (now := anyio.current_time()) - self._looked >= LOOK_SECONDS:
            self._looked = now
            listeners.check_open(self._settings, self._appliance.keyring)
        known = event.type in wire.TYPES
        self._appliance.metrics.wyoming_events.labels(event.type if known else "other").inc()
        if event.type == "ping":
            # At once: who asks whether we live may not wait for a long answer to be over.
            await self.send(WyomingEvent("pong", {"text": wire.read(wire.Ping, event).text}))
        elif known:
            await self._inbox.put(event)


async def _taken(framing: Framing) -> WyomingEvent | None:
    """The next event, read on a thread where it is large."""
    return await anyio.to_thread.run_sync(framing.take) if framing.heavy else framing.take()


def _first(error: BaseException) -> Exception:
    """The one error that counts: of several that came together the first."""
    while several := getattr(error := collapse_exception_group(error), "exceptions", None):
        error = several[0]
    return error if isinstance(error, Exception) else WyomingClosed()
