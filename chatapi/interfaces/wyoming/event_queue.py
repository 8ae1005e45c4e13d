"""Events that have come and are not worked on yet: bounded in bytes, because a piece of audio is no small thing."""

from __future__ import annotations

from collections import deque

import anyio

from chatapi.interfaces.wyoming.framing import WyomingEvent

MOST = 2 << 20
"""Bytes that may wait. Text that is read aloud while it comes must all find room: somebody may write the whole of it
before he reads the first sound, and both would wait for each other for ever."""


class EventQueue:
    """From one task to another."""

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
        """Bytes of those that wait."""
        return self._held

    async def put(self, event: WyomingEvent) -> None:
        """Wait until there is room."""
        while self._held + event.weight > MOST and self._events:
            await self._changed.wait()
        self._events.append(event)
        self._held += event.weight
        self._tell()

    async def take(self) -> WyomingEvent:
        """Wait until there is one. Raises EndOfStream once it is closed and empty."""
        while not self._events:
            if self._closed:
                raise anyio.EndOfStream
            await self._changed.wait()
        event = self._events.popleft()
        self._held -= event.weight
        self._tell()
        return event

    def put_back(self, event: WyomingEvent) -> None:
        """It is the next again."""
        self._events.appendleft(event)
        self._held += event.weight

    def close(self) -> None:
        """No more are put into it."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
