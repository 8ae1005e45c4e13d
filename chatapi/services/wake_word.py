"""Wake word detection in audio streams, and the gate that passes audio on while the appliance is awake."""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import WakeWordDetector
from chatapi.runtime import detector_thread
from chatapi.runtime.detector_thread import DetectorStream
from chatapi.runtime.workers import Engines, Worker
from chatapi.services.transcription.segmenter import FRAME

BEFORE = RATE // 5
"""Samples before the detection that belong to a question which follows the wake word without a pause: the detector
fires shortly after the end of the word. See docs/measurements/services.md."""
AFTER = 4 * FRAME
"""Samples after the detection that decide whether speech continues without a pause."""
MIN_SPEECH_FRAMES = 2
"""Frames of these that must be speech; the end of the wake word itself may reach into one."""
BLOCK = RATE // 50
"""Samples processed at a time where the end of the wake word is located."""

WakeChange = Literal["", "detected", "waiting", "asleep"]
"""detected: the wake word has ended; waiting: no speech followed it at once; asleep: nothing happened for a while."""
NOTHING: Samples = np.zeros(0, np.float32)


class WakeWordListener:
    """Detects the wake word in one stream; time is counted in samples received."""

    def __init__(self, worker: Worker[WakeWordDetector]) -> None:
        """The detector must be loaded; where it is exchanged, the stream goes on with the new one."""
        self._worker = worker
        self._listen(worker.engine)

    def _listen(self, detector: WakeWordDetector) -> None:
        self._detector = detector
        self._stream = DetectorStream(detector.stream())
        self._armed = True
        """Whether the probability was low since the last detection; it stays high for a while after the word ends."""

    @property
    def words(self) -> str:
        """The wake word as text."""
        return self._detector.words

    async def detect(self, block: Samples) -> bool:
        """Whether the wake word ends in the next samples, of any number; once for each time it is said."""
        self._follow_swap()
        [probability] = await self._stream.probabilities([block])
        return self._is_detection(probability)

    async def detections(self, samples: Samples) -> list[int]:
        """Where the wake word ends in the next samples, to 20 ms, as offsets in samples."""
        self._follow_swap()
        blocks = [samples[first : first + BLOCK] for first in range(0, len(samples), BLOCK)]
        probabilities = await self._stream.probabilities(blocks)
        ends = [min(number * BLOCK, len(samples)) for number in range(1, len(blocks) + 1)]
        return [end for end, found in zip(ends, probabilities, strict=True) if self._is_detection(found)]

    def _follow_swap(self) -> None:
        detector = self._worker.engine
        # What an unloaded engine declares has no streams.
        if detector is not self._detector and hasattr(detector, "stream"):
            self._listen(detector)

    def _is_detection(self, probability: float) -> bool:
        threshold = self._detector.threshold
        detected = self._armed and probability >= threshold
        self._armed = not detected and (self._armed or probability < threshold / 2)
        return detected


class WakeWordGate:
    """Passes one stream on while awake; the stream must be free of echo. Time is counted in samples received."""

    def __init__(self, engines: Engines, awake_seconds: float, speech_threshold: float) -> None:
        """Both detectors must be loaded. `speech_threshold`: probability from which a frame counts as speech."""
        self.asleep = True
        self._listener = WakeWordListener(engines.wake_word)
        self._vad = engines.vad
        self._speech_threshold = speech_threshold
        self._awake_samples = awake_seconds * RATE
        self._idle = 0
        """Samples since the last activity."""
        self._recent: deque[Samples] = deque()
        self._before: Samples = NOTHING
        """The last samples before the detection."""
        self._after: list[Samples] | None = None
        """Samples since the detection, until it is known where the question begins."""

    @property
    def words(self) -> str:
        """The wake word as text."""
        return self._listener.words

    async def process(self, block: Samples, busy: bool) -> tuple[Samples, WakeChange]:
        """Take the next samples; returns those to pass on, held-back ones included, and what has changed.

        `busy`: a turn is in progress, so the gate stays awake. The wake word itself is never passed on. Its detection
        while awake is a change too: it invalidates the speech before it.
        """
        if await self._detect(block):
            self._before, self._after = np.concatenate(self._recent)[-BEFORE:], []
            self._wake_up()
            return NOTHING, "detected"
        if self._after is not None:
            return await self._find_question(self._after, block)
        if self.asleep:
            return NOTHING, ""
        self._idle = 0 if busy else self._idle + len(block)
        if self._idle >= self._awake_samples:
            self.asleep = True
            return NOTHING, "asleep"
        return block, ""

    def wake(self) -> None:
        """Wake without the wake word; all audio from now on is passed on."""
        self._after = None
        self._wake_up()

    def _wake_up(self) -> None:
        self.asleep, self._idle = False, 0

    async def _detect(self, block: Samples) -> bool:
        detected = await self._listener.detect(block)
        self._recent.append(block)
        while sum(map(len, self._recent)) - len(self._recent[0]) >= BEFORE:
            self._recent.popleft()
        return detected

    async def _find_question(self, held: list[Samples], block: Samples) -> tuple[Samples, WakeChange]:
        """The beginning of the question, once enough samples after the wake word have arrived."""
        held.append(block)
        after: Samples = np.concatenate(held)
        if len(after) < AFTER:
            return NOTHING, ""
        self._after = None
        both: Samples = np.concatenate([self._before, after])
        # The voice activity detector needs the samples before the detection to judge those after it.
        first = -(-len(self._before) // FRAME)
        vad = self._vad.engine
        probabilities = await detector_thread.shared.run(lambda: list(vad.probabilities(both)))
        speech = [found >= self._speech_threshold for found in probabilities[first:]]
        return (both, "") if sum(speech) >= MIN_SPEECH_FRAMES else (after, "waiting")
