"""A clock for the question whether something is stuck: it runs slowly while the machine's processors are saturated.

A busy machine is slow, and what waits for a processor is not stuck. Where nothing else needs the processors, the clock
is the monotonic one.
"""

from __future__ import annotations

import threading
import time

import psutil

SATURATED = 0.1
"""Share of the processors' time that is idle, below which they are saturated."""
PACE = 0.25
"""Seconds of this clock for each second in which the processors are saturated."""
INTERVAL = 1.0
"""Shortest time over which the processors are looked at, in seconds."""


class MachineClock:
    """Monotonic time, slowed down while the processors are saturated. Any thread may read it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at, self._cpu = time.monotonic(), _cpu_seconds()
        self._base = self._last = self._read_at
        """This clock's time at `_read_at`, and the last one returned."""
        self._pace = 1.0

    def now(self) -> float:
        """The time in seconds; only differences have a meaning."""
        with self._lock:
            passed = time.monotonic() - self._read_at
            if passed >= INTERVAL:
                cpu = _cpu_seconds()
                idle, total = (after - before for before, after in zip(self._cpu, cpu, strict=True))
                self._pace = PACE if total > 0 and idle < SATURATED * total else 1.0
                self._base += passed * self._pace
                self._read_at, self._cpu, passed = self._read_at + passed, cpu, 0.0
            self._last = max(self._last, self._base + passed * self._pace)
            return self._last


def _cpu_seconds() -> tuple[float, float]:
    """Idle and whole time of all processors since the machine started, in seconds."""
    times = psutil.cpu_times()
    return times.idle + getattr(times, "iowait", 0.0), sum(times)


shared = MachineClock()
"""The clock of this process."""
