"""Fake engines of conversation, without a model: exact and instant, for trying the product and for tests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.engines import (
    DEFAULT_OPTIONS,
    VAD_FRAME,
    Capability,
    ChatOnly,
    ContextOverflow,
    PromptMessage,
    Sampling,
    Segment,
    Stop,
    TokenChunk,
    TokenUsage,
    TranscriptionOptions,
    TranscriptToken,
    Voice,
    Word,
    never,
)
from chatapi.engines.fake_json import matching_json
from chatapi.errors import NotFound
from chatapi.events import Token
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

BLOCK = 320
"""Samples per frame of wake word detection: 20 ms."""
HIGH_HZ = 1500
"""Frequency in hertz above which a tone counts as high; the voices' tones are below."""
SPEECH_RMS = 10 ** (-50 / 20)
"""-50 dBFS: above the noise of a quiet room's microphone, below the quietest speech."""
WINDOW = 30 * RATE
"""Samples of one segment of a transcript: 30 s."""
WORD = 60 * RATE // 1000
"""Samples of one synthesized word: 60 ms."""
FADE = 5 * RATE // 1000
"""Samples of a word's fade-in and fade-out: 5 ms, so that words are separate and do not click."""
CONTEXT = 8192
"""Context of the fake language model where the settings state none, in tokens."""
VOICES = {"fake": 440, "fake-high": 880}
"""Voice -> its tone in hertz."""


