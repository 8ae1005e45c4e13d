"""The progress of a job: its finished part, and an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

LEAST_SECONDS = 2.0
"""Time before the first estimate, in seconds."""
LEAST_PROGRESS = 0.01
"""Progress of this attempt before the first estimate."""


class ProgressMeter:
    """The progress of one attempt. Finished steps advance the job to where each says it ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._idle = 0.0
        self._from = self._step_from = self._step_until = 0.0
        self._measured = False

    def keep(self, until: float) -> None:
        """Count a step that was finished by an earlier attempt; `until`: the job's progress behind it."""
        self._step_from = self._step_until = max(self._step_until, until)

    def begin(self, until: float) -> None:
        """A step starts; `until`: the job's progress when it is finished, 0 to 1."""
        self._step_from, self._step_until = self._step_until, max(self._step_until, until)
        if not self._measured:
            self._measured, self._from, self._begun = True, self._step_from, self._clock()

    def idle(self, seconds: float) -> None:
        """Leave time in which the job waited for other work out of the estimate."""
        self._idle += seconds

    def at(self, fraction: float) -> tuple[float, float | None]:
        """The job's progress, 0 to 1, and the estimated seconds left, at a fraction of the current step."""
        progress = self._step_from + (self._step_until - self._step_from) * min(1.0, max(0.0, fraction))
        worked, gained = self._clock() - self._begun - self._idle, progress - self._from
        if worked < LEAST_SECONDS or gained < LEAST_PROGRESS:
            return progress, None
        return progress, round((1.0 - progress) * worked / gained, 1)
