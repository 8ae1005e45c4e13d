"""Silence after an answer that lasts so long that the box is to say something again."""

from __future__ import annotations

from chatapi.events import IdleTimeoutReached


class IdleTimeout:
    """Seconds everywhere, on the clock of samples received."""

    def __init__(self) -> None:
        self._since = 0.0
        """When anybody was last heard, the box or who talks with it."""

    def over(self, now: float, busy: bool, most: float | None) -> IdleTimeoutReached | None:
        """Asked with all sound, whether it has lasted for `most`; it begins anew then. `busy`: there is none."""
        since = self._since
        if busy or most is None:
            self._since = now
        elif now - since >= most:
            self._since = now
            return IdleTimeoutReached(since, now)
        return None
