"""How often somebody may do something: a token bucket for each name, of a bounded number of names."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class TokenBuckets:
    """At most `most` of them; beyond that the one longest unused is forgotten, and would be full again."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Name -> tokens, and when they were counted."""

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, name: str, burst: float, per_second: float) -> float:
        """Seconds until there is a token; 0: there is one."""
        return max(0.0, 1 - self._tokens(name, burst, per_second)) / per_second

    def take(self, name: str, burst: float, per_second: float) -> float:
        """Take a token and return 0, or, where there is none, the seconds until there is."""
        tokens = self._tokens(name, burst, per_second)
        if tokens < 1:
            return (1 - tokens) / per_second
        self._left[name] = (tokens - 1, self._clock())
        self._left.move_to_end(name)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return 0.0

    def _tokens(self, name: str, burst: float, per_second: float) -> float:
        tokens, counted = self._left.get(name, (burst, 0.0))
        return min(burst, tokens + (self._clock() - counted) * per_second)
