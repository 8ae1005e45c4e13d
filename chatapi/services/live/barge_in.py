"""Barge-in: whether speech during an answer, or right after it, is the user's, and whether it ends the answer."""

from __future__ import annotations

import logging
from enum import Enum

from chatapi.audio import RATE
from chatapi.errors import Unprocessable
from chatapi.services.live.answer import Answer
from chatapi.services.live.backchannel import LIKENESS, RESEMBLES, InterruptionJudge, SpeechIntent, at_the_end, meaning
from chatapi.services.live.echo_detection import LATE, echoed
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.live.turn_detector import TurnDetector
from chatapi.services.live.utterance import Utterance

log = logging.getLogger(__name__)

ENDING = 1.0
"""Seconds left of an answer below which speech is a turn of its own: to go on with so little would be silence."""


class Dismissal(Enum):
    """Why an utterance is not answered."""

    NO_WORDS = "no_words"
    NOISE = "noise"
    """Said against an answer: words that nobody can have said so, or the recogniser is unsure of."""
    BACKCHANNEL = "backchannel"
    ECHO = "echo"
    HEARS_ITSELF = "hears_itself"
    """The box answers its own echo, or did so lately."""


class BargeIn:
    """Judges utterances of one session against its last answer."""

    def __init__(self, detector: TurnDetector) -> None:
        self._ear = detector
        self._breaker = InterruptionJudge()
        self._playback: PlaybackPosition | None = None
        """Of the last answer that was given."""

    @property
    def now(self) -> float:
        """Seconds of sound received."""
        return self._ear.clock / RATE

    def during(self, playback: PlaybackPosition) -> None:
        """Another answer begins; of those before nothing is to be heard any more."""
        self._playback = playback

    def likeness(self, utterance: Utterance, text: str) -> float:
        """How much of it are the box's own last words, heard back; who ends turns by hand is no echo."""
        if not text or self._playback is None or not self._ear.detect:
            return 0.0
        return echoed(text, utterance, self._playback, self.now)

    def interrupts(self, answer: Answer, utterance: Utterance, text: str, ended: bool = False) -> bool:
        """Whether it ends the answer: it is more than a listener's noises, or hardly anything is left of the answer.

        `ended`: the utterance may be over.
        """
        spoken, own, meant = self._judged(answer, utterance, text)
        if ended and nearly_over(answer, self.now):
            return meant is SpeechIntent.STOP or (not own and at_the_end(text, spoken))
        return meant is SpeechIntent.STOP or (meant is SpeechIntent.INTERRUPTION and not self.broken)

    def _judged(self, answer: Answer, utterance: Utterance, text: str) -> tuple[str, bool, SpeechIntent]:
        """The words of the answer so far, whether these are an echo of them, and what they mean."""
        playback = answer.playback
        spoken = playback.words(playback.heard(self.now) + LATE)
        own = self.likeness(utterance, text) >= (RESEMBLES if self.broken else LIKENESS)
        return spoken, own, meaning(text, spoken if own else "", self._ear.certainty, self._ear.lasted)

    def dismissal(self, against: Answer | None, utterance: Utterance, text: str) -> Dismissal | None:
        """Why an utterance that is over is not to be answered, and did not interrupt `against`; None: it is.

        The log has it, without the words.
        """
        alike = self.likeness(utterance, text)
        why = self._dismissal(against, utterance, text, alike)
        if why is not None:
            told = {
                "reason": why.value, "likeness": round(alike, 2), "certainty": round(self._ear.certainty, 2),
                "speech_seconds": round(utterance.speech_end / RATE, 2), "against_answer": against is not None,
            }  # fmt: skip
            log.info("utterance not answered", extra=told)
        return why

    def _dismissal(self, against: Answer | None, utterance: Utterance, text: str, alike: float) -> Dismissal | None:
        if not text:
            return Dismissal.NO_WORDS
        if against is not None:
            _, own, meant = self._judged(against, utterance, text)
            if own or meant is SpeechIntent.ECHO:
                return Dismissal.ECHO
            known = {SpeechIntent.NOTHING: Dismissal.NOISE, SpeechIntent.INTERRUPTION: Dismissal.HEARS_ITSELF}
            return known.get(meant, Dismissal.BACKCHANNEL)
        if alike >= LIKENESS:
            return Dismissal.ECHO
        # One too many of a row that resemble the answers before.
        return Dismissal.HEARS_ITSELF if self._breaker.turn(alike, self.now) else None

    @property
    def broken(self) -> bool:
        """Whether the box has answered itself, and listens only while it is silent."""
        return self._breaker.broken(self.now)


def hears_itself() -> Unprocessable:
    """The error that the client gets then."""
    return Unprocessable(
        "the box hears its own voice and takes it for somebody's: turn the speaker down or move the microphone away; "
        "for a minute it listens only while it is silent",
        code="hears_itself",
    )


def nearly_over(answer: Answer, now: float) -> bool:
    """Whether so little of it is left to be heard that going on with it is no reply."""
    return answer.over and answer.playback.left(now) <= ENDING
