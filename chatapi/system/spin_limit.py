"""Lets OpenMP threads spin while they wait, but not while other work wants the processors.

A step of a small language model has hundreds of short waits of its threads for each other. Threads that sleep in them
take twice as long on an idle machine; threads that spin stop almost entirely on a busy one, because they keep the last
thread from its core. See docs/measurements/runtime.md.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHECK_SECONDS = 0.05
"""Interval between checks of the processors, in seconds."""
CONTENDED = 0.4
"""Seconds that all threads together wait for a processor per second, above which they must not spin: about 1 while
another thread wants a core all the time, less while the answer's tokens are sent."""
CALM_SECONDS = 0.1
"""Time that the processors must be free before threads spin again, in seconds."""

TASKS = "/proc/self/task"
FIELDS_BYTES = 128
"""Longest line of a thread's schedstat, in bytes."""

Reading = Callable[[], float | None]
"""Time that the threads have waited for a processor so far, in seconds; None: the system does not report it."""


class SpinSwitch:
    """Switches the spinning of GCC's OpenMP runtime off and on.

    A waiting thread spins GOMP_SPINCOUNT times, but at most 100 times while the teams of the process have more threads
    than it has processors (libgomp, config/linux/wait.h and team.c). So a second team, which sleeps, switches spinning
    off; it ends with the thread that started it.
    """

    def __init__(self, runtime: ctypes.CDLL, threads: int) -> None:
        """`threads`: number of the process's processors."""
        self._runtime, self._threads = runtime, threads
        self._end: threading.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def limited(self) -> bool:
        """Whether threads sleep soon."""
        return self._thread is not None

    def limit(self, limited: bool) -> None:
        """Let threads sleep soon, or spin. For one thread at a time."""
        if limited and self._thread is None:
            self._end, started = threading.Event(), threading.Event()
            self._thread = threading.Thread(
                target=self._sleep, args=(started, self._end), name="spin_limit", daemon=True
            )
            self._thread.start()
            started.wait()
        elif not limited and self._thread is not None and self._end is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _sleep(self, started: threading.Event, end: threading.Event) -> None:
        # The body of the team: a function of the runtime that needs no argument and does nothing else.
        body = ctypes.cast(self._runtime.omp_get_thread_num, ctypes.c_void_p)
        self._runtime.GOMP_parallel(body, None, self._threads + 1, 0)
        started.set()
        end.wait()


class SpinControl:
    """Switches spinning while threads compute: on when the processors are free, off when other work wants them."""

    def __init__(self, switch: SpinSwitch, waited: Reading) -> None:
        self._switch, self._waited = switch, waited
        self._calm = 0.0
        self._working, self._closed = 0, False
        self._changed = threading.Condition()
        self._before: tuple[float, float | None] = (0.0, None)
        threading.Thread(target=self._run, name="spin_control", daemon=True).start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside the context threads compute."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def close(self) -> None:
        """Ends the control; threads spin from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def check(self, now: float) -> None:
        """Compare with the last check; `now`: in seconds."""
        waited, (then, before) = self._waited(), self._before
        self._before = (now, waited)
        if waited is None:
            self._switch.limit(True)
        elif before is not None and now > then:
            contended = waited - before > CONTENDED * (now - then)
            self._calm = 0.0 if contended else self._calm + now - then
            if contended or self._calm >= CALM_SECONDS:
                self._switch.limit(contended)

    def _count(self, change: int) -> None:
        with self._changed:
            self._working += change
            self._changed.notify()

    def _run(self) -> None:
        while self._waits_for_work():
            self.check(time.monotonic())
            time.sleep(CHECK_SECONDS)
        self._switch.limit(False)

    def _waits_for_work(self) -> bool:
        """Waits until threads compute. Returns False when the control is closed."""
        with self._changed:
            if not self._working:
                self._before = (0.0, None)
            while not self._working and not self._closed:
                self._changed.wait()
            return not self._closed


def threads() -> set[str]:
    """The threads of this process, by their numbers; empty where the system does not report it."""
    try:
        with os.scandir(TASKS) as found:
            return {each.name for each in found}
    except OSError:
        return set()


def waited(others: set[str]) -> float | None:
    """Time that all threads of this process but the others have waited for a processor, in seconds; None: the system
    does not report it."""
    total, known = 0, False
    for number in threads() - others:
        # Without pathlib and text decoding, which take five times as long: this runs while the threads compute.
        try:
            file = os.open(f"{TASKS}/{number}/schedstat", os.O_RDONLY)
        except OSError:
            continue
        try:
            # Time on a processor, time of waiting for one, time slices (Linux, Documentation/scheduler/sched-stats).
            fields = os.read(file, FIELDS_BYTES).split()
        except OSError:
            fields = []
        finally:
            os.close(file)
        if len(fields) > 1:
            total, known = total + int(fields[1]), True
    return total / 1e9 if known else None
