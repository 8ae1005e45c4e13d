"""A queue of received events, limited in bytes, because audio events are large."""

from __future__ import annotations

from collections import deque

import anyio

from chatapi.interfaces.wyoming.framing import WyomingEvent

MOST = 2 << 20
"""Most bytes in the queue. All text of a streamed synthesis must fit: a client may send the whole text before it reads
the first audio, and both sides would wait for each other for ever."""


class EventQueue:
    """Passes events from the reading task to the handling task."""

    def __init__(self) -> None:
        self._events: deque[WyomingEvent] = deque()
        self._held = 0
        self._closed = False
        self._changed = anyio.Event()

    @property
    def waiting(self) -> int:
        return len(self._events)

    @property
    def held(self) -> int:
        """Size of the queued events, in bytes."""
        return self._held

    async def put(self, event: WyomingEvent) -> None:
        """Adds an event; waits while the queue is full."""
        while self._held + event.weight > MOST and self._events:
            await self._changed.wait()
        self._events.append(event)
        self._held += event.weight
        self._notify()

    async def take(self) -> WyomingEvent:
        """The next event; waits for one. Raises EndOfStream once the queue is closed and empty."""
        while not self._events:
            if self._closed:
                raise anyio.EndOfStream
            await self._changed.wait()
        event = self._events.popleft()
        self._held -= event.weight
        self._notify()
        return event

    def put_back(self, event: WyomingEvent) -> None:
        """Puts an event back at the front."""
        self._events.appendleft(event)
        self._held += event.weight

    def close(self) -> None:
        """Closes the queue for further events."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
