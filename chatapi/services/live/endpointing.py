"""Endpointing: the start and the end of a turn, from probabilities alone, counted in frames of 512 samples."""

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

SILENCE_LEVEL = 0.05
"""Level below which a frame is silent, relative to the recent peak level: -26 dB. See docs/measurements/live.md."""
PEAK_DECAY = 0.98
"""Factor on the recent peak level from one frame to the next: -26 dB after five seconds."""
CONFIDENT = 0.6
"""End-of-turn probability from which the minimum endpointing delay applies."""
BIAS, AUDIO_WEIGHT, TEXT_WEIGHT, UNFINISHED_WEIGHT = 1.5, 0.27, 1.1, -0.6
TEXT_ONLY_BIAS, TEXT_ONLY_WEIGHT, TEXT_ONLY_UNFINISHED_WEIGHT = 1.94, 1.08, -0.98
"""Coefficients of the end-of-turn probability, for logits: with and without the audio's probability.

Fitted by logistic regression. See docs/measurements/live.md.
"""
CLIP = 0.005
"""Smallest distance of a probability from 0 and 1; a value nearer to either is clipped."""
UNFINISHED_IN_QUESTIONS = word_set(
    "a an the my your his her our their these those some any every and or but if because very"
)
UNFINISHED = UNFINISHED_IN_QUESTIONS | word_set(
    "its this no of to in on at for from with about into by as so when while than is are was were be does did can "
    "could will would should i we they what which who why where"
)
"""Words that hardly ever end a sentence; a question may end with more words than a statement."""
VOICED_SHARE = 0.8
"""Share of voiced frames that an onset needs."""
ECHO_MARGIN = 0.25
"""Added to the speech threshold while an answer plays, so that residual echo is not an onset."""
QUIET_ECHO_FRAMES, QUIET_ECHO_MARGIN = 2, 0.1
"""Frames of a barge-in, and the addition to the speech threshold, while no residual echo is detected.

See docs/measurements/live.md.
"""
QUIET_FRAMES, NO_SPEECH, RISING_FRAMES = 24, 0.3, 6
"""No residual echo is detected after QUIET_FRAMES frames below the probability NO_SPEECH during an answer; speech may
take RISING_FRAMES frames from NO_SPEECH to the threshold of a barge-in."""
LOUD_FRAME = 2.0
"""Level, relative to the loudest of the quiet frames, from which a single frame with at least the probability NO_SPEECH
is a barge-in: 6 dB. See docs/measurements/live.md."""


