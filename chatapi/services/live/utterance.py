"""What somebody says in one turn, as it comes in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.events import Transcript
from chatapi.services.transcription.segmenter import FRAME

SETTLE = 6 * RATE
"""Samples not yet settled from which a pause is used to settle them, so that they are not decoded again."""


class Utterance:
    """Frames of 512 samples from a little before its first sound on."""

    def __init__(self, before: Iterable[Samples], at: int) -> None:
        self._frames = list(before)
        self.at = at
        """Samples of the stream before the first frame."""
        self.speech_end = self.length
        """Samples up to the end of the last voiced frame."""
        self._texts: list[str] = []
        self.settled = 0
        """Samples whose words will not change."""
        self.fault: ChatapiError | None = None
        """Why its end could not be understood, where it could not."""

    @property
    def length(self) -> int:
        return len(self._frames) * FRAME

    @property
    def end(self) -> float:
        """Seconds of the stream before the end of its speech."""
        return (self.at + self.speech_end) / RATE

    def transcript(self, text: str, language: str, final: bool = True) -> Transcript:
        """Its words, with when they were said."""
        return Transcript(text, final, self.at / RATE, self.end, language)

    def add(self, frame: Samples, voiced: bool) -> None:
        self._frames.append(frame)
        if voiced:
            self.speech_end = self.length

    def samples(self) -> Samples:
        """All of it."""
        return _joined(self._frames)

    def spoken(self, seconds: float) -> Samples:
        """The last `seconds` of it up to the end of its speech."""
        end = self.speech_end // FRAME
        return _joined(self._frames[max(0, end - round(seconds * RATE) // FRAME) : end])

    def open(self) -> Samples:
        """What has not been settled."""
        return _joined(self._frames[self.settled // FRAME :])

    @property
    def ripe(self) -> bool:
        """Whether a pause now should settle what was said before it."""
        return self.length - self.settled >= SETTLE

    def settle(self, text: str, to: int) -> None:
        """The words of everything up to `to` samples will not change."""
        if text:
            self._texts.append(text)
        self.settled = to

    def text(self, still_open: str) -> str:
        """All words, with those of what is open."""
        return " ".join(filter(None, [*self._texts, still_open]))


def _joined(frames: list[Samples]) -> Samples:
    joined: Samples = np.concatenate(frames) if frames else np.zeros(0, np.float32)
    return joined
