"""Limits how often an engine that was lost, or cannot be loaded, is loaded at once."""

from __future__ import annotations

import time
from collections import deque

REBUILDS = 3
"""Number of lost engines within REBUILD_SECONDS that are rebuilt at once, and of failed loads after which the next
request loads the engine. After one more the engine stays unloaded until the first of them is that long ago; then the
next request loads it.

Each abandoned engine keeps its memory and its cores until its thread returns, which may be never. The model of a
rebuilt engine is chosen by the memory that is left (`model_selection.plan`), and a service manager may restart the
process before."""
REBUILD_SECONDS = 3600.0
"""Period in which abandoned engines are counted, in seconds."""
CRASH_SECONDS = 60.0
"""Period in which engines are counted whose process has ended or which could not be loaded, in seconds. They keep
nothing, but to load an engine over and over takes the processors from the others."""


class RebuildLimit:
    """Counts the engines that one worker lost."""

    def __init__(self) -> None:
        self.count = 0
        """How many were lost."""
        self._lost: deque[tuple[float, bool]] = deque(maxlen=REBUILDS + 1)
        """When the last ones were lost, in seconds of `time.monotonic`, and whether they are gone."""

    def lost(self, gone: bool) -> None:
        """Count an engine that is lost now; `gone`: it has returned its memory."""
        self.count += 1
        self._lost.append((time.monotonic(), gone))

    def failed(self) -> None:
        """Count an engine that could not be loaded now: it raised, or its process ended meanwhile."""
        self._lost.append((time.monotonic(), True))

    def forget(self) -> None:
        """Forget what was counted, because another engine takes its place; `count` stays."""
        self._lost.clear()

    @property
    def delay(self) -> float:
        """Time until an engine that was lost too often may be loaded again, in seconds; 0: now."""
        if len(self._lost) <= REBUILDS:
            return 0.0
        first = min(at + (CRASH_SECONDS if gone else REBUILD_SECONDS) for at, gone in self._lost)
        return max(0.0, first - time.monotonic())
