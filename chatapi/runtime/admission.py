"""Admission control: a number of slots and a bounded queue, served by priority and then by arrival."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum

import anyio

from chatapi.errors import Busy


class Priority(IntEnum):
    """Priority of work; lower values are admitted first."""

    LIVE = 0
    REQUEST = 1
    BULK = 2
    TRAINING = 3
    PROBE = 4
    """A health probe. It only takes a slot that is free, because the work in the other slots shows whether the engine
    works; any other work preempts it; and it does not count as use, so that an idle engine is still unloaded."""


RESERVATION_SECONDS = 10.0
"""Seconds that `reserve_live` keeps a slot free: until the speaker pauses, and during the answer."""


class Admission:
    """A bounded queue in front of a number of slots. All methods belong to one event loop."""

    def __init__(self, name: str, slots: int, queue: int | None = None) -> None:
        self.name = name
        self.slots = slots
        self.queue = queue
        """Largest number of waiters; None: not limited here, because an earlier admission limits them."""
        self.used = 0
        self._waiting: list[tuple[int, int, anyio.Event]] = []
        self._arrivals = itertools.count()
        self._reserved_at = -RESERVATION_SECONDS
        """When `reserve_live` was last called, in seconds of `time.monotonic`."""
        self._expiry: asyncio.TimerHandle | None = None
        """Admits waiters when the reservation ends."""
        self._mean_hold = 1.0
        """Running mean of the time a slot is held, in seconds, for Retry-After."""

    @property
    def waiting(self) -> int:
        """Number of waiters."""
        return len(self._waiting)

    def is_wanted(self, priority: Priority) -> bool:
        """Whether more urgent work than this waits for a slot. For any thread."""
        return any(waiter[0] < priority for waiter in self._waiting[:1])

    @asynccontextmanager
    async def admitted(self, priority: Priority = Priority.REQUEST) -> AsyncIterator[None]:
        """Hold a slot inside the context. Raises Busy when the queue is full."""
        await self.acquire(priority)
        since = time.monotonic()
        try:
            yield
        finally:
            self._mean_hold += 0.2 * (time.monotonic() - since - self._mean_hold)
            self.release()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold a slot at once, also where none is free: LIVE work never waits here, and others wait until it ends."""
        self.used += 1
        try:
            yield
        finally:
            self.release()

    async def acquire(self, priority: Priority = Priority.REQUEST) -> None:
        """Take a slot; `release` frees it. Raises Busy when the queue is full, and for a probe when no slot is free."""
        if self._free(priority) and not (self._waiting and self._waiting[0][0] <= priority):
            self.used += 1
            return
        if priority is Priority.PROBE:
            raise Busy(f"the {self.name} is in use", retry_after=1)
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
        """Raise Busy when one more request would be rejected now."""
        free = self.used < self.slots and not self._waiting
        if not free and self.queue is not None and self.waiting >= self.queue:
            raise Busy(
                f"the {self.name} is full: {self.used} requests are running and {self.waiting} are waiting",
                retry_after=max(1.0, round(self._mean_hold * (self.waiting + 1) / self.slots)),
            )

    def free(self, priority: int) -> int:
        """The number of slots that work of this priority could take now."""
        return 0 if self._waiting else max(0, self._available(priority) - self.used)

    def reserve_live(self) -> None:
        """Keep one of several slots free for LIVE work that is about to come: a running job may not stop quickly."""
        self._reserved_at = time.monotonic()
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(RESERVATION_SECONDS, self._reservation_ended)

    def resize(self, slots: int) -> None:
        """Change the number of slots. Where it falls, those in use beyond it stay in use until they are released."""
        self.slots = slots
        self._admit()

    def release(self) -> None:
        """Pass the slot to the first waiter, or free it."""
        self.used -= 1
        self._admit()

    def _reservation_ended(self) -> None:
        """Admit those that waited for the reserved slot, unless it was reserved again meanwhile."""
        self._expiry = None
        if (left := self._reserved_at + RESERVATION_SECONDS - time.monotonic()) > 0:
            self._expiry = asyncio.get_running_loop().call_later(left, self._reservation_ended)
        else:
            self._admit()

    def _admit(self) -> None:
        """Pass free slots to the first waiters."""
        while self._waiting and self._free(self._waiting[0][0]):
            self.used += 1
            heapq.heappop(self._waiting)[2].set()

    def _free(self, priority: int) -> bool:
        """Whether a slot is free for work of this priority."""
        return self.used < self._available(priority)

    def _available(self, priority: int) -> int:
        """The number of slots for work of this priority, free or not."""
        reserved = time.monotonic() < self._reserved_at + RESERVATION_SECONDS
        return self.slots - (self.slots > 1 and priority > Priority.LIVE and reserved)
