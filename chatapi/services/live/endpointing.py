"""Endpointing: where a turn begins and ends, from probabilities alone, counted in frames of 512 samples."""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass
from enum import Enum

from chatapi.audio import RATE
from chatapi.services.transcription.segmenter import FRAME, HYSTERESIS
from chatapi.settings import LiveSettings
from chatapi.text.sentence_splitter import word_set

HUSHED = 0.05
"""Level, of the loudest lately, under which a frame is silent: -26 dB.

The detector's probability falls later: on the split tune of tests/corpus, level finds the end of a clip 26 ms after its
last sound (median of 80 clips), the detector 58 ms after it.
"""
FADING = 0.98
"""Of the loudest level, what still counts of it a frame later; after five seconds -26 dB."""
SURE = 0.6
"""Probability from which a turn is over as soon as may be."""
BIAS, BY_SOUND, BY_WORDS, BY_OPEN = 1.5, 0.27, 1.1, -0.6
ALONE_BIAS, ALONE_BY_WORDS, ALONE_BY_OPEN = 1.94, 1.08, -0.98
"""How the probabilities are weighed, as logits: with the sound's, and without.

Logistic regression over the ends of the clean clips of tests/corpus, split tune, and the same clips cut at the quietest
place of their middle third, with the default models. On the split held-out an end scores above a cut with a chance of
0.95; by sound alone, 0.73.
"""
EXTREME = 0.005
"""Probabilities nearer to 0 or 1 count as this far from it."""
OPEN_IN_QUESTIONS = word_set("a an the my your his her our their these those some any every and or but if because very")
OPEN = OPEN_IN_QUESTIONS | word_set(
    "its this no of to in on at for from with about into by as so when while than is are was were be does did can "
    "could will would should i we they what which who why where"
)
"""Words that no sentence ends with, or hardly ever; questions end with more of them."""
HELD = 0.8
"""Share of voiced frames among those of an onset."""
LOUDER = 0.25
"""How much more probable than usual speech must be that interrupts: what is left of our own voice is not."""
QUICK, LITTLE = 2, 0.1
"""Frames that interrupt, and how much more probable than usual, where our own voice is not heard at all.

On the split tune of tests/corpus that notices speech after 80 ms (median; 95 %: 272 ms) instead of 160 (368).
"""
CALM, FAINT, RISING = 24, 0.3, 6
"""Our own voice is not heard after so many frames of it that are less probable than FAINT; speech may take RISING
frames from there to what interrupts."""
STANDS_OUT = 2.0
"""How much louder than all of these a single frame is that interrupts, if it is not less probable than FAINT: 6 dB.

That notices speech after 32 ms (split tune, median; 95 %: 208 ms, with noise at -40 dB 225). Without the level, what is
left of our own voice pauses three answers of nine at -12 dB; with it none, nor do coughs, doors, keys, music and noise.
"""


