"""OpenMP's threads, told to sleep while they wait.

Threads of a parallel step that finish early spin until the last one has. With a core busy elsewhere the last one may
wait long for its turn, while the others burn what it waits for: on 2 cores with one of them busy, llama.cpp wrote 8
tokens a second with spinning and 77 without, and whisper.cpp took five times as long. Set for the whole process it
would reach libraries it harms, but each wheel loads a runtime of its own, which reads the environment once, when it is
loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLEEPING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
_one_at_a_time = threading.Lock()


@contextmanager
def sleeping() -> Iterator[None]:
    """A runtime that is loaded inside lets its idle threads sleep; what the user has set in the environment wins."""
    with _one_at_a_time:
        ours = {} if set(SLEEPING) & set(os.environ) else SLEEPING
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]
