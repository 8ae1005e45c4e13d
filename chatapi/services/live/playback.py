"""What of an answer has been heard, by the listener's report or by the clock of samples received."""

from __future__ import annotations

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.events import Speech

TOLERANCE = 0.02
"""Seconds that a listener's own count may differ from ours, with its rounding to other rates."""
STALE = 3.0
"""Seconds without progress in what a listener reports after which the clock counts again: it may have stopped to report
while it plays on."""
KEPT = 300.0
"""Seconds of an answer's sound that are kept, from its beginning on, to tell its echo by."""


class PlaybackPosition:
    """One answer on its way to somebody's ears. Seconds everywhere; `now` is the clock of samples received."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, str]] = []
        self._sound: list[Audio] = []
        self._ends = 0.0
        self._left: float | None = None
        """Seconds left to be heard while it pauses."""
        self._reported: float | None = None
        self._progress = 0.0
        """When the report last grew, or could not grow because of a pause."""
        self._quiet: float | None = None
        """When it was paused or given up."""
        self._given_up: float | None = None
        """Seconds that had been heard when it was given up."""

    @property
    def seconds(self) -> float:
        """Length of all that was sent."""
        return sum(length for length, _ in self._parts)

    @property
    def reported(self) -> bool:
        """Whether the listener says how much has been heard."""
        return self._reported is not None

    def sent(self, speech: Speech, now: float) -> None:
        """Another stretch is on its way."""
        if self.seconds < KEPT:
            self._sound.append(speech.audio)
        # A piece of text may be spoken in several stretches.
        if self._parts and self._parts[-1][1] == speech.text:
            self._parts[-1] = (self._parts[-1][0] + speech.audio.seconds, speech.text)
        else:
            self._parts.append((speech.audio.seconds, speech.text))
        if self._left is not None:
            self._left += speech.audio.seconds
        else:
            self._ends = max(self._ends, now) + speech.audio.seconds

    def report(self, seconds: float, now: float) -> None:
        """The listener says how much has been heard; only that counts as long as it grows."""
        found = min(max(0.0, seconds), self.seconds)
        if found != self._reported:
            self._reported, self._progress = found, now

    def pause(self, now: float) -> None:
        if self._left is None:
            self._left, self._quiet = max(0.0, self._ends - now), now

    def resume(self, now: float) -> None:
        if self._left is not None:
            self._ends, self._left, self._quiet, self._progress = now + self._left, None, None, now

    def give_up(self, now: float) -> None:
        """Nothing more of it will be heard."""
        if self._given_up is None:
            self._given_up = self.heard(now)
            self._quiet = now if self._quiet is None else self._quiet

    def heard(self, now: float) -> float:
        """Seconds that have been heard."""
        if self._given_up is not None:
            return self._given_up
        if self._reported is not None:
            stale = 0.0 if self._left is not None else max(0.0, now - self._progress - STALE)
            return min(self.seconds, self._reported + stale)
        left = self._left if self._left is not None else max(0.0, self._ends - now)
        return max(0.0, self.seconds - left)

    def left(self, now: float) -> float:
        """Seconds that are still to be heard of what was sent."""
        return 0.0 if self._given_up is not None else self.seconds - self.heard(now)

    def audible(self, now: float) -> bool:
        """Whether some of it is still to be heard."""
        return self.left(now) > TOLERANCE

    def quiet_since(self, now: float) -> float | None:
        """When it was last to be heard; None: it is now."""
        if self._quiet is not None:
            return self._quiet
        if self.audible(now):
            return None
        return max(self._ends, self._progress) if self.reported else self._ends

    def sound(self, upto: float, seconds: float) -> Samples:
        """The last `seconds` of its first `upto`, 16 kHz."""
        found: list[Samples] = []
        at = 0.0
        for audio in self._sound:
            if at < upto and at + audio.seconds > upto - seconds:
                found.append(audio.at(RATE).samples)
            at += audio.seconds
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def words(self, seconds: float) -> str:
        """The words said in the first `seconds`; of a stretch in the middle as many as its share of the letters."""
        said: list[str] = []
        for length, text in self._parts:
            if seconds <= 0:
                break
            said.append(text if seconds >= length else _share(text, seconds / length))
            seconds -= length
        return " ".join(filter(None, said))


def _share(text: str, share: float) -> str:
    """The whole words within a share of the letters."""
    end = round(len(text) * share)
    return text if end >= len(text) else text[: text.rfind(" ", 0, end + 1) + 1].rstrip()
