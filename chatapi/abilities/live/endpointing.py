"""Endpointing: where a turn begins and ends, from probabilities alone, counted in frames of 512 samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from chatapi.audio import RATE
from chatapi.segmenter import FRAME, HYSTERESIS
from chatapi.sentences import word_set
from chatapi.settings import Live

HUSHED = 0.05
"""Level, of the loudest lately, under which a frame is silent: -26 dB.

The detector's probability falls later: on the split tune of tests/corpus, level finds the end of a clip 26 ms after its
last sound (median of 80 clips), the detector 58 ms after it.
"""
FADING = 0.98
"""Of the loudest level, what still counts of it a frame later; after five seconds -26 dB."""
SURE = 0.9
"""Probability from which a turn that also reads finished is over as soon as may be."""
OPEN = word_set(
    "a an the my your his her its our their this these those some any every no of to in on at for from with about "
    "into by as and or but so because if when while that than is are was were be do does did can could will would "
    "should i you he she we they not very more most how what which who why where"
)
"""Words that no sentence ends with, or hardly ever."""
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
    ON = "on"
    """They go on after a silent frame or more."""


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

    def silence(self, finished: float | None, text: str) -> int:
        """Silent frames that end a turn which sounds finished with this probability; None: nobody knows."""
        if finished is None or unfinished(text):
            return self.unsure
        if finished >= SURE:
            return self.sure
        # The less it sounds finished the longer the silence: a straight line between the two.
        return round(self.unsure - (self.unsure - self.sure) * finished)


def unfinished(text: str) -> bool:
    """Whether words alone say that more is to come: Whisper hears where a sentence ends, and writes a full stop."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    if len(words) > 1 and words[-1] in OPEN:
        return True
    return not re.search(r"(?<!\.\.)[.!?。！？…]$", text) or text.endswith("…")


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
        self._loudest = 0.0

    def feed(self, probability: float, level: float, against_answer: bool = False) -> Mark | None:
        """The next frame; `level` is its RMS. `against_answer`: something is played, so more is needed for an onset."""
        if not self.speaking:
            return self._onset(probability, level, against_answer)
        self._loudest = max(level, FADING * self._loudest)
        likely = probability >= self.rules.threshold - (HYSTERESIS if self.silence == 0 else 0)
        if likely and level > HUSHED * self._loudest:
            paused, self.silence = self.silence > 0, 0
            self.voiced += 1
            return Mark.ON if paused else None
        self.silence += 1
        return None

    def end(self) -> None:
        """The turn is over; the next onset begins another."""
        self.speaking, self.silence, self.voiced, self._recent = False, 0, 0, []

    def again(self) -> None:
        """The turn was ended too soon and goes on."""
        self.speaking, self.silence = True, 0

    def _onset(self, probability: float, level: float, against_answer: bool) -> Mark | None:
        wanted = self.rules.interrupt if against_answer else self.rules.onset
        least = min(0.95, self.rules.threshold + (LOUDER if against_answer else 0))
        self._recent = [*self._recent[-(wanted - 1) :], probability >= least] if wanted > 1 else [probability >= least]
        if len(self._recent) < wanted or sum(self._recent) < HELD * wanted or not self._recent[-1]:
            return None
        self.speaking, self.silence, self.voiced, self._loudest = True, 0, sum(self._recent), level
        return Mark.ONSET
