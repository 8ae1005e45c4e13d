"""The restart of a VAD's recurrent state in silence: in a long silence the state drifts, and the next onset is late."""

from __future__ import annotations

RESTART_FRAMES = 64
"""Consecutive frames without likely speech after which the state restarts, 2 s. See docs/measurements/live.md."""
UNLIKELY = 0.1
"""Probability below which a frame is hardly speech."""


class SilenceCounter:
    """Counts consecutive frames without likely speech, and says when the state restarts."""

    def __init__(self) -> None:
        self._frames = 0

    @property
    def frames_left(self) -> int:
        """Frames until the next possible restart."""
        return RESTART_FRAMES - self._frames

    def add(self, probability: float) -> bool:
        """Counts the next frame. Returns whether the state restarts after it."""
        self._frames = self._frames + 1 if probability < UNLIKELY else 0
        if self._frames < RESTART_FRAMES:
            return False
        self._frames = 0
        return True
