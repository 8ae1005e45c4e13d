"""What the engine learned of the speakers of sources: the mean and the spread of their features, and their loudness."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from chatapi.audio import Samples
from chatapi.audio.loudness import LEVEL, loudness

MOST_SOURCES = 64
"""Speakers that are remembered, the last ones."""
MOST_FRAMES = 6000.0
"""Weight of the frames of the past, in frames of 20 ms: a microphone that is moved is learned anew in two minutes."""
PRIOR_FRAMES = 50.0
"""Weight of the target's mean and spread, in frames, as long as the source is unknown: its first second."""


class RunningStatistics:
    """The mean and the spread of rows; they grow with every recording."""

    def __init__(self) -> None:
        self._frames = 0.0
        self._sum = self._squares = np.zeros(0)

    def add(self, rows: Samples) -> None:
        """Learns from rows of shape (frames, width)."""
        if not len(rows):
            return
        if not self._frames:
            self._sum = self._squares = np.zeros(rows.shape[1])
        kept = min(1.0, MOST_FRAMES / self._frames) if self._frames else 1.0
        self._frames = self._frames * kept + len(rows)
        self._sum = self._sum * kept + rows.sum(axis=0, dtype=np.float64)
        self._squares = self._squares * kept + np.square(rows).sum(axis=0, dtype=np.float64)

    def statistics(self, mean: Samples, spread: Samples) -> tuple[Samples, Samples]:
        """Mean and standard deviation; `mean` and `spread` are usual ones, which stand for them as long as little is
        known."""
        if not self._frames:
            return mean, spread
        # The more is known the less they count: after ten seconds a tenth of a second.
        weight = PRIOR_FRAMES * min(1.0, PRIOR_FRAMES / self._frames)
        own = self._sum / self._frames
        variance = np.maximum(self._squares / self._frames - np.square(own), 0)
        near = (own * self._frames + mean * weight) / (self._frames + weight)
        wide = np.sqrt((variance * self._frames + np.square(spread) * weight) / (self._frames + weight))
        return near.astype(np.float32), wide.astype(np.float32)


class SourceMemory:
    """What is known of one speaker."""

    def __init__(self) -> None:
        self.features = RunningStatistics()
        """Of the encoder's features and the vocoder's bands; the target's stand for them at first."""
        self.nearness = RunningStatistics()
        """Of how near the target's frames are."""
        self._power, self._seconds = 0.0, 0.0

    def levelled(self, samples: Samples, start: int, end: int) -> Samples:
        """The samples at the usual loudness; it is learned of those from `start` to `end`."""
        power = loudness(samples[start:end])
        if power:
            seconds = float(end - start)
            self._power += (power - self._power) * seconds / (self._seconds + seconds)
            self._seconds = min(self._seconds + seconds, 20.0 * 16_000)
        if not self._power:
            return samples
        return np.clip(samples * np.float32(LEVEL / math.sqrt(self._power)), -1, 1)


class SourceMemories:
    """The speakers of sources, by name."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, SourceMemory] = OrderedDict()

    def of(self, source: str) -> SourceMemory:
        """The memory of a speaker; a new one, which nobody else gets, for an empty name."""
        if not source:
            return SourceMemory()
        found = self._known.setdefault(source, SourceMemory())
        self._known.move_to_end(source)
        while len(self._known) > MOST_SOURCES:
            self._known.popitem(last=False)
        return found