def frames(milliseconds: float) -> int:
    """Frames that last at least so long."""
    return max(1, -int(-milliseconds * RATE // (FRAME * 1000)))


class TurnBoundary(Enum):
    """What a frame showed."""

    ONSET = "onset"
    """Somebody has begun to speak."""
    ON = "on"
    """They go on after a silent frame or more."""


@dataclass(frozen=True)
class EndpointingRules:
    """How sure is sure, in frames."""

    threshold: float
    onset: int
    interrupt: int
    sure: int
    unsure: int

    @classmethod
    def of(cls, live: LiveSettings, threshold: float, patience: float = 1.0) -> EndpointingRules:
        """`patience` stretches the silences that end a turn."""
        sure, unsure = (
            frames(live.min_endpointing_delay_ms * patience),
            frames(live.max_endpointing_delay_ms * patience),
        )
        return cls(threshold, frames(live.onset_ms), frames(live.min_interruption_ms), sure, unsure)

    def silence(self, over: float) -> int:
        """Silent frames that end a turn which is over with this probability: the lower it is the more, in a line."""
        return round(self.unsure - (self.unsure - self.sure) * min(1.0, over / SURE))


def over(sound: float | None, words: float | None, text: str) -> float:
    """How probable it is that a turn is over which sounds finished and reads whole with these; None: nobody knows."""
    is_open = unfinished(text)
    if words is not None and sound is not None:
        score = BIAS + BY_SOUND * _logit(sound) + BY_WORDS * _logit(words) + BY_OPEN * is_open
    elif words is not None:
        score = ALONE_BIAS + ALONE_BY_WORDS * _logit(words) + ALONE_BY_OPEN * is_open
    else:
        return 0.0 if sound is None or is_open else sound
    return 1 / (1 + math.exp(-score))


def _logit(probability: float) -> float:
    within = min(1 - EXTREME, max(EXTREME, probability))
    return math.log(within / (1 - within))


def unfinished(text: str) -> bool:
    """Whether words alone say that more is to come: Whisper hears where a sentence ends, and writes a full stop."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    if len(words) > 1 and words[-1] in (OPEN_IN_QUESTIONS if text.endswith("?") else OPEN):
        return True
    return not re.search(r"(?<!\.\.)[.!?。！？…]$", text) or text.endswith("…")


class Endpointing:
    """Follows one stream."""

    def __init__(self, rules: EndpointingRules) -> None:
        self.rules = rules
        self.synthesis = False
        self.silence = 0
        """Frames since the last voiced one."""
        self.voiced = 0
        """Voiced frames of this turn."""
        self._recent: list[float] = []
        self._calm = self._rising = 0
        self._background: deque[float] = deque(maxlen=CALM)
        """Levels of the last frames during an answer that were hardly speech."""
        self._loudest = 0.0

    def feed(self, probability: float, level: float, against_answer: bool = False) -> TurnBoundary | None:
        """The next frame; `level` is its RMS. `against_answer`: something is played, so more is needed for an onset."""
        if not self.synthesis:
            return self._onset(probability, level, against_answer)
        self._loudest = max(level, FADING * self._loudest)
        likely = probability >= self.rules.threshold - (HYSTERESIS if self.silence == 0 else 0)
        if likely and level > HUSHED * self._loudest:
            paused, self.silence = self.silence > 0, 0
            self.voiced += 1
            return TurnBoundary.ON if paused else None
        self.silence += 1
        return None

    def end(self) -> None:
        """The turn is over; the next onset begins another."""
        self.synthesis, self.silence, self.voiced, self._recent = False, 0, 0, []

    def again(self) -> None:
        """The turn was ended too soon and goes on."""
        self.synthesis, self.silence = True, 0

    def _onset(self, probability: float, level: float, against_answer: bool) -> TurnBoundary | None:
        usual = (self.rules.onset, self.rules.threshold)
        wanted, least = self._against(probability, level) if against_answer else usual
        self._recent = [*self._recent, probability][-max(self.rules.interrupt, self.rules.onset) :]
        likely = [each >= least for each in self._recent[-wanted:]]
        if len(likely) < wanted or sum(likely) < HELD * wanted or not likely[-1]:
            return None
        self.synthesis, self.silence, self.voiced, self._loudest, self._calm = True, 0, sum(likely), level, 0
        return TurnBoundary.ONSET

    def _against(self, probability: float, level: float) -> tuple[int, float]:
        """Frames that are needed against an answer, and how probable they have to be."""
        faint = probability < FAINT
        self._rising = 0 if faint else self._rising + 1
        if faint:
            self._calm += 1
        elif self._rising > RISING:
            self._calm = 0
        if self._calm < CALM:
            wanted, least = self.rules.interrupt, self.rules.threshold + LOUDER
        elif level > STANDS_OUT * max(self._background):
            wanted, least = 1, FAINT
        else:
            wanted, least = min(QUICK, self.rules.interrupt), self.rules.threshold + LITTLE
        if faint:
            self._background.append(level)
        return wanted, min(0.95, least)
