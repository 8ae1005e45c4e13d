"""Phonemes of a text from espeak-ng, in a child process, because some texts crash it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from chatapi.errors import Unprocessable
from chatapi.system import sandbox

PATIENCE_SECONDS = 20.0
"""Seconds after which espeak-ng times out; it gets some hundred characters, which take milliseconds."""
DOTTED = re.compile(r"\.(?=[^\s\d])|(?<=\s)\.|(?<=\b\w)\.(?=\s+\S)")
"""Dots within words, alone, and after single letters: espeak-ng expects an abbreviation there, and overruns a buffer
from 33 of them on (espeak-ng of piper-tts 1.8)."""
WINDOW, DENSE = 100, 12
"""Characters in which so many of those dots mean that the text is not ordinary."""
LONGEST = 40
"""Most characters without a space that are not one word; espeak-ng crashes from 98 on."""
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Beginnings of Unicode names of letters whose scripts put no spaces between words."""


def phonemes(voice: str, text: str, clusters: Iterable[Iterable[str]] | None = None) -> list[list[str]]:
    """The phonemes of a text, a list per sentence, with the espeak-ng voice (such as en-us).

    Raises Unprocessable (phonemizer_crashed, phonemizer_timeout).
    """
    merged = None if clusters is None else [list(cluster) for cluster in clusters]
    try:
        return _phonemes(voice, guarded(text), merged)
    except sandbox.ChildCrashed:
        # Words alone have never crashed it, and are better than silence.
        text = _words(text)
    try:
        return _phonemes(voice, text, merged)
    except sandbox.ChildCrashed as error:
        raise Unprocessable("the text crashes the phonemizer", code="phonemizer_crashed") from error


def _phonemes(voice: str, text: str, clusters: list[list[str]] | None) -> list[list[str]]:
    call = sandbox.shared().call
    try:
        found: list[list[str]] = call(
            "chatapi.text.phonemizer:phonemes", voice, text, clusters, timeout=PATIENCE_SECONDS
        )
    except (sandbox.TimedOut, sandbox.OutOfMemory) as error:
        raise Unprocessable("the text takes too long to turn into phonemes", code="phonemizer_timeout") from error
    return found


def guarded(text: str) -> str:
    """The text without what overruns espeak-ng's buffers; ordinary text stays unchanged.

    Where many dotted abbreviations are close together, their dots become spaces; words with more than 40 letters and
    marks are cut. Both apply only to scripts that put spaces between words.
    """
    return " ".join(_cut(word) for word in _undotted(text).split(" "))


def _undotted(text: str) -> str:
    dots = [match.start() for match in DOTTED.finditer(text)]
    dense: set[int] = set()
    for first in range(len(dots) - DENSE + 1):
        if dots[first + DENSE - 1] - dots[first] < WINDOW:
            dense.update(dots[first : first + DENSE])
    return "".join(" " if at in dense else character for at, character in enumerate(text))


def _cut(word: str) -> str:
    if len(word) <= LONGEST or any(_unspaced(character) for character in word):
        return word
    return " ".join(word[start : start + LONGEST] for start in range(0, len(word), LONGEST))


def _unspaced(character: str) -> bool:
    return character > "\u0dff" and unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS)


def _words(text: str) -> str:
    """Only the letters and digits, in short parts."""
    plain = "".join(character if character.isalnum() else " " for character in text)
    return " ".join(word[start : start + LONGEST] for word in plain.split() for start in range(0, len(word), LONGEST))
