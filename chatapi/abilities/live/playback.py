"""What of an answer has been heard, by the listener's report or by the clock of samples received."""

from __future__ import annotations

from chatapi.events import Speech

TOLERANCE = 0.02
"""Seconds that a listener's own count may differ from ours, with its rounding to other rates."""


class Playback:
    """One answer on its way to somebody's ears. Seconds everywhere; `now` is the clock of samples received."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, str]] = []
        self._ends = 0.0
        self._left: float | None = None
        """Seconds left to be heard while it pauses."""
        self._reported: float | None = None

    @property
    def seconds(self) -> float:
        """Length of all that was sent."""
        return sum(length for length, _ in self._parts)

    def sent(self, speech: Speech, now: float) -> None:
        """Another stretch is on its way."""
        # A piece of text may be spoken in several stretches.
        if self._parts and self._parts[-1][1] == speech.text:
            self._parts[-1] = (self._parts[-1][0] + speech.audio.seconds, speech.text)
        else:
            self._parts.append((speech.audio.seconds, speech.text))
        if self._left is not None:
            self._left += speech.audio.seconds
        else:
            self._ends = max(self._ends, now) + speech.audio.seconds

    def report(self, seconds: float) -> None:
        """The listener says how much has been heard; from now on only that counts."""
        self._reported = min(max(0.0, seconds), self.seconds)

    def pause(self, now: float) -> None:
        if self._left is None:
            self._left = max(0.0, self._ends - now)

    def resume(self, now: float) -> None:
        if self._left is not None:
            self._ends, self._left = now + self._left, None

    def heard(self, now: float) -> float:
        """Seconds that have been heard."""
        if self._reported is not None:
            return self._reported
        left = self._left if self._left is not None else max(0.0, self._ends - now)
        return max(0.0, self.seconds - left)

    def audible(self, now: float) -> bool:
        """Whether some of it is still to be heard."""
        return self.seconds - self.heard(now) > TOLERANCE

    @property
    def ended(self) -> float:
        """When the last of what was sent has been heard, by the clock."""
        return self._ends

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
