"""Measures the lag of the event loop; live audio stutters when it is large."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY = 0.1
"""Time between two measurements, in seconds."""


class EventLoopLag:
    """Reports how late each of its own timers fires, in seconds."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start measuring in the running event loop, until `stop`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVERY, self._beat, loop, loop.time() + EVERY)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # The clock's resolution lets a timer fire a little early.
        self._observe(max(0.0, loop.time() - due))
        self._timer = loop.call_later(EVERY, self._beat, loop, loop.time() + EVERY)
