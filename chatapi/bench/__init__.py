"""`chatapi bench`: what this machine does, against the bare engines, in one run.

Figures of a shared machine are noisy: what is compared is measured in turns, and medians and ratios are what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure."""

    part: str
    what: str
    value: float
    unit: str
    target: float | None = None
    """What we hold ourselves to; None: told for its own sake."""
    at_least: bool = False
    """Whether the target is a floor rather than a ceiling."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


async def in_turns(rounds: int, *runs: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """What each run gives, measured in turns so that all see the same noise; the first round is thrown away."""
    results: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, collected in zip(runs, results, strict=True):
            value = await run()
            if number:
                collected.append(value)
    return results


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of what was measured side by side."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun
