"""Who may compute now: slots counted, waiters let in by priority and then by arrival, the queue bounded."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

import anyio

from chatapi.errors import Busy


class Priority(IntEnum):
    """Lower goes first."""

    LIVE = 0
    REQUEST = 1
    BULK = 2
    TRAINING = 3


EXPECTED = 10.0
"""Seconds that a slot stays free for somebody who speaks: until they pause, and while they are answered."""


class Admission:
    """A bounded queue before a number of slots. All methods belong to one event loop."""

    def __init__(self, name: str, slots: int, queue: int | None = None) -> None:
        self.name = name
        self.slots = slots
        self.queue = queue
        """How many may wait; None: the door before this one counts them."""
        self.used = 0
        self._waiting: list[tuple[int, int, anyio.Event]] = []
        self._arrivals = itertools.count()
        self._expected = -EXPECTED
        """When LIVE work was last said to come."""
        self._held = 1.0
        """Running mean of the seconds a slot is held, for Retry-After."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def admitted(self, priority: Priority = Priority.REQUEST) -> AsyncIterator[None]:
        """Hold a slot while inside. Raises Busy when the queue is full."""
        await self.acquire(priority)
        since = time.monotonic()
        try:
            yield
        finally:
            self._held += 0.2 * (time.monotonic() - since - self._held)
            self.release()

    async def acquire(self, priority: Priority = Priority.REQUEST) -> None:
        """Take a slot, to be given back with `release`. Raises Busy when the queue is full."""
        if self._free(priority) and not (self._waiting and self._waiting[0][0] <= priority):
            self.used += 1
            return
        self.check()
        event = anyio.Event()
        waiter = (int(priority), next(self._arrivals), event)
        heapq.heappush(self._waiting, waiter)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.release()
            else:
                self._waiting.remove(waiter)
                heapq.heapify(self._waiting)
            raise

    def check(self) -> None:
        """Raise Busy when one more would be refused now."""
        free = self.used < self.slots and not self._waiting
        if not free and self.queue is not None and self.waiting >= self.queue:
            raise Busy(
                f"{self.used} requests are being worked on and {self.waiting} wait, which is all the {self.name} takes",
                retry_after=max(1.0, round(self._held * (self.waiting + 1) / self.slots)),
            )

    def expect(self) -> None:
        """LIVE work will come soon: of several slots one is kept for it, for what runs may not be stopped quickly."""
        self._expected = time.monotonic()

    def release(self) -> None:
        """Hand the slot to the first in the queue, or free it."""
        self.used -= 1
        while self._waiting and self._free(self._waiting[0][0]):
            self.used += 1
            heapq.heappop(self._waiting)[2].set()

    def _free(self, priority: int) -> bool:
        """Whether there is a slot for work of this priority."""
        kept = self.slots > 1 and priority > Priority.LIVE and time.monotonic() < self._expected + EXPECTED
        return self.used < self.slots - kept
