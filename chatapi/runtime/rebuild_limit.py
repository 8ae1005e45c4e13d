"""Limits how often an engine that was lost is rebuilt at once."""

from __future__ import annotations

import time
from collections import deque

REBUILDS = 3
"""Number of lost engines within REBUILD_SECONDS that are rebuilt at once. After one more the engine stays unloaded
until the first of them is that long ago; then the next request loads it.

Each abandoned engine keeps its memory and its cores until its thread returns, which may be never. The model of a
rebuilt engine is chosen by the memory that is left (`model_selection.plan`), and a service manager may restart the
process before. An engine in a child process keeps nothing, but one that crashes over and over costs its loading time
and the processor that other engines need."""
REBUILD_SECONDS = 3600.0
"""Period in which rebuilds are counted, in seconds."""


class RebuildLimit:
    """Counts the engines that one worker lost."""

    def __init__(self) -> None:
        self.count = 0
        """How many were lost."""
        self._lost: deque[float] = deque(maxlen=REBUILDS + 1)
        """When the last ones were lost, in seconds of `time.monotonic`."""

    def lost(self) -> None:
        """Count an engine that is lost now."""
        self.count += 1
        self._lost.append(time.monotonic())

    @property
    def delay(self) -> float:
        """Time until an engine that was lost too often may be loaded again, in seconds; 0: now."""
        if len(self._lost) <= REBUILDS:
            return 0.0
        return max(0.0, self._lost[0] + REBUILD_SECONDS - time.monotonic())
