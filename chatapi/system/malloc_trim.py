"""Returns freed heap memory to the system: glibc keeps it otherwise."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

import anyio
import anyio.to_thread

try:
    _malloc_trim: Callable[[int], int] | None = ctypes.CDLL(None).malloc_trim
    _mallopt: Callable[[int, int], int] | None = ctypes.CDLL(None).mallopt
except (AttributeError, OSError, TypeError):
    # Another C library than glibc.
    _malloc_trim = _mallopt = None

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names and numbers of glibc's malloc.h."""
ARENAS = 1
"""Heaps shared by all threads; glibc creates eight per core, and each keeps the pages of its peak."""
MMAP_BYTES = 8 << 20
"""Size, in bytes, from which a block gets its own mapping, which returns to the system when it is freed."""
KEPT_BYTES = 16 << 20
"""Free bytes at the end of the heap that glibc keeps for later."""


def configure() -> None:
    """Fixes the thresholds that glibc would adapt: after one block of 31 MiB it would keep 64 MiB per thread, which
    `trim` cannot return, because glibc trims only the end of the main heap."""
    if _mallopt is not None:
        _mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        _mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        _mallopt(M_ARENA_MAX, ARENAS)


def trim() -> None:
    """Returns free pages: 80 MB after a long Piper sentence, 40 MB after Smart Turn. Takes milliseconds."""
    if _malloc_trim is not None:
        _malloc_trim(0)


DELAY_SECONDS = 1.0
"""Seconds between a request to trim and the trim, so that a burst of large requests costs one."""


class MallocTrimmer:
    """Trims once, a moment after one or more requests."""

    def __init__(self, seconds: float = DELAY_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._waiting = False

    def soon(self) -> None:
        """Returns at once; a timer thread trims."""
        with self._lock:
            if self._waiting:
                return
            self._waiting = True
        timer = threading.Timer(self._seconds, self._trim)
        timer.daemon = True
        timer.start()

    def _trim(self) -> None:
        with self._lock:
            self._waiting = False
        trim()


CHECK_SECONDS = 2.0
"""Seconds between two checks of the process's load."""
IDLE_SHARE = 0.1
"""Processor time, of all cores together, as a share of the check interval, below which the process is idle."""
WORTH_SECONDS = 0.5
"""Seconds of processor time since the last trim from which another one is worth it."""
MOST_CHECKS = 30
"""Checks after which a process that is never idle is trimmed anyway."""


class IdleTrimmer:
    """Trims when the process becomes idle after work.

    Small blocks never request a trim, and the pages between blocks that are in use stay with glibc otherwise.
    """

    def __init__(self, cpu_seconds: Callable[[], float] = time.process_time, trim: Callable[[], object] = trim) -> None:
        """`cpu_seconds`: processor time that the process has used so far."""
        self._cpu_seconds, self._trim = cpu_seconds, trim
        self._at_trim = self._at_check = 0.0
        """Processor time at the last trim and at the last check, in seconds."""
        self._checks = 0
        """Checks since the last trim."""

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await anyio.sleep(CHECK_SECONDS)
            if self.due():
                await anyio.to_thread.run_sync(self._trim)
                self._at_trim = self._at_check = self._cpu_seconds()

    def due(self) -> bool:
        """Whether to trim now; called once per check."""
        before, self._at_check = self._at_check, self._cpu_seconds()
        self._checks += 1
        busy = self._at_check - before > IDLE_SHARE * CHECK_SECONDS
        if self._at_check - self._at_trim < WORTH_SECONDS or (busy and self._checks < MOST_CHECKS):
            return False
        self._checks = 0
        return True
