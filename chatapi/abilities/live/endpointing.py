"""Endpointing: where a turn begins and ends, from probabilities alone, counted in frames of 512 samples."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from chatapi.audio import RATE
from chatapi.segmenter import FRAME, HYSTERESIS
from chatapi.settings import Live

PROBE = 3
"""Silent frames, 96 ms, after which what was said is looked at as if the turn were over."""
AGAIN = 16
"""Silent frames, half a second, after which an unfinished turn is looked at once more."""
HELD = 0.8
"""Share of voiced frames among those of an onset."""
LOUDER = 0.25
"""How much more probable than usual speech must be that interrupts: what is left of our own voice is not."""


def frames(milliseconds: float) -> int:
    """Frames that last at least so long."""
    return max(1, -int(-milliseconds * RATE // (FRAME * 1000)))


class Mark(Enum):
    """What a frame showed."""

    ONSET = "onset"
    """Somebody has begun to speak."""
    PROBE = "probe"
    """They may have finished."""
    ON = "on"
    """They go on after a probe."""


@dataclass(frozen=True)
class Rules:
    """How sure is sure, in frames."""

    threshold: float
    onset: int
    interrupt: int
    sure: int
    unsure: int

    @classmethod
    def of(cls, live: Live, threshold: float, patience: float = 1.0) -> Rules:
        """`patience` stretches the silences that end a turn."""
        sure, unsure = frames(live.sure_ms * patience), frames(live.unsure_ms * patience)
        return cls(threshold, frames(live.onset_ms), frames(live.interrupt_ms), sure, unsure)

    def silence(self, finished: float | None) -> int:
        """Silent frames that end a turn which is finished with this probability; None: nobody knows."""
        if finished is None:
            return self.unsure
        if finished >= 0.5:
            return self.sure
        # The less it sounds finished the longer the silence: a straight line between the two.
        return round(self.unsure - (self.unsure - self.sure) * finished)


class Endpointing:
    """Follows one stream."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.speaking = False
        self.silence = 0
        """Frames since the last voiced one."""
        self.voiced = 0
        """Voiced frames of this turn."""
        self._recent: list[bool] = []

    def feed(self, probability: float, against_answer: bool = False) -> Mark | None:
        """The next frame. `against_answer`: something is being played, so more is needed for an onset."""
        if not self.speaking:
            return self._onset(probability, against_answer)
        if probability >= self.rules.threshold - (HYSTERESIS if self.silence == 0 else 0):
            probed = self.silence >= PROBE
            self.silence = 0
            self.voiced += 1
            return Mark.ON if probed else None
        self.silence += 1
        return Mark.PROBE if self.silence in (PROBE, AGAIN) else None

    def end(self) -> None:
        """The turn is over; the next onset begins another."""
        self.speaking, self.silence, self.voiced, self._recent = False, 0, 0, []

    def again(self) -> None:
        """The turn was ended too soon and goes on."""
        self.speaking, self.silence = True, 0

    def _onset(self, probability: float, against_answer: bool) -> Mark | None:
        wanted = self.rules.interrupt if against_answer else self.rules.onset
        least = min(0.95, self.rules.threshold + (LOUDER if against_answer else 0))
        self._recent = [*self._recent[-(wanted - 1) :], probability >= least] if wanted > 1 else [probability >= least]
        if len(self._recent) < wanted or sum(self._recent) < HELD * wanted or not self._recent[-1]:
            return None
        self.speaking, self.silence, self.voiced = True, 0, sum(self._recent)
        return Mark.ONSET
