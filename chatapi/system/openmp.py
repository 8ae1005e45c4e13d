"""Limits how long OpenMP threads spin while they wait, before they sleep, and how many there are.

Spinning threads take the core that the last thread of a parallel step waits for when another program is busy. See
docs/measurements/runtime.md. The limit is set only while a library loads: each wheel has an OpenMP runtime of its own,
which reads the environment once, when it is loaded, and some libraries must not get it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

SLEEPING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "120"}
"""Environment of an OpenMP runtime that spins 120 times before it sleeps. See docs/measurements/runtime.md."""
SPINNING = {"GOMP_SPINCOUNT": "10000"}
"""Environment of an OpenMP runtime whose threads spin through all waits within a step; `SpinSwitch` stops that on a
busy machine."""
RUNTIME = "libgomp.so.1"
"""GCC's OpenMP runtime, where a wheel has none of its own."""
ONE_THREAD = {"OMP_THREAD_LIMIT": "1"}
"""Environment of an OpenMP runtime that computes on the calling thread only."""
_lock = threading.Lock()


def sleeping() -> AbstractContextManager[None]:
    """OpenMP runtimes loaded inside let their idle threads sleep soon, unless the user's environment sets a policy."""
    return _environment(SLEEPING)


def load_spinning() -> ctypes.CDLL | None:
    """Loads the system's OpenMP runtime, whose threads spin unless the user's environment sets a policy; None: there is
    none."""
    with _environment(SPINNING if "OMP_WAIT_POLICY" not in os.environ else {}):
        try:
            return ctypes.CDLL(RUNTIME)
        except OSError:
            return None


def one_thread() -> AbstractContextManager[None]:
    """OpenMP runtimes loaded inside start no threads, unless the user's environment sets a limit."""
    return _environment(ONE_THREAD)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    with _lock:
        added = {} if set(wanted) & set(os.environ) else wanted
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]
