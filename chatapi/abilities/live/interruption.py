"""What is said against an answer: whether it is meant to interrupt."""

from __future__ import annotations

import difflib
import re
from enum import Enum

from chatapi.sentences import word_set

STOP = word_set(
    "stop|stop it|stop stop|please stop|stop please|okay stop|ok stop|no stop|stop talking|be quiet|quiet|shut up|"
    "silence|enough|that's enough|thats enough|cancel|never mind|nevermind|halt|hush",
    "|",
)
"""What ends an answer and wants none itself."""
BACKCHANNEL = word_set(
    "mhm mm hm hmm mmm mm-hmm mhmm uh uhh um huh uh-huh uhhuh ah aha oh ooh yeah yep yup yes okay ok right sure wow "
    "really nice cool great good alright well hm-hmm i see got it indeed exactly"
)
"""Words of somebody who listens."""
BACKCHANNELS = 3
"""Words of a backchannel at most."""
LIKENESS = 0.75
"""Share of the words heard that were just spoken by ourselves, in that order, from which it is our own echo."""
ALIKE = 0.65
"""Letters alike in two words that are taken for the same: an echo is heard badly."""


class Meaning(Enum):
    """Of what was said against an answer."""

    NOTHING = "nothing"
    BACKCHANNEL = "backchannel"
    ECHO = "echo"
    STOP = "stop"
    INTERRUPTION = "interruption"


def meaning(heard: str, spoken: str) -> Meaning:
    """Of the words heard while the answer's last words were `spoken`."""
    words = _words(heard)
    if not words:
        return Meaning.NOTHING
    if " ".join(words) in STOP or (words[-1] == "stop" and len(words) <= 4):
        return Meaning.STOP
    if echoed(heard, spoken):
        return Meaning.ECHO
    if len(words) <= BACKCHANNELS and all(word in BACKCHANNEL for word in words):
        return Meaning.BACKCHANNEL
    return Meaning.INTERRUPTION


def echoed(heard: str, spoken: str) -> bool:
    """Whether what was heard is what we said ourselves."""
    words, ours = _words(heard), _words(spoken)
    if not words or not ours:
        return False
    place, found = 0, 0
    for word in words:
        for ahead in range(place, len(ours)):
            if word == ours[ahead] or difflib.SequenceMatcher(None, word, ours[ahead]).ratio() >= ALIKE:
                place, found = ahead + 1, found + 1
                break
    return found >= LIKENESS * len(words)


def stops(heard: str) -> bool:
    """Whether it asks for silence and nothing else."""
    return meaning(heard, "") is Meaning.STOP


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())
