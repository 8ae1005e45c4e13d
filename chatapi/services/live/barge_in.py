"""Barge-in: whether speech during or after an answer is the user's, and whether it ends the answer."""

from __future__ import annotations

import logging
from enum import Enum

from chatapi.audio import RATE
from chatapi.errors import Unprocessable
from chatapi.services.live.answer import Answer
from chatapi.services.live.backchannel import (
    ECHO_LIKENESS,
    POSSIBLE_ECHO_LIKENESS,
    EchoLoopDetector,
    SpeechIntent,
    classify_speech,
    is_turn_at_answer_end,
)
from chatapi.services.live.echo_detection import ECHO_AHEAD, echo_likeness
from chatapi.services.live.playback import PlaybackPosition
from chatapi.services.live.turn_detector import TurnDetector
from chatapi.services.live.utterance import Utterance

log = logging.getLogger(__name__)

ENDING = 1.0
"""Rest of an answer during which speech is a turn of its own, in seconds: resuming so little would not be a reply."""


class DismissalReason(Enum):
    """Why an utterance is not answered."""

    NO_WORDS = "no_words"
    NOISE = "noise"
    """During an answer: more words than fit the time, or a low log-probability."""
    BACKCHANNEL = "backchannel"
    ECHO = "echo"
    ECHO_LOOP = "echo_loop"
    """The box answers its own echo, or did so in the last minute."""


class BargeIn:
    """Compares the utterances of one session with its last answer."""

    def __init__(self, detector: TurnDetector) -> None:
        self._detector = detector
        self._echo_loop = EchoLoopDetector()
        self._playback: PlaybackPosition | None = None
        """The playback of the last released answer."""

    @property
    def now(self) -> float:
        """Audio received, in seconds."""
        return self._detector.clock / RATE

    def watch(self, playback: PlaybackPosition) -> None:
        """Compares utterances with this answer from now on."""
        self._playback = playback

    def echo_likeness(self, utterance: Utterance, transcript: str) -> float:
        """Returns how much of the utterance is echo of the last answer; 0 where the client ends turns."""
        if not transcript or self._playback is None or not self._detector.detect:
            return 0.0
        return echo_likeness(transcript, utterance, self._playback, self.now)

    def interrupts(self, answer: Answer, utterance: Utterance, transcript: str, end_of_turn: bool = False) -> bool:
        """Whether the utterance ends the answer: it is more than a backchannel, or the answer is nearly finished.

        `end_of_turn`: the utterance may be over.
        """
        answer_text, is_echo, intent = self._classify(answer, utterance, transcript)
        if end_of_turn and nearly_finished(answer, self.now):
            is_turn = not is_echo and is_turn_at_answer_end(transcript, answer_text)
            return intent is SpeechIntent.STOP or is_turn
        return intent is SpeechIntent.STOP or (intent is SpeechIntent.INTERRUPTION and not self.in_echo_loop)

    def _classify(self, answer: Answer, utterance: Utterance, transcript: str) -> tuple[str, bool, SpeechIntent]:
        """Returns the played text of the answer, whether the transcript is its echo, and the intent."""
        playback, detector = answer.playback, self._detector
        answer_text = playback.words(playback.played(self.now) + ECHO_AHEAD)
        threshold = POSSIBLE_ECHO_LIKENESS if self.in_echo_loop else ECHO_LIKENESS
        is_echo = self.echo_likeness(utterance, transcript) >= threshold
        compared = answer_text if is_echo else ""
        intent = classify_speech(transcript, compared, detector.avg_logprob, detector.speech_seconds)
        return answer_text, is_echo, intent

    def dismissal_reason(self, answer: Answer | None, utterance: Utterance, transcript: str) -> DismissalReason | None:
        """Returns why a finished utterance is not answered; None: it is answered.

        `answer` is the answer during which the utterance began, if that answer goes on. Logs the reason, without the
        transcript.
        """
        likeness = self.echo_likeness(utterance, transcript)
        reason = self._dismissal_reason(answer, utterance, transcript, likeness)
        if reason is not None:
            fields = {
                "reason": reason.value, "likeness": round(likeness, 2),
                "certainty": round(self._detector.avg_logprob, 2),
                "speech_seconds": round(utterance.speech_end / RATE, 2), "against_answer": answer is not None,
            }  # fmt: skip
            log.info("utterance not answered", extra=fields)
        return reason

    def _dismissal_reason(
        self, answer: Answer | None, utterance: Utterance, transcript: str, likeness: float
    ) -> DismissalReason | None:
        if not transcript:
            return DismissalReason.NO_WORDS
        if answer is not None:
            _, is_echo, intent = self._classify(answer, utterance, transcript)
            if is_echo or intent is SpeechIntent.ECHO:
                return DismissalReason.ECHO
            reasons = {
                SpeechIntent.NOISE: DismissalReason.NOISE,
                SpeechIntent.INTERRUPTION: DismissalReason.ECHO_LOOP,
            }
            return reasons.get(intent, DismissalReason.BACKCHANNEL)
        if likeness >= ECHO_LIKENESS:
            return DismissalReason.ECHO
        # The last of several consecutive turns that resemble the answers before them.
        return DismissalReason.ECHO_LOOP if self._echo_loop.add_turn(likeness, self.now) else None

    @property
    def in_echo_loop(self) -> bool:
        """Whether the box answered its own echo and therefore ignores speech during answers."""
        return self._echo_loop.active(self.now)


def echo_loop_error() -> Unprocessable:
    """Returns the error that the client gets when an echo loop is detected."""
    return Unprocessable(
        "the microphone picks up the speaker, and the box answered its own speech: turn the speaker down or move the "
        "microphone away; speech during answers is ignored for a minute",
        code="echo_loop",
    )


def nearly_finished(answer: Answer, now: float) -> bool:
    """Whether so little of the answer remains to be played that resuming it is no reply."""
    return answer.done and answer.playback.remaining(now) <= ENDING