def frames(milliseconds: float) -> int:
    """Returns the number of frames that last at least this long."""
    return max(1, -int(-milliseconds * RATE // (FRAME * 1000)))


class TurnBoundary(Enum):
    """What a frame changes in a turn."""

    ONSET = "onset"
    """Speech starts."""
    RESUMED = "resumed"
    """Speech continues after at least one silent frame."""


@dataclass(frozen=True)
class EndpointingRules:
    """Thresholds of endpointing."""

    threshold: float
    """Probability from which a frame is speech."""
    onset: int
    """Length of an onset, in frames."""
    interruption: int
    """Length of a barge-in, in frames."""
    min_delay: int
    """Shortest endpointing delay, in frames."""
    max_delay: int
    """Longest endpointing delay, in frames."""

    @classmethod
    def of(cls, live: LiveSettings, threshold: float, delay_factor: float = 1.0) -> EndpointingRules:
        """Returns the rules of these settings; `delay_factor` multiplies both endpointing delays."""
        return cls(
            threshold=threshold,
            onset=frames(live.onset_ms),
            interruption=frames(live.min_interruption_ms),
            min_delay=frames(live.min_endpointing_delay_ms * delay_factor),
            max_delay=frames(live.max_endpointing_delay_ms * delay_factor),
        )

    def endpointing_delay(self, probability: float) -> int:
        """Returns the silence that ends a turn, in frames: linear in the end-of-turn probability, up to CONFIDENT."""
        return round(self.max_delay - (self.max_delay - self.min_delay) * min(1.0, probability / CONFIDENT))


def end_of_turn_probability(audio: float | None, completeness: float | None, transcript: str) -> float:
    """Combines the probability of the audio and that of the text; None: unknown."""
    is_unfinished = unfinished(transcript)
    if completeness is not None and audio is not None:
        text_score = TEXT_WEIGHT * _logit(completeness) + UNFINISHED_WEIGHT * is_unfinished
        score = BIAS + AUDIO_WEIGHT * _logit(audio) + text_score
    elif completeness is not None:
        text_score = TEXT_ONLY_WEIGHT * _logit(completeness) + TEXT_ONLY_UNFINISHED_WEIGHT * is_unfinished
        score = TEXT_ONLY_BIAS + text_score
    else:
        return 0.0 if audio is None or is_unfinished else audio
    return 1 / (1 + math.exp(-score))


def _logit(probability: float) -> float:
    clipped = min(1 - CLIP, max(CLIP, probability))
    return math.log(clipped / (1 - clipped))


def unfinished(transcript: str) -> bool:
    """Whether a transcript is an unfinished sentence, by its last word and its punctuation, which Whisper writes."""
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", transcript.lower())
    if len(words) > 1 and words[-1] in (UNFINISHED_IN_QUESTIONS if transcript.endswith("?") else UNFINISHED):
        return True
    return not re.search(r"(?<!\.\.)[.!?。！？…]$", transcript) or transcript.endswith("…")


class Endpointing:
    """Tracks speech and silence of one audio stream."""

    def __init__(self, rules: EndpointingRules) -> None:
        self.rules = rules
        self.in_speech = False
        """Whether a turn has started and not ended."""
        self.silent_frames = 0
        """Frames since the last voiced frame."""
        self.voiced_frames = 0
        """Voiced frames of this turn."""
        self._recent: list[float] = []
        self._quiet_frames = self._rising_frames = 0
        self._background: deque[float] = deque(maxlen=QUIET_FRAMES)
        """Levels of the last frames without speech during an answer."""
        self._peak_level = 0.0

    def feed(self, probability: float, level: float, during_answer: bool = False) -> TurnBoundary | None:
        """Processes the next frame; `level` is its RMS. An onset needs more evidence `during_answer`."""
        if not self.in_speech:
            return self._detect_onset(probability, level, during_answer)
        self._peak_level = max(level, PEAK_DECAY * self._peak_level)
        is_speech = probability >= self.rules.threshold - (HYSTERESIS if self.silent_frames == 0 else 0)
        if is_speech and level > SILENCE_LEVEL * self._peak_level:
            paused, self.silent_frames = self.silent_frames > 0, 0
            self.voiced_frames += 1
            return TurnBoundary.RESUMED if paused else None
        self.silent_frames += 1
        return None

    def end(self) -> None:
        """Ends the turn; the next onset starts another one."""
        self.in_speech, self.silent_frames, self.voiced_frames, self._recent = False, 0, 0, []

    def _detect_onset(self, probability: float, level: float, during_answer: bool) -> TurnBoundary | None:
        default = (self.rules.onset, self.rules.threshold)
        needed, threshold = self._barge_in_rule(probability, level) if during_answer else default
        self._recent = [*self._recent, probability][-max(self.rules.interruption, self.rules.onset) :]
        voiced = [each >= threshold for each in self._recent[-needed:]]
        if len(voiced) < needed or sum(voiced) < VOICED_SHARE * needed or not voiced[-1]:
            return None
        self.in_speech, self.silent_frames, self.voiced_frames = True, 0, sum(voiced)
        self._peak_level, self._quiet_frames = level, 0
        return TurnBoundary.ONSET

    def _barge_in_rule(self, probability: float, level: float) -> tuple[int, float]:
        """Returns the frames that a barge-in needs, and their speech threshold."""
        is_quiet = probability < NO_SPEECH
        self._rising_frames = 0 if is_quiet else self._rising_frames + 1
        if is_quiet:
            self._quiet_frames += 1
        elif self._rising_frames > RISING_FRAMES:
            self._quiet_frames = 0
        if self._quiet_frames < QUIET_FRAMES:
            needed, threshold = self.rules.interruption, self.rules.threshold + ECHO_MARGIN
        elif level > LOUD_FRAME * max(self._background):
            needed, threshold = 1, NO_SPEECH
        else:
            needed = min(QUIET_ECHO_FRAMES, self.rules.interruption)
            threshold = self.rules.threshold + QUIET_ECHO_MARGIN
        if is_quiet:
            self._background.append(level)
        return needed, min(0.95, threshold)
