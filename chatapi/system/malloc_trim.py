"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

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
