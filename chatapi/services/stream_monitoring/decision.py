"""Whether a clip is positive: the rules of both generations of OrcaHello, as pure functions of the windows' scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from chatapi.engines.sound_detector import orcahello


@dataclass(frozen=True)
class LocalPrediction:
    """A part of a clip."""

    start: float
    """Seconds from the clip's start."""
    duration: float
    """Seconds."""
    confidence: float
    """0 to 1."""
    positive: bool


@dataclass(frozen=True)
class Decision:
    """What was decided about a clip."""

    positive: bool
    confidence: float
    """0 to 100."""
    parts: tuple[LocalPrediction, ...]


@dataclass(frozen=True)
class OldRule:
    """The rule of the old generation: so many parts of a clip are above a threshold."""

    local_threshold: float = orcahello.OLD_LOCAL_THRESHOLD
    global_count: float = orcahello.OLD_GLOBAL_COUNT

    def decide(self, scores: Sequence[float], starts: Sequence[float], window: float, seconds: float) -> Decision:
        """`scores` and `starts` of windows of `window` seconds in a clip of `seconds`.

        n windows give n + 1 parts, each of seconds / (n + 1): the first and the last score, and between them the means
        of adjacent ones. The confidence is the mean of the positive parts, or 0.
        """
        if not scores:
            return Decision(False, 0.0, ())
        values = [scores[0], *((before + after) / 2 for before, after in pairwise(scores)), scores[-1]]
        length = seconds / len(values)
        parts = tuple(
            LocalPrediction(number * length, length, value, value > self.local_threshold)
            for number, value in enumerate(values)
        )
        positive = [part.confidence for part in parts if part.positive]
        mean = sum(positive) / len(positive) if positive else 0.0
        return Decision(len(positive) >= self.global_count, 100 * mean, parts)


@dataclass(frozen=True)
class V1Rule:
    """The rule of V1: the mean of the highest scores, or of those above a threshold, reaches another threshold."""

    local_threshold: float = orcahello.V1_LOCAL_THRESHOLD
    global_threshold: float = orcahello.V1_GLOBAL_THRESHOLD
    top: int = orcahello.V1_TOP
    strategy: Literal["mean_top_k", "mean_thresholded"] = "mean_top_k"

    def decide(self, scores: Sequence[float], starts: Sequence[float], window: float, seconds: float) -> Decision:
        """`scores` and `starts` of windows of `window` seconds; each is a part of the clip."""
        parts = tuple(
            LocalPrediction(start, window, score, score > self.local_threshold)
            for start, score in zip(starts, scores, strict=True)
        )
        if self.strategy == orcahello.MEAN_TOP_K:
            chosen = sorted(scores, reverse=True)[: max(1, self.top)]
        else:
            chosen = [part.confidence for part in parts if part.positive]
        mean = sum(chosen) / len(chosen) if chosen else 0.0
        return Decision(bool(parts) and mean >= self.global_threshold, 100 * mean, parts)


Rule = OldRule | V1Rule
