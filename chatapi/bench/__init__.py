"""`chatapi bench`: measures this machine against the bare engines, in one run.

Measurements on a shared machine are noisy: compared values are measured in turns, and medians and ratios count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured value."""

    part: str
    what: str
    """Description of the value."""
    value: float
    unit: str
    target: float | None = None
    """Target of the value; None: no target."""
    at_least: bool = False
    """Whether the target is a minimum rather than a maximum."""
    note: str = ""
    """Details, printed below the description."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


async def in_turns(rounds: int, *runs: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """The results of each run, measured in turns so that all see the same noise; the first round is discarded."""
    results: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, collected in zip(runs, results, strict=True):
            value = await run()
            if number:
                collected.append(value)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of values that were measured side by side."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


class Stopwatch:
    """Measures the time since its creation."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the creation, in seconds."""
        return time.perf_counter() - self._begun
