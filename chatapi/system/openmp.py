"""OpenMP's threads, told to spin only for a moment while they wait, and then to sleep.

Threads of a parallel step that finish early spin until the last one has. With a core busy elsewhere the last one may
wait long for its turn, while the others burn what it waits for: on 2 cores with one of them busy, llama.cpp wrote 8
tokens a second with spinning and 77 without, and whisper.cpp took five times as long. But to sleep at once costs more
than the wait where nobody else wants the core. Four answers in one batch on two threads, tokens a second:

    spins before sleeping      0    20    60   120   300  3000  endless
    machine idle             106   123   163   174   174   178      176
    one core busy             90    85    89    86    80    48       50

Set for the whole process it would reach libraries it harms, but each wheel loads a runtime of its own, which reads the
environment once, when it is loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SLEEPING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "120"}
_one_at_a_time = threading.Lock()


@contextmanager
def sleeping() -> Iterator[None]:
    """A runtime loaded inside lets its idle threads sleep soon; what the user has set in the environment wins."""
    with _one_at_a_time:
        ours = {} if set(SLEEPING) & set(os.environ) else SLEEPING
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                del os.environ[name]
