"""The protocol of sound detectors, and what they receive and return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from chatapi.audio import Samples
from chatapi.engines.cancellation import Stop, never

SOUND_RATE = 48_000
"""Sample rate of what sound detectors receive, in Hz; each resamples it in its own way."""


@dataclass(frozen=True)
class SoundWindow:
    """A stretch of a clip with the scores of what may be heard in it."""

    start: float
    """Seconds from the first sample given."""
    duration: float
    """Seconds."""
    scores: tuple[float, ...]
    """0 to 1, of each of the engine's labels."""


@dataclass(frozen=True)
class SoundOptions:
    """How a clip is cut and prepared; the defaults are the model's own."""

    front_end: str = ""
    """Name of a front end; empty: the model's own."""
    window: float = 0.0
    """Seconds of a window; 0: the front end's."""
    hop: float = 0.0
    """Seconds from one window to the next; 0: the front end's."""
    normalized: bool | None = None
    """Whether the clip's peak becomes 1 first; None: as the front end says."""
    batch: int = 8
    """Most windows that are computed at once."""


DEFAULT_SOUND_OPTIONS = SoundOptions()


class SoundDetector(Protocol):
    """Detection of sounds in clips of any length."""

    labels: tuple[str, ...]
    """What it can hear, one label a score."""
    target: int
    """Index of the label whose score decides whether a clip is positive."""

    def detect(
        self, samples: Samples, stop: Stop = never, options: SoundOptions = DEFAULT_SOUND_OPTIONS
    ) -> Iterator[SoundWindow]:
        """The windows that lie wholly in a clip of mono samples at SOUND_RATE, in order; none of a shorter clip.

        Raises Unprocessable (unknown_front_end).
        """
