"""What is said against an answer: whether it is meant to interrupt."""

from __future__ import annotations

import difflib
import math
import re
from enum import Enum
from functools import lru_cache

from chatapi.services.live.fallback_phrases import BACKCHANNEL, HUM, INTERJECTION, STOP
from chatapi.text.sentence_splitter import count_words

BACKCHANNELS = 3
"""Words of a backchannel at most."""
MURMUR, MUMBLE = -0.6, -0.7
"""Mean log-probability below which a few words, and below which more, are taken for a noise somebody made.

Of 31 clips of tests/corpus with up to four words tiny.en on CTranslate2 misses four with -0.4 and two with -0.6; of 71
hums, coughs and knocks it makes words that somebody could have said so fast from -0.7 on. whisper.cpp is surer of both:
it misses none, and makes words of four to six.
"""
PACE, BEGUN = 5.0, 0.5
"""Words that somebody says in a second of speech, and that they may have begun besides.

Of the first 0.32 s of a hummed "mhm" Whisper makes "and make sure" (tiny.en: -0.40 to -0.61 on CTranslate2, up to -0.11
on whisper.cpp); the short clips of tests/corpus stay below.
"""
FEW = 4
"""Words that are a few."""
LIKENESS = 0.75
"""Share of the words heard that were just spoken by ourselves, in that order, from which it is our own echo."""
RESEMBLES = 0.5
"""The same share, from which it may be."""
SPREAD = 1.5
"""How far apart an echo's words may be in what was spoken, in words of the echo: some of it is not heard."""
ALIKE = 0.65
"""Letters alike in two words that are taken for the same: an echo is heard badly."""


class SpeechIntent(Enum):
    """Of what was said against an answer."""

    NOTHING = "nothing"
    BACKCHANNEL = "backchannel"
    ECHO = "echo"
    STOP = "stop"
    INTERRUPTION = "interruption"


def meaning(heard: str, spoken: str, certainty: float = 0.0, seconds: float = math.inf) -> SpeechIntent:
    """Of the words heard while the answer's last words were `spoken`.

    `certainty` is their mean log-probability, `seconds` how long they were being said.
    """
    words = _words(heard)
    if not words:
        return SpeechIntent.NOTHING
    if " ".join(words) in STOP or (words[-1] == "stop" and len(words) <= 4 and not heard.rstrip().endswith("?")):
        return SpeechIntent.STOP
    if echoed(heard, spoken):
        return SpeechIntent.ECHO
    if len(words) <= BACKCHANNELS and all(word in BACKCHANNEL for word in words):
        return SpeechIntent.BACKCHANNEL
    # Not all languages have spaces between their words.
    count = count_words(heard)
    if count <= 1:
        return SpeechIntent.INTERRUPTION if words[0] in INTERJECTION else SpeechIntent.BACKCHANNEL
    if count > BEGUN + PACE * seconds:
        return SpeechIntent.NOTHING
    return SpeechIntent.NOTHING if certainty < (MURMUR if count <= FEW else MUMBLE) else SpeechIntent.INTERRUPTION


def at_the_end(heard: str, spoken: str) -> bool:
    """Whether words said against the end of an answer, `spoken`, are a turn: all are but a listener's hum, and a hum is
    where the box asked something."""
    words = _words(heard)
    hummed = len(words) <= BACKCHANNELS and all(word in HUM for word in words)
    return bool(words) and (not hummed or spoken.rstrip().endswith("?"))


def echoed(heard: str, spoken: str) -> bool:
    """Whether what was heard is what we said ourselves."""
    return likeness(heard, spoken) >= LIKENESS


def likeness(heard: str, spoken: str) -> float:
    """Share of the words heard that were spoken by us close together, in that order."""
    words, ours = _words(heard), _words(spoken)
    span = round(SPREAD * len(words)) + 1
    starts = range(max(1, len(ours) - len(words) + 1))
    return max((_found(words, ours[start : start + span]) for start in starts), default=0) / max(1, len(words))


def _found(words: list[str], ours: list[str]) -> int:
    """How many of the words come in ours, in that order."""
    place, found = 0, 0
    for word in words:
        for ahead in range(place, len(ours)):
            if _alike(word, ours[ahead]):
                place, found = ahead + 1, found + 1
                break
    return found


@lru_cache(maxsize=4096)
def _alike(one: str, other: str) -> bool:
    return one == other or difflib.SequenceMatcher(None, one, other).ratio() >= ALIKE


class InterruptionJudge:
    """Notices when the box answers itself, and has it listen only while it is silent, for some time."""

    ROW = 2
    """Turns one after another that resembled its own words."""
    SECONDS = 60.0
    """How long it is careful then."""

    def __init__(self) -> None:
        self._row = 0
        self._until = 0.0

    def turn(self, alike: float, now: float) -> bool:
        """A turn that is about to be answered, and its likeness to what was just spoken. True when it broke now."""
        self._row = self._row + 1 if alike >= RESEMBLES else 0
        if self._row < self.ROW:
            return False
        self._row, self._until = 0, now + self.SECONDS
        return True

    def broken(self, now: float) -> bool:
        """Whether what is heard while it speaks does not count, but for a wish that it stop."""
        return now < self._until


def stops(heard: str) -> bool:
    """Whether it asks for silence and nothing else."""
    return meaning(heard, "") is SpeechIntent.STOP


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
