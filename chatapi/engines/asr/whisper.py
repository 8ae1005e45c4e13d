"""Shared parts of the engines that run OpenAI's Whisper: windows, rejection of hallucinations, word timestamps."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, Segment, Stop, TranscriptionOptions, Word, never
from chatapi.errors import Unprocessable

WINDOW = 30 * RATE
"""Samples of Whisper's window: 30 s."""
FRAME = 320
"""Samples per frame of the encoder."""
ALL_FRAMES = 1500
"""Frames of the encoder."""
MARGIN = 64
"""Frames that a shortened encoder must have beyond the clip."""
NO_SPEECH = 0.6
"""Probability of no speech above which only a text with a high log-probability is accepted."""
SPEECH = 0.5
"""Probability of no speech up to which the model is sure of speech, so that its text is kept although it is unsure of
the words. See docs/measurements/engines.md."""
ACCEPTED = -0.9
"""Mean log-probability below which text is dropped where the model is not sure of speech; the worst clip of
tests/corpus that is transcribed gives -0.75."""
UNSURE = -1.2
"""Mean log-probability below which text is dropped although the model is sure of speech."""
UNSURE_WORD = -2.5
"""As `UNSURE`, of a word or two: the punctuation and the capitals of a command are a guess, which alone takes 1.0."""
CLEAR = -0.5
"""Mean log-probability from which text is clear."""
IDEOGRAMS = "\u3040-\u30ff\u3400-\u9fff"
"""Characters of languages written without spaces."""
FASTEST = 6
"""Words per second above the rate of sustained speech."""
FASTEST_CLEAR = 12
"""Words per second above the rate of speech that is played at 2.5 times its speed, if its text is clear."""
HASTE = 2
"""Words beyond these rates that the shortest clip may have."""
LETTERS = re.compile(r"([^\W\d_])\1{9}")
"""A letter ten times in a row marks a hallucination."""
SYLLABLES = re.compile(r"([^\W\d_]{2,8}?)\1{4}")
"""A syllable five times in a row within a word does so too, as in `aededededed`."""
LAUGHTER = re.compile(r"[hlnj]?[aeiou](?:[hlnj][aeiou]){0,19}[hlnj]?")
"""Syllables that people do repeat, up to twenty times: hahahahaha, lalalalala."""
DIGITS = re.compile(r"(\d{1,8}?)\1{19}")
"""The same for digits, which numbers repeat often."""
LEAD = RATE // 4
"""Samples of silence before a clip of a word or two: without any, Whisper misses a word that begins at once. See
docs/measurements/engines.md."""
LEAD_BELOW = 6 * RATE // 5
"""Samples below which a clip gets that silence."""
TOKENS_A_SECOND = 25
"""Tokens per second at most, more than any language needs; a loop would go on to 224 tokens."""
MOST_THREADS = 8


