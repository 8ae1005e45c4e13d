"""Rate limits: a token bucket per name, for a bounded number of names."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class TokenBuckets:
    """At most `most` token buckets; beyond that the one unused for longest is dropped, and starts full again."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Name -> tokens, and when they were counted, in seconds of the clock."""

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, name: str, burst: float, per_second: float) -> float:
        """Time until a token is available, in seconds; 0: now."""
        return max(0.0, 1 - self._tokens(name, burst, per_second)) / per_second

    def take(self, name: str, burst: float, per_second: float) -> float:
        """Take a token and return 0; without a token, return the time until there is one, in seconds."""
        tokens = self._tokens(name, burst, per_second)
        if tokens < 1:
            return (1 - tokens) / per_second
        self._buckets[name] = (tokens - 1, self._clock())
        self._buckets.move_to_end(name)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0

    def _tokens(self, name: str, burst: float, per_second: float) -> float:
        tokens, counted = self._buckets.get(name, (burst, 0.0))
        return min(burst, tokens + (self._clock() - counted) * per_second)
