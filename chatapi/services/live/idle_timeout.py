"""The silence after an answer that triggers another answer."""

from __future__ import annotations

from chatapi.events import IdleTimeoutReached


class IdleTimeout:
    """Measures the silence of one session. All times are in seconds, on the clock of samples received."""

    def __init__(self) -> None:
        self._since = 0.0
        """When the box or the user last spoke."""

    def check(self, now: float, busy: bool, limit: float | None) -> IdleTimeoutReached | None:
        """Returns an event when the silence has lasted for `limit`, and starts again.

        `busy`: the silence does not count.
        """
        since = self._since
        if busy or limit is None:
            self._since = now
        elif now - since >= limit:
            self._since = now
            return IdleTimeoutReached(since, now)
        return None
