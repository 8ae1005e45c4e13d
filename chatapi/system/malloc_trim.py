"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

import anyio.to_thread

try:
    _malloc_trim: Callable[[int], int] | None = ctypes.CDLL(None).malloc_trim
    _mallopt: Callable[[int, int], int] | None = ctypes.CDLL(None).mallopt
except (AttributeError, OSError, TypeError):
    # Another C library than glibc.
    _malloc_trim = _mallopt = None

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""glibc's names and numbers."""
ARENAS = 1
"""Heaps of all threads together; glibc makes eight for each core, and keeps in each what its busiest time took."""
OWN_PAGES = 8 << 20
"""Bytes from which a block has pages of its own, which go back when it is freed."""
KEPT = 16 << 20
"""Bytes at the end of each thread's heap that are kept for later."""


def settle() -> None:
    """Fixes what glibc would adapt: after one block of 31 MiB it would keep 64 MiB for each thread that had one, which
    `give_back` cannot give back, because glibc trims the end of the main thread's heap alone."""
    if _mallopt is not None:
        _mallopt(M_MMAP_THRESHOLD, OWN_PAGES)
        _mallopt(M_TRIM_THRESHOLD, KEPT)
        _mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """glibc keeps what was freed: 80 MB after Piper's long sentence, 40 MB after Smart Turn. Takes milliseconds."""
    if _malloc_trim is not None:
        _malloc_trim(0)


SOON = 1.0
"""Seconds until memory is given back that was freed, so that a crowd of large requests costs one sweep."""


class MallocTrimmer:
    """Gives back once, a moment after it was asked for however often."""

    def __init__(self, seconds: float = SOON) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting = False

    def soon(self) -> None:
        """Returns at once; a thread of its own sweeps."""
        with self._lock:
            if self._waiting:
                return
            self._waiting = True
        timer = threading.Timer(self._seconds, self._sweep)
        timer.daemon = True
        timer.start()

    def _sweep(self) -> None:
        with self._lock:
            self._waiting = False
        give_back()


LOOK = 2.0
"""Seconds between two looks at how much the process works."""
RESTS = 0.1
"""Of a look's time, below which the process rests: what it computed then, on all cores together."""
WORTH = 0.5
"""Seconds of computing after which a sweep is worth it."""
LONGEST = 30
"""Looks after which it sweeps all the same, where the process never rests."""


class Housekeeper:
    """Gives back, once the process rests, what it freed while it worked.

    The heap of a process that never has a large block is given back by nobody else: of it `KEPT` bytes stay at its end,
    and all pages between two blocks that are in use.
    """

    def __init__(
        self, worked: Callable[[], float] = time.process_time, sweep: Callable[[], object] = give_back
    ) -> None:
        """`worked`: seconds of processor time that the process has used so far."""
        self._worked, self._sweep = worked, sweep
        self._swept = self._seen = 0.0
        """What the process had worked then."""
        self._looks = 0
        """Since the last sweep."""

    async def run(self) -> None:
        """For ever."""
        while True:
            await anyio.sleep(LOOK)
            if self.due():
                await anyio.to_thread.run_sync(self._sweep)
                self._swept = self._seen = self._worked()

    def due(self) -> bool:
        """At each look: whether it is time to sweep."""
        seen, self._seen = self._seen, self._worked()
        self._looks += 1
        if self._seen - self._swept < WORTH or (self._seen - seen > RESTS * LOOK and self._looks < LONGEST):
            return False
        self._looks = 0
        return True
