"""Classifies speech during an answer by its transcript: backchannel, echo, stop request or interruption."""

from __future__ import annotations

import difflib
import math
import re
from enum import Enum
from functools import lru_cache

from chatapi.services.live.fallback_phrases import BACKCHANNEL, FILLERS, INTERJECTION, STOP
from chatapi.text.sentence_splitter import count_words

MAX_BACKCHANNEL_WORDS = 3
"""Most words of a backchannel."""
MIN_LOGPROB_SHORT, MIN_LOGPROB = -0.6, -0.7
"""Mean log-probability below which a short transcript, and below which a longer one, counts as noise.

See docs/measurements/live.md.
"""
SHORT_WORDS = 4
"""Most words of a short transcript."""
WORDS_PER_SECOND, EXTRA_WORDS = 5.0, 0.5
"""Most words per second of speech, and the words added to that; a longer transcript counts as noise.

See docs/measurements/live.md.
"""
ECHO_LIKENESS = 0.75
"""Likeness to the answer from which a transcript is its echo."""
POSSIBLE_ECHO_LIKENESS = 0.5
"""Likeness to the answer from which a transcript may be its echo."""
SPREAD = 1.5
"""Length of the compared part of the answer, relative to the echo: some words of an echo are not transcribed."""
SAME_WORD = 0.65
"""Similarity of the letters from which two words are the same: an echo is transcribed badly."""


class SpeechIntent(Enum):
    """What speech during an answer means."""

    NOISE = "noise"
    BACKCHANNEL = "backchannel"
    ECHO = "echo"
    STOP = "stop"
    INTERRUPTION = "interruption"


def classify_speech(
    transcript: str, answer_text: str, avg_logprob: float = 0.0, seconds: float = math.inf
) -> SpeechIntent:
    """Classifies a transcript against the last words of the answer.

    `avg_logprob` is the mean log-probability of the transcript, `seconds` the length of its speech.
    """
    words = _words(transcript)
    if not words:
        return SpeechIntent.NOISE
    ends_with_stop = words[-1] == "stop" and len(words) <= 4 and not transcript.rstrip().endswith("?")
    if " ".join(words) in STOP or ends_with_stop:
        return SpeechIntent.STOP
    if is_echo(transcript, answer_text):
        return SpeechIntent.ECHO
    if len(words) <= MAX_BACKCHANNEL_WORDS and all(word in BACKCHANNEL for word in words):
        return SpeechIntent.BACKCHANNEL
    # Some languages do not separate words by spaces.
    count = count_words(transcript)
    if count <= 1:
        return SpeechIntent.INTERRUPTION if words[0] in INTERJECTION else SpeechIntent.BACKCHANNEL
    if count > EXTRA_WORDS + WORDS_PER_SECOND * seconds:
        return SpeechIntent.NOISE
    min_logprob = MIN_LOGPROB_SHORT if count <= SHORT_WORDS else MIN_LOGPROB
    return SpeechIntent.NOISE if avg_logprob < min_logprob else SpeechIntent.INTERRUPTION


def is_turn_at_answer_end(transcript: str, answer_text: str) -> bool:
    """Whether speech at the end of an answer is a turn: anything but fillers, and fillers too after a question."""
    words = _words(transcript)
    only_fillers = len(words) <= MAX_BACKCHANNEL_WORDS and all(word in FILLERS for word in words)
    return bool(words) and (not only_fillers or answer_text.rstrip().endswith("?"))


def is_echo(transcript: str, answer_text: str) -> bool:
    """Whether the words of a transcript are those of the answer."""
    return likeness(transcript, answer_text) >= ECHO_LIKENESS


def likeness(transcript: str, answer_text: str) -> float:
    """Returns the share of the transcript's words that the answer has close together, in the same order."""
    words, answer_words = _words(transcript), _words(answer_text)
    span = round(SPREAD * len(words)) + 1
    starts = range(max(1, len(answer_words) - len(words) + 1))
    most = max((_count_matches(words, answer_words[start : start + span]) for start in starts), default=0)
    return most / max(1, len(words))


def _count_matches(words: list[str], answer_words: list[str]) -> int:
    """Returns how many of the words the answer has in the same order."""
    position, count = 0, 0
    for word in words:
        for index in range(position, len(answer_words)):
            if _same_word(word, answer_words[index]):
                position, count = index + 1, count + 1
                break
    return count


@lru_cache(maxsize=4096)
def _same_word(first: str, second: str) -> bool:
    return first == second or difflib.SequenceMatcher(None, first, second).ratio() >= SAME_WORD


class EchoLoopDetector:
    """Detects that the box answers its own echo; it ignores speech during answers for a while afterwards."""

    TURNS = 2
    """Consecutive turns that resemble the answer before them, from which it is a loop."""
    SECONDS = 60.0
    """How long speech during answers is ignored afterwards, in seconds."""

    def __init__(self) -> None:
        self._turns = 0
        self._until = 0.0

    def add_turn(self, likeness: float, now: float) -> bool:
        """Adds a turn by its likeness to the answer before it; returns whether a loop is detected now."""
        self._turns = self._turns + 1 if likeness >= POSSIBLE_ECHO_LIKENESS else 0
        if self._turns < self.TURNS:
            return False
        self._turns, self._until = 0, now + self.SECONDS
        return True

    def active(self, now: float) -> bool:
        """Whether speech during an answer is ignored, except for stop requests."""
        return now < self._until


def is_stop_request(transcript: str) -> bool:
    """Whether a transcript only asks for silence."""
    return classify_speech(transcript, "") is SpeechIntent.STOP


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
