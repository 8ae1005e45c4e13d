"""The audio and the transcript of one utterance while it arrives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.errors import ChatapiError
from chatapi.events import Token, Transcript
from chatapi.services.transcription.segmenter import FRAME

FINALIZE_AFTER = 6 * RATE
"""Samples without a final transcript from which a pause makes their transcript final: they are not decoded again."""


class Utterance:
    """Frames of 512 samples, from shortly before the onset on."""

    def __init__(self, preroll: Iterable[Samples], start: int) -> None:
        self._frames = list(preroll)
        self.start = start
        """Position of the first frame in the stream, in samples."""
        self.speech_end = self.length
        """End of the last voiced frame, in samples from the start of the utterance."""
        self._final_texts: list[str] = []
        self.final_samples = 0
        """Samples from the start of the utterance whose transcript is final."""
        self._final_tokens: tuple[Token, ...] = ()
        self._last: tuple[str, tuple[Token, ...]] = ("", ())
        """The last transcript of all of it, and its tokens."""
        self.error: ChatapiError | None = None
        """Why the end of the utterance could not be transcribed."""

    @property
    def length(self) -> int:
        """Length in samples."""
        return len(self._frames) * FRAME

    @property
    def end_seconds(self) -> float:
        """End of its speech in the stream, in seconds."""
        return (self.start + self.speech_end) / RATE

    def transcript(self, text: str, language: str, final: bool = True) -> Transcript:
        """Returns the event for this text, with the start and the end of the utterance."""
        tokens = self._last[1] if final and text == self._last[0] else ()
        return Transcript(text, final, self.start / RATE, self.end_seconds, language, tokens)

    def add(self, frame: Samples, voiced: bool) -> None:
        """Appends a frame."""
        self._frames.append(frame)
        if voiced:
            self.speech_end = self.length

    def samples(self) -> Samples:
        """Returns all samples."""
        return _joined(self._frames)

    def last_speech(self, seconds: float) -> Samples:
        """Returns the last `seconds` before the end of the speech."""
        end = self.speech_end // FRAME
        return _joined(self._frames[max(0, end - round(seconds * RATE) // FRAME) : end])

    def undecided_samples(self) -> Samples:
        """Returns the samples whose transcript is not final."""
        return _joined(self._frames[self.final_samples // FRAME :])

    @property
    def can_finalize(self) -> bool:
        """Whether a pause makes the transcript up to it final."""
        return self.length - self.final_samples >= FINALIZE_AFTER

    def finalize(self, text: str, end: int, tokens: tuple[Token, ...] = ()) -> None:
        """Makes the transcript of all samples up to `end` final."""
        if text:
            self._final_texts.append(text)
            self._final_tokens += tokens
        self.final_samples = end

    def full_text(self, undecided: str, tokens: tuple[Token, ...] = ()) -> str:
        """Returns the final transcript followed by the transcript of the undecided samples, which has these tokens."""
        text = " ".join(filter(None, [*self._final_texts, undecided]))
        self._last = text, self._final_tokens + tokens
        return text


def _joined(frames: list[Samples]) -> Samples:
    joined: Samples = np.concatenate(frames) if frames else np.zeros(0, np.float32)
    return joined
