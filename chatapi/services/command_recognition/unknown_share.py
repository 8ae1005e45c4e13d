"""Counts how many of the latest classifications were unknown, and tells when a version recognizes much less."""

from __future__ import annotations

import threading
from collections import deque

LATEST = 200
"""Number of the latest classifications that are counted."""
FEWEST = 50
"""Fewest of them that tell anything."""


class UnknownShare:
    """The share of one version. For any thread."""

    def __init__(self, before: float | None = None) -> None:
        """`before`: the share of the version before, 0 to 1; None: unknown."""
        self.before = before
        self._latest: deque[bool] = deque(maxlen=LATEST)
        self._lock = threading.Lock()

    def count(self, unknown: bool) -> None:
        """Count a classification."""
        with self._lock:
            self._latest.append(unknown)

    @property
    def share(self) -> float | None:
        """Share of unknown among the latest ones, 0 to 1; None: there are fewer than FEWEST."""
        with self._lock:
            return sum(self._latest) / len(self._latest) if len(self._latest) >= FEWEST else None

    def has_risen(self, points: float) -> bool:
        """Whether it is more than so many percentage points above that of the version before."""
        share = self.share
        return share is not None and self.before is not None and share - self.before > points / 100