class PacedEngine:
    """What all have in common: a step that takes `settings.fake.delay` seconds, cut short by `close`."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        del models
        self.delay = settings.fake.delay
        """Seconds that each step takes."""
        self._closed = threading.Event()

    def close(self) -> None:
        """End every wait."""
        self._closed.set()

    def _step(self) -> None:
        if self.delay:
            self._closed.wait(self.delay)


class FakeVoiceActivityDetector(PacedEngine):
    """Takes loudness for speech."""

    def stream(self) -> FakeVoiceActivityDetector:
        return self

    def probability(self, frame: Samples) -> float:
        return float(_loud(frame))

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        for frame in _frames(samples):
            if stop():
                return
            self._step()
            yield float(_loud(frame))


class FakeWakeWordDetector(PacedEngine):
    """Detects a loud high tone as the wake word."""

    words = "a high tone"
    threshold = 0.5

    def stream(self) -> FakeWakeWordDetector:
        return self

    def probability(self, samples: Samples) -> float:
        crossings = np.count_nonzero(np.diff(np.signbit(samples)))
        return float(_loud(samples) and crossings * RATE > 2 * HIGH_HZ * len(samples))

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        for first in range(0, len(samples), BLOCK):
            if stop():
                return
            self._step()
            yield self.probability(samples[first : first + BLOCK])


class FakeEndOfTurnDetector(PacedEngine):
    """Takes every pause for the end of the turn."""

    def end_of_turn_probability(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        if not stop():
            self._step()
            yield 1.0


class FakeTranscriber(PacedEngine):
    """Transcribes audio as its length in seconds."""

    languages = ("en", "de")
    slots = 1
    translates = True
    on_gpu = False
    is_warm = False

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        """A segment for every 30 seconds that are not silent, with the options it was given.

        NotFound (unknown_language) for an unsupported language.
        """
        if language is not None and language not in self.languages:
            raise NotFound(
                f"language {language!r} is not supported; supported are: {', '.join(self.languages)}",
                code="unknown_language",
            )
        for first in range(0, len(samples), WINDOW):
            if stop():
                return
            self._step()
            window = samples[first : first + WINDOW]
            if any(_loud(frame) for frame in _frames(window)):
                text = f"heard {len(window) / RATE:.2f} seconds{_options_text(options)}."
                yield _segment(text, first / RATE, window, language, options)


class FakeLanguageModel(PacedEngine, ChatOnly):
    """Repeats the user's message; a word is a token with probability 1, so that no finite bias or penalty changes it.

    With a JSON schema it generates the smallest value that matches, with the user's message for its strings.
    """

    continues = True
    capabilities: frozenset[Capability] = frozenset(("top_p", "penalties", "logit_bias", "logprobs", "schema"))

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        super().__init__(settings, models)
        self.slots = settings.llama_cpp.slots
        self.context = settings.llama_cpp.context or CONTEXT
        self._fault = settings.fake.fault

    def generate(
        self, messages: Sequence[PromptMessage], sampling: Sampling, stop: Stop = never
    ) -> Iterator[TokenChunk]:
        prompt_tokens = sum(len(message.text.split()) for message in messages)
        needed = prompt_tokens + sampling.max_tokens
        if needed > self.context:
            raise ContextOverflow(needed, self.context, "llama_cpp.context raises it")
        words = _answer(messages, sampling)
        for count, word in enumerate(words[: sampling.max_tokens]):
            if count == 1:
                self._fail()
            if stop():
                return
            self._step()
            yield TokenChunk(word, tokens=_token_of(word, sampling.logprobs))
        if not stop():
            written = min(len(words), sampling.max_tokens)
            reason = "length" if len(words) > sampling.max_tokens else "stop"
            yield TokenChunk("", reason, TokenUsage(prompt_tokens, written))

    def _fail(self) -> None:
        """Fails as `settings.fake.fault` says; a hang ignores everything but `close`, as a real one would."""
        if self._fault == "raise":
            raise RuntimeError("settings.fake.fault makes the fake language model fail")
        if self._fault == "hang":
            self._closed.wait()


class FakeSynthesizer(PacedEngine):
    """Synthesizes a tone per word."""

    voices = tuple(Voice(name, "en", RATE) for name in VOICES)
    is_warm = False

    def synthesize(self, text: str, voice: str, stop: Stop = never, speed: float = 1.0) -> Iterator[Audio]:
        """60 ms for every word at speed 1. NotFound (unknown_voice) for an unknown voice."""
        if voice not in VOICES:
            raise NotFound(f"there is no voice {voice!r}; there are: {', '.join(VOICES)}", code="unknown_voice")
        tone = _tone(VOICES[voice], round(WORD / speed))
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            words = sum(1 for word in sentence.split() if re.search(r"\w", word))
            if stop():
                return
            if words:
                self._step()
                yield Audio(np.tile(tone, words), RATE)


def _frames(samples: Samples) -> Iterator[Samples]:
    """Frames of 512 samples, the last padded with silence."""
    for first in range(0, len(samples), VAD_FRAME):
        frame = samples[first : first + VAD_FRAME]
        yield frame if len(frame) == VAD_FRAME else np.pad(frame, (0, VAD_FRAME - len(frame)))


def _loud(frame: Samples) -> bool:
    return bool(np.sqrt(np.mean(np.square(frame, dtype=np.float64))) > SPEECH_RMS)


def _answer(messages: Sequence[PromptMessage], sampling: Sampling) -> list[str]:
    """The words of the answer, each with the whitespace before it; joined they are the answer."""
    user_text = next((message.text for message in reversed(messages) if message.role == "user"), "")
    text = f"You said: {user_text}." if sampling.schema is None else matching_json(sampling.schema, user_text)
    if messages[-1].role == "assistant":
        text = text.removeprefix(messages[-1].text)
    end = min((found for stop in sampling.stop_texts if (found := text.find(stop)) >= 0), default=len(text))
    return re.findall(r"\s*\S+|\s+$", text[:end])


def _options_text(options: TranscriptionOptions) -> str:
    """The options as text."""
    after = f" after {options.prompt}" if options.prompt else ""
    temperature = f" at {options.temperature:g}" if options.temperature else ""
    return ", in English" * options.translate + after + temperature


def _segment(text: str, start: float, window: Samples, language: str | None, options: TranscriptionOptions) -> Segment:
    """A segment of a window from `start`, in seconds; a token is a word."""
    parts = text.split()
    times = _word_times(window, len(parts))
    words = tuple(Word(w.strip(".,"), start + a, start + b) for w, (a, b) in zip(parts, times, strict=True))
    tokens = tuple(TranscriptToken(number, f" {word}".encode(), 0.0) for number, word in enumerate(parts))
    return Segment(
        text,
        start,
        start + len(window) / RATE,
        0.0,
        language or "en",
        words if options.words else (),
        tokens if options.tokens else (),
    )


def _word_times(window: Samples, count: int) -> list[tuple[float, float]]:
    """Start and end in seconds of so many words, spread over the sounds of a window: those of one sound evenly."""
    loud = np.array([False, *map(_loud, _frames(window)), False])
    edges = np.flatnonzero(np.diff(loud)).reshape(-1, 2)
    found: list[tuple[float, float]] = []
    for (begin, end), words in zip(edges, np.array_split(np.arange(count), len(edges)), strict=True):
        places = np.linspace(begin, min(end, len(window) / VAD_FRAME), len(words) + 1) * VAD_FRAME / RATE
        found += [(float(a), float(b)) for a, b in pairwise(places)]
    return found


def _token_of(word: str, top: int | None) -> tuple[Token, ...]:
    if top is None:
        return ()
    token = Token(word, 0.0, word.encode())
    return (Token(word, 0.0, token.raw, (token,) * min(top, 1)),)


def _tone(hertz: int, length: int) -> Samples:
    """One word of `length` samples: a sine at a third of full scale."""
    swell = np.minimum(1.0, np.arange(length) / FADE)
    wave = np.sin(2 * np.pi * hertz * np.arange(length) / RATE) * swell * swell[::-1] / 3
    tone: Samples = wave.astype(np.float32)
    return tone
