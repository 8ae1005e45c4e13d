"""Limits how long OpenMP threads spin while they wait, before they sleep.

Spinning threads take the core that the last thread of a parallel step waits for when another program is busy. See
docs/measurements/runtime.md. The limit is set only while a library loads: each wheel has an OpenMP runtime of its own,
which reads the environment once, when it is loaded, and some libraries must not get it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLEEPING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "120"}
"""Environment of an OpenMP runtime that spins 120 times before it sleeps. See docs/measurements/runtime.md."""
_lock = threading.Lock()


@contextmanager
def sleeping() -> Iterator[None]:
    """OpenMP runtimes loaded inside let their idle threads sleep soon, unless the user's environment sets a policy."""
    with _lock:
        added = {} if set(SLEEPING) & set(os.environ) else SLEEPING
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]
