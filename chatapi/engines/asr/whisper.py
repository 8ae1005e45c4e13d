"""What every engine that runs OpenAI's Whisper shares: its windows, what is not believed of it, words out of tokens."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from chatapi.audio import RATE, Samples
from chatapi.engines import PLAIN, Segment, Stop, TranscriptionOptions, Word, never
from chatapi.errors import Unprocessable

WINDOW = 30 * RATE
"""Samples Whisper hears at once."""
FRAME = 320
"""Samples for each of the encoder's 1500 frames."""
MARGIN = 64
"""Frames without the clip that a shortened encoder must have left."""
NO_SPEECH = 0.6
"""Probability of no speech above which only what is sure is believed."""
IDEOGRAMS = "\u3040-\u30ff\u3400-\u9fff"
"""Letters of languages written without spaces."""
FASTEST = 6
"""Words a second that nobody says for long."""
HASTE = 2
"""Words more that the shortest clip may have."""
DRAWN = 9
"""Times a letter follows itself in what nobody says."""
TOKENS_A_SECOND = 25
"""More than any language needs; a loop would go on to 224 tokens."""
MOST_THREADS = 8


class WhisperModel(Protocol):
    """What these engines need to know of an opened model."""

    @property
    def name(self) -> str: ...
    @property
    def files(self) -> Mapping[str, Path]: ...
    @property
    def languages(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class WhisperResult:
    """What one run over a window gave."""

    segments: tuple[Segment, ...]
    logprob: float
    """Mean over the tokens of all segments."""

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


class WhisperTranscriber:
    """What an engine is made from: hears windows one after another, short clips with a shortened encoder."""

    trimmed: int
    """Frames of the encoder for a short clip, instead of 1500."""
    slots = 1

    def __init__(self, model: WhisperModel, wanted_threads: int, trim: bool) -> None:
        self.languages = tuple(model.languages)
        self.translates = False
        self.threads = threads(wanted_threads)
        self._name = model.name
        self._trim = trim

    def transcribe(
        self, samples: Samples, language: str | None = None, stop: Stop = never, hearing: TranscriptionOptions = PLAIN
    ) -> Iterator[Segment]:
        """As the role says; Unprocessable (unknown_language) for one it does not understand, and for a translation
        by a model that cannot (no_translation)."""
        if language is not None and language not in self.languages:
            raise Unprocessable(
                f"{self._name} does not understand {language!r}; it understands {', '.join(self.languages)}",
                code="unknown_language",
            )
        if hearing.translate and not self.translates:
            raise Unprocessable(f"{self._name} cannot translate", code="no_translation")
        yield from by_windows(samples, lambda window, known: self._hear(window, known, hearing, stop), language, stop)

    def window(self, samples: int) -> int:
        """Frames of the encoder that a sound of this length is first heard with; 0: all of them."""
        return self.trimmed if self._trim and self.short(samples) else 0

    def short(self, samples: int) -> bool:
        """Whether a shortened encoder is long enough for a sound of this length."""
        return -(-samples // FRAME) + MARGIN <= self.trimmed

    def _hear(
        self, window: Samples, language: str | None, hearing: TranscriptionOptions, stop: Stop
    ) -> tuple[Segment, ...]:
        """What is said in at most 30 seconds, as far as it can be believed; `language` None: not known yet."""
        raise NotImplementedError


def by_windows(
    samples: Samples, hear: Callable[[Samples, str | None], Sequence[Segment]], language: str | None, stop: Stop
) -> Iterator[Segment]:
    """Segments of a sound of any length; `hear` is given at most 30 s and the language, None until it is found."""
    start = 0
    while start < len(samples) and not stop():
        heard = hear(samples[start : start + WINDOW], language)
        if stop():
            return
        language = language or (heard[0].language if heard else None)
        # The last segment may have been cut in a word by the window's end: it is heard again from its start.
        again = start + WINDOW < len(samples) and len(heard) > 1 and heard[-1].start > WINDOW / RATE / 2
        for segment in heard[:-1] if again else heard:
            yield segment.timed(lambda seconds, _, before=start / RATE: seconds + before)  # type: ignore[misc]
        start += round(heard[-1].start * RATE) if again else WINDOW


def words_of(tokens: Sequence[tuple[bytes, float, float]], end: float) -> tuple[Word, ...]:
    """Words of the tokens' bytes and times; a word begins at a space, and with each letter that needs none.

    A token may end within a character, and some tokens have no time of their own.
    """
    parts: list[list[Any]] = []
    for spelled, start, stop in tokens:
        begun = parts[-1][0] if parts else b""
        if not parts or spelled.startswith(b" ") or (_whole(begun) and _ideogram(begun)):
            parts.append([spelled, start, stop])
        else:
            parts[-1][0] += spelled
            parts[-1][2] = stop
    found: list[Word] = []
    for index, (spelled, start, stop) in enumerate(parts):
        text = _bare(spelled.decode("utf-8", "replace"))
        if text:
            start = min(max(start, found[-1].start if found else 0.0), end)
            following = parts[index + 1][1] if index + 1 < len(parts) else end
            found.append(Word(text, start, min(max(stop if stop > start else following, start), max(end, start))))
    return tuple(found)


def _whole(spelled: bytes) -> bool:
    """Whether it ends with a whole character."""
    return not spelled.decode("utf-8", "replace").endswith("\ufffd")


def _ideogram(spelled: bytes) -> bool:
    return re.search(f"[{IDEOGRAMS}]$", spelled.decode("utf-8", "replace")) is not None


def _bare(text: str) -> str:
    """Without the marks before and after it."""
    found = re.search(r"\w.*\w|\w", text, re.DOTALL)
    return found.group() if found else ""


def threads(wanted: int) -> int:
    """As many as are wanted; 0: as this process may use cores, up to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or min(MOST_THREADS, cores)


def loops(segment: Segment) -> bool:
    """Whether it says one thing again and again, faster than anybody can: people do repeat themselves."""
    if re.search(rf"(\w)\1{{{DRAWN}}}", segment.text):
        return True
    fastest = FASTEST * (segment.end - segment.start)
    return len(segment.text.split()) > fastest and repeats(segment.text, 4)


def hurried(text: str, seconds: float) -> bool:
    """Whether it has more words than anybody says in that time: of a hummed "mhm" Whisper makes ten, or sixty."""
    return len(text.split()) > FASTEST * seconds + HASTE


def repeats(text: str, times: int) -> bool:
    """Whether a phrase follows itself so often, as when Whisper has lost the thread; a single word one time more."""
    words = re.findall(f"[{IDEOGRAMS}]|[^\\W_{IDEOGRAMS}]+", text.lower())
    for length in range(1, len(words) // times + 1):
        often = times + 1 if length == 1 else times
        for start in range(len(words) - length * often + 1):
            phrase = words[start : start + length]
            if words[start : start + length * often] == phrase * often:
                return True
    return False