class WhisperModel(Protocol):
    """What these engines use of an installed model."""

    @property
    def name(self) -> str: ...
    @property
    def files(self) -> Mapping[str, Path]: ...
    @property
    def languages(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class WhisperResult:
    """Output of one run over a window."""

    segments: tuple[Segment, ...]
    logprob: float
    """Mean natural logarithm of the probabilities of all segments' tokens."""
    no_speech: float = 0.0
    """Probability of no speech, 0 to 1, as far as the library tells it."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def silent(self) -> bool:
        """Whether the model reports no speech, and no text is so likely that there is some nevertheless."""
        return not self.segments and self.no_speech > NO_SPEECH

    @property
    def clear(self) -> bool:
        """Whether the model is sure of speech and of the words."""
        return self.no_speech <= SPEECH and self.logprob >= CLEAR

    def hallucinated(self, seconds: float) -> bool:
        """Whether the text is a hallucination: nobody can say it in that time."""
        return self._impossible(seconds) or any(loops(each) for each in self.segments)

    def _impossible(self, seconds: float) -> bool:
        """Whether the whole text is that of sounds; repetitions at a normal pace are where nobody speaks."""
        return too_fast(self.text, seconds, self.clear) or (self.no_speech > NO_SPEECH and repeats(self.text, 3))

    def kept(self, seconds: float) -> tuple[Segment, ...]:
        """The segments that are likely enough to be what was said."""
        if self._impossible(seconds):
            return ()
        return tuple(
            each for each in self.segments if each.logprob >= accepted(each.text, self.no_speech) and not loops(each)
        )


class WhisperTranscriber:
    """Base of the engines: transcribes window after window, short clips with a shortened encoder."""

    trimmed: int
    """Frames of the encoder for a short clip, instead of 1500."""
    slots = 1
    on_gpu = False
    is_warm = False

    def __init__(self, model: WhisperModel, configured_threads: int, trim: bool) -> None:
        self.languages = tuple(model.languages)
        self.translates = False
        self.threads = threads(configured_threads)
        self._name = model.name
        self._trim = trim

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        """Segments of 16 kHz mono.

        Raises Unprocessable: unknown_language for an unsupported language, no_translation where the model cannot
        translate.
        """
        if language is not None and language not in self.languages:
            raise Unprocessable(
                f"{self._name} does not support {language!r}; it supports {', '.join(self.languages)}",
                code="unknown_language",
            )
        if options.translate and not self.translates:
            raise Unprocessable(f"{self._name} cannot translate", code="no_translation")
        yield from by_windows(
            samples, lambda window, known: self._transcribe_led(window, known, options, stop), language, stop
        )

    def _transcribe_led(
        self, window: Samples, language: str | None, options: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        """As `_transcribe_window`, with silence before a clip of a word or two."""
        seconds = len(window) / RATE
        if len(window) >= LEAD_BELOW:
            return self._transcribe_window(window, seconds, language, options, stop)
        led = np.pad(window, (LEAD, 0))
        return tuple(
            segment.retimed(lambda time, _: min(max(0.0, time - LEAD / RATE), seconds))
            for segment in self._transcribe_window(led, seconds, language, options, stop)
        )

    def window(self, samples: int) -> int:
        """Frames of the encoder for the first run over a clip of this length; 0: all of them."""
        return self.trimmed if self._trim and self.short(samples) else 0

    def short(self, samples: int) -> bool:
        """Whether a shortened encoder is long enough for a clip of this length."""
        return -(-samples // FRAME) + MARGIN <= self.trimmed

    def _transcribe_window(
        self, window: Samples, seconds: float, language: str | None, options: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        """Transcribes at most 30 seconds and drops what is unreliable; `language` None: not detected yet.

        `seconds`: length of the clip, without silence put before it.
        """
        raise NotImplementedError


def by_windows(
    samples: Samples, transcribe: Callable[[Samples, str | None], Sequence[Segment]], language: str | None, stop: Stop
) -> Iterator[Segment]:
    """Segments of audio of any length; `transcribe` receives at most 30 s and the language, None until it is
    detected."""
    start = 0
    while start < len(samples) and not stop():
        found = transcribe(samples[start : start + WINDOW], language)
        if stop():
            return
        language = language or (found[0].language if found else None)
        # The end of the window may cut the last segment within a word: it is transcribed again from its start.
        again = start + WINDOW < len(samples) and len(found) > 1 and found[-1].start > WINDOW / RATE / 2
        for segment in found[:-1] if again else found:
            yield segment.retimed(lambda seconds, _, before=start / RATE: seconds + before)  # type: ignore[misc]
        start += round(found[-1].start * RATE) if again else WINDOW


def words_of(tokens: Sequence[tuple[bytes, float, float]], end: float) -> tuple[Word, ...]:
    """Words from the tokens' bytes and times; a word starts at a space, or at each ideogram.

    A token may end within a character, and some tokens have no time of their own.
    """
    parts: list[list[Any]] = []
    for text_bytes, start, stop in tokens:
        begun = parts[-1][0] if parts else b""
        if not parts or text_bytes.startswith(b" ") or (_complete(begun) and _ideogram(begun)):
            parts.append([text_bytes, start, stop])
        else:
            parts[-1][0] += text_bytes
            parts[-1][2] = stop
    found: list[Word] = []
    for index, (text_bytes, start, stop) in enumerate(parts):
        text = _stripped(text_bytes.decode("utf-8", "replace"))
        if text:
            start = min(max(start, found[-1].start if found else 0.0), end)
            following = parts[index + 1][1] if index + 1 < len(parts) else end
            found.append(Word(text, start, min(max(stop if stop > start else following, start), max(end, start))))
    return tuple(found)


def _complete(text_bytes: bytes) -> bool:
    """Whether it ends with a complete character."""
    return not text_bytes.decode("utf-8", "replace").endswith("\ufffd")


def _ideogram(text_bytes: bytes) -> bool:
    return re.search(f"[{IDEOGRAMS}]$", text_bytes.decode("utf-8", "replace")) is not None


def _stripped(text: str) -> str:
    """The text without punctuation before and after it."""
    found = re.search(r"\w.*\w|\w", text, re.DOTALL)
    return found.group() if found else ""


def threads(configured: int) -> int:
    """Number of threads: as set, or for 0 the cores of this process, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return configured or min(MOST_THREADS, cores)


def accepted(text: str, no_speech: float) -> float:
    """Mean log-probability below which a text is dropped.

    OpenAI's code drops a text only where the model reports no speech as well. Here a text of several words must be
    likelier: it is what Whisper makes of sounds.
    """
    if no_speech > SPEECH:
        return ACCEPTED
    return UNSURE_WORD if len(text.split()) <= 2 else UNSURE


def loops(segment: Segment) -> bool:
    """Whether the text repeats itself as nobody speaks: letters, syllables and digits within a word at once, words and
    phrases faster than anybody speaks; people do repeat themselves at a normal pace."""
    if any(map(_loops_within, segment.text.split())):
        return True
    fastest = FASTEST * (segment.end - segment.start)
    return len(segment.text.split()) > fastest and repeats(segment.text, 4)


def _loops_within(word: str) -> bool:
    word = word.lower()
    if LETTERS.search(word) or DIGITS.search(word):
        return True
    return SYLLABLES.search(word) is not None and not LAUGHTER.fullmatch(_stripped(word))


def too_fast(text: str, seconds: float, clear: bool = False) -> bool:
    """Whether the text has more words than anybody speaks in that time: Whisper turns a hummed "mhm" into ten words, or
    sixty. Clear text may be that of a recording played at twice its speed."""
    return len(text.split()) > (FASTEST_CLEAR if clear else FASTEST) * seconds + HASTE


def repeats(text: str, times: int) -> bool:
    """Whether a phrase occurs `times` in a row, as when Whisper loops; a single word one time more."""
    words = re.findall(f"[{IDEOGRAMS}]|[^\\W_{IDEOGRAMS}]+", text.lower())
    for length in range(1, len(words) // times + 1):
        often = times + 1 if length == 1 else times
        for start in range(len(words) - length * often + 1):
            phrase = words[start : start + length]
            if words[start : start + length * often] == phrase * often:
                return True
    return False
