"""Whether the box is meant: its wake word wakes it, and when nothing happens for a while it falls asleep again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import WakeWordDetector
from chatapi.runtime.workers import Engines
from chatapi.services.transcription.segmenter import FRAME

BEFORE = RATE // 5
"""Samples before the detection that belong to a question which follows the wake word without a pause: the detector
fires a little after the word's end. A question said ten times by Piper's Joe was always understood with 0.15 and 0.2 s;
with 0.25 and 0.3 s the end of the wake word was once taken for a word; with 0.1 s espeak-ng lost its first words."""
AFTER = 4 * FRAME
"""Samples after the detection by which it is known whether somebody goes on without a pause."""
GOING_ON = 2
"""Frames of these that must be speech; the end of the wake word itself may ring on into one."""
BLOCK = RATE // 50
"""Samples heard at a time where it matters when the wake word ended."""

Change = Literal["", "woken", "waiting", "asleep"]
"""woken: the wake word has just been said; waiting: and nothing was said right after it."""
NOTHING: Samples = np.zeros(0, np.float32)


class WakeWordListener:
    """Hears in one stream when the wake word is said; time is counted in samples received."""

    def __init__(self, detector: WakeWordDetector) -> None:
        self._threshold = detector.threshold
        self._listener = detector.listener()
        self._armed = True
        """Whether the probability was low since the last detection: a word is heard for a while after it ends."""

    def called(self, block: Samples) -> bool:
        """Whether the wake word has ended in the next samples, of any number; once for every time it is said."""
        probability = self._listener.probability(block)
        called = self._armed and probability >= self._threshold
        self._armed = not called and (self._armed or probability < self._threshold / 2)
        return called

    def times(self, samples: Samples) -> Iterator[int]:
        """Where in the next samples it ended, to 20 ms: samples after the first."""
        for first in range(0, len(samples), BLOCK):
            if self.called(samples[first : first + BLOCK]):
                yield min(first + BLOCK, len(samples))


class WakeWordGate:
    """Follows one stream, which must be without the box's own voice; time is counted in samples received."""

    def __init__(self, engines: Engines, awake_seconds: float, speech: float) -> None:
        """Both detectors must be loaded. `speech`: probability from which a frame counts as speech."""
        wake = engines.wake_word.engine
        self.words = wake.words
        """What wakes it, as it is said."""
        self.asleep = True
        self._caller = WakeWordListener(wake)
        self._vad = engines.vad
        self._speech = speech
        self._patience = awake_seconds * RATE
        self._idle = 0
        """Samples since anything last happened."""
        self._recent: deque[Samples] = deque()
        self._before: Samples = NOTHING
        """What was heard last when the wake word was."""
        self._after: list[Samples] | None = None
        """What was heard since, until it is known where the question begins."""

    def hear(self, block: Samples, busy: bool) -> tuple[Samples, Change]:
        """The next samples; what of them, and of those held back, is meant for the box, and what has changed.

        `busy`: somebody is speaking to it or being answered, so that it does not fall asleep. Nothing of the wake word
        is meant; that it was said while awake is a change too: what was said before it does not count.
        """
        if self._called(block):
            self._before, self._after = np.concatenate(self._recent)[-BEFORE:], []
            self._awaken()
            return NOTHING, "woken"
        if self._after is not None:
            return self._begun(self._after, block)
        if self.asleep:
            return NOTHING, ""
        self._idle = 0 if busy else self._idle + len(block)
        if self._idle >= self._patience:
            self.asleep = True
            return NOTHING, "asleep"
        return block, ""

    def wake(self) -> None:
        """As the wake word does; all that is heard from now on is meant."""
        self._after = None
        self._awaken()

    def _awaken(self) -> None:
        self.asleep, self._idle = False, 0

    def _called(self, block: Samples) -> bool:
        called = self._caller.called(block)
        self._recent.append(block)
        while sum(map(len, self._recent)) - len(self._recent[0]) >= BEFORE:
            self._recent.popleft()
        return called

    def _begun(self, held: list[Samples], block: Samples) -> tuple[Samples, Change]:
        """The question's beginning, once enough has been heard of it."""
        held.append(block)
        after: Samples = np.concatenate(held)
        if len(after) < AFTER:
            return NOTHING, ""
        self._after = None
        whole: Samples = np.concatenate([self._before, after])
        # The detector of speech needs what came before to judge what comes after.
        first = -(-len(self._before) // FRAME)
        voiced = [found >= self._speech for found in self._vad.engine.probabilities(whole)][first:]
        return (whole, "") if sum(voiced) >= GOING_ON else (after, "waiting")
