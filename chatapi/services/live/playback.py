"""The playback position of an answer, by the client's reports or by the clock of samples received."""

from __future__ import annotations

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.events import Speech

TOLERANCE = 0.02
"""Difference between the client's position and ours that does not count, in seconds: clients round to other rates."""
STALE = 3.0
"""Time without progress in the client's reports after which the clock counts again, in seconds: the client may play on
without reporting."""
KEPT = 300.0
"""Audio of an answer that is kept for echo detection, in seconds from its start."""


class PlaybackPosition:
    """Tracks the playback of one answer. All times are in seconds; `now` is the clock of samples received."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, str]] = []
        self._withdrawn = 0
        """How many of these are no part of the answer."""
        self._audio: list[Audio] = []
        self._end = 0.0
        """When the playback ends by the clock."""
        self._remaining: float | None = None
        """Audio left to play while paused."""
        self._reported: float | None = None
        self._progress_at = 0.0
        """When the reported position last grew, or could not grow because of a pause."""
        self._silent_since: float | None = None
        """When the playback was paused or stopped."""
        self._stopped_at: float | None = None
        """The position at which the playback was stopped."""

    @property
    def seconds(self) -> float:
        """Length of all audio sent."""
        return sum(length for length, _ in self._parts)

    @property
    def reported(self) -> bool:
        """Whether the client reports its playback position."""
        return self._reported is not None

    def add(self, speech: Speech, now: float) -> None:
        """Adds audio that is sent to the client."""
        if self.seconds < KEPT:
            self._audio.append(speech.audio)
        # One piece of text may arrive as several pieces of audio.
        if len(self._parts) > self._withdrawn and self._parts[-1][1] == speech.text:
            self._parts[-1] = (self._parts[-1][0] + speech.audio.seconds, speech.text)
        else:
            self._parts.append((speech.audio.seconds, speech.text))
        if self._remaining is not None:
            self._remaining += speech.audio.seconds
        else:
            self._end = max(self._end, now) + speech.audio.seconds

    def withdraw(self) -> None:
        """All audio so far is no part of the answer, and sounds nevertheless."""
        self._withdrawn = len(self._parts)

    def report(self, seconds: float, now: float) -> None:
        """Sets the position that the client reports; it replaces the clock as long as it grows."""
        position = min(max(0.0, seconds), self.seconds)
        if position != self._reported:
            self._reported, self._progress_at = position, now

    def pause(self, now: float) -> None:
        """Pauses the playback."""
        if self._remaining is None:
            self._remaining, self._silent_since = max(0.0, self._end - now), now

    def resume(self, now: float) -> None:
        """Resumes a paused playback."""
        if self._remaining is not None:
            self._end, self._remaining, self._silent_since = now + self._remaining, None, None
            self._progress_at = now

    def stop(self, now: float) -> None:
        """Ends the playback at the current position."""
        if self._stopped_at is None:
            self._stopped_at = self.played(now)
            self._silent_since = now if self._silent_since is None else self._silent_since

    def played(self, now: float) -> float:
        """Returns the length of the audio played."""
        if self._stopped_at is not None:
            return self._stopped_at
        if self._reported is not None:
            stale = 0.0 if self._remaining is not None else max(0.0, now - self._progress_at - STALE)
            return min(self.seconds, self._reported + stale)
        remaining = self._remaining if self._remaining is not None else max(0.0, self._end - now)
        return max(0.0, self.seconds - remaining)

    def remaining(self, now: float) -> float:
        """Returns the length of the audio sent and not played."""
        return 0.0 if self._stopped_at is not None else self.seconds - self.played(now)

    def audible(self, now: float) -> bool:
        """Whether some of the audio sent is still to be played."""
        return self.remaining(now) > TOLERANCE

    def silent_since(self, now: float) -> float | None:
        """Returns when the playback paused or ended; None: it is going on."""
        if self._silent_since is not None:
            return self._silent_since
        if self.audible(now):
            return None
        return max(self._end, self._progress_at) if self.reported else self._end

    def samples(self, end: float, seconds: float) -> Samples:
        """Returns the last `seconds` before the position `end`, at 16 kHz."""
        parts: list[Samples] = []
        position = 0.0
        for audio in self._audio:
            if position < end and position + audio.seconds > end - seconds:
                parts.append(audio.at(RATE).samples)
            position += audio.seconds
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def words(self, seconds: float) -> str:
        """Returns the words of the first `seconds`; of a partly played piece, in proportion to its letters."""
        return " ".join(filter(None, self._texts(seconds)))

    def words_of_answer(self, seconds: float) -> str:
        """Returns those of these words that are part of the answer: without what was withdrawn."""
        return " ".join(filter(None, self._texts(seconds)[self._withdrawn :]))

    def _texts(self, seconds: float) -> list[str]:
        texts: list[str] = []
        for length, text in self._parts:
            if seconds <= 0:
                break
            texts.append(text if seconds >= length else _first_words(text, seconds / length))
            seconds -= length
        return texts


def _first_words(text: str, share: float) -> str:
    """Returns the whole words within this share of the letters."""
    end = round(len(text) * share)
    return text if end >= len(text) else text[: text.rfind(" ", 0, end + 1) + 1].rstrip()
