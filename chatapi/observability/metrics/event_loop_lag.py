"""Whether the event loop comes to things in time: live sound stutters where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY = 0.1
"""Seconds between two looks."""


class EventLoopLag:
    """Tells how many seconds too late each of its own calls came."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on, in the running event loop, until `stop`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVERY, self._beat, loop, loop.time() + EVERY)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        # The clock's resolution lets a call come a little early.
        self._observe(max(0.0, loop.time() - due))
        self._timer = loop.call_later(EVERY, self._beat, loop, loop.time() + EVERY)
