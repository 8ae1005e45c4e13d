"""Speech synthesis: from text, whole or as it arrives, to audio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing

import numpy as np

from chatapi.audio import Audio, trim_leading_silence
from chatapi.engines import Synthesizer, Voice
from chatapi.engines.call import EngineCall
from chatapi.errors import Unprocessable
from chatapi.events import Speech
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines, YieldPolicy
from chatapi.text.normalization import normalize
from chatapi.text.sentence_splitter import SentenceSplitter

SILENCE_SECONDS = 0.2
"""Length of the audio of a text without words, such as an emoji: clients take an error for a fault."""


class SpeechSynthesis:
    """Chooses a voice, normalizes text and runs the TTS engine."""

    def __init__(self, engines: Engines, metrics: Metrics, downloadable: Collection[str] = ()) -> None:
        """`downloadable`: the voices of the catalog, installed or not."""
        self._tts = engines.tts
        self._metrics = metrics
        self._downloadable = downloadable

    def voices(self) -> tuple[Voice, ...]:
        """The installed voices; the first is the default."""
        return self._tts.engine.voices

    def preload(self) -> None:
        """Load the TTS engine in the background if it was unloaded."""
        self._tts.preload()

    def voice(self, name: str | None, language: str = "") -> Voice:
        """The voice of that name, else the first one of the language, else the default voice.

        Raises Unprocessable (unknown_voice).
        """
        voices = self.voices()
        if name not in (None, "", "default"):
            found = next((voice for voice in voices if voice.name == name), None)
            if found is None:
                raise Unprocessable(self._unknown_voice(name, voices), code="unknown_voice")
            return found
        return next((voice for voice in voices if voice.language == language), voices[0])

    def _unknown_voice(self, name: str, voices: Sequence[Voice]) -> str:
        if name in self._downloadable:
            return (
                f"the voice {name!r} is not installed; fetch it with: chatapi models fetch {name}, "
                "then start chatapi again"
            )
        return f"there is no voice {name!r}; there are: {', '.join(voice.name for voice in voices)}"

    async def synthesize_sentences(
        self, sentences: AsyncIterator[str], voice: Voice, priority: Priority = Priority.REQUEST, speed: float = 1.0
    ) -> AsyncGenerator[Speech, None]:
        """Speech for every sentence, in order, each chunk as soon as it is synthesized; without leading silence."""
        has_begun = False
        async for sentence in sentences:
            text = normalize(sentence, voice.locale)
            if not text:
                continue
            since, seconds = time.monotonic(), 0.0
            async with self._tts.stream(
                EngineCall.of(Synthesizer.synthesize, text, voice.name, speed=speed),
                priority,
                YieldPolicy.RESTART,
            ) as chunks:
                async for chunk in chunks:
                    seconds += chunk.seconds
                    yield Speech(chunk if has_begun else trim_leading_silence(chunk), text)
                    has_begun = True
            if seconds:
                self._metrics.factors.labels("tts").observe((time.monotonic() - since) / seconds)

    async def synthesize_text(
        self, text: str, voice_name: str | None = None, speed: float = 1.0, priority: Priority = Priority.REQUEST
    ) -> AsyncGenerator[Audio, None]:
        """The audio of a whole text, in chunks; a short silence for a text without words."""
        voice = self.voice(voice_name)
        sentences = _iterate(split_text(text))
        async with aclosing(self._audio_or_silence(sentences, voice, priority, speed)) as chunks:
            async for audio in chunks:
                yield audio

    def normalized_sentences(self, text: str, voice: Voice) -> list[str]:
        """What the TTS engine gets for a text, a string per sentence; none for a text without words."""
        normalized = (normalize(sentence, voice.locale) for sentence in split_text(text))
        return [sentence for sentence in normalized if sentence]

    async def synthesize_deltas(self, deltas: AsyncIterator[str], voice: Voice) -> AsyncGenerator[Audio, None]:
        """The audio of a text that still arrives, each sentence as soon as it is complete; a short silence for a text
        without words."""
        async with (
            aclosing(_split_deltas(deltas)) as sentences,
            aclosing(self._audio_or_silence(sentences, voice)) as chunks,
        ):
            async for audio in chunks:
                yield audio

    async def _audio_or_silence(
        self, sentences: AsyncIterator[str], voice: Voice, priority: Priority = Priority.REQUEST, speed: float = 1.0
    ) -> AsyncGenerator[Audio, None]:
        has_words = False

        async def watched() -> AsyncGenerator[str, None]:
            nonlocal has_words
            async for sentence in sentences:
                has_words = has_words or bool(normalize(sentence, voice.locale))
                yield sentence

        async with (
            aclosing(watched()) as given,
            aclosing(self.synthesize_sentences(given, voice, priority, speed)) as chunks,
        ):
            async for speech in chunks:
                yield speech.audio
        if not has_words:
            yield Audio(np.zeros(round(SILENCE_SECONDS * voice.rate), np.float32), voice.rate)


def split_text(text: str) -> list[str]:
    """The sentences of a text."""
    splitter = SentenceSplitter()
    return [*splitter.feed(text), *splitter.finish()]


def empty_text() -> Unprocessable:
    """The error for a text that the voice cannot speak, such as one in another script."""
    return Unprocessable("the voice has no sound for any word of the text", code="empty_text")


async def _split_deltas(deltas: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    splitter = SentenceSplitter()
    async for delta in deltas:
        for sentence in splitter.feed(delta):
            yield sentence
    for sentence in splitter.finish():
        yield sentence


async def _iterate(sentences: list[str]) -> AsyncIterator[str]:
    for sentence in sentences:
        yield sentence
