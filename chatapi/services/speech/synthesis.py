"""Saying a text: from its words, as they come, to sound."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing

from chatapi.audio import Audio, sounding
from chatapi.engines import Voice
from chatapi.errors import Unprocessable
from chatapi.events import Speech
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines, YieldPolicy
from chatapi.text.normalization import spoken
from chatapi.text.sentence_splitter import SentenceSplitter


class SpeechSynthesis:
    """The box's voice."""

    def __init__(self, engines: Engines, metrics: Metrics, fetchable: Collection[str] = ()) -> None:
        """`fetchable` are the voices the catalog knows; those that are not here can be fetched."""
        self._tts = engines.tts
        self._metrics = metrics
        self._fetchable = fetchable

    def voices(self) -> tuple[Voice, ...]:
        """Those that can be asked for; the first is the default."""
        return self._tts.engine.voices

    def preload(self) -> None:
        """Something will be said soon: the voices begin to come back, where they were idle."""
        self._tts.preload()

    def voice(self, name: str | None, language: str = "") -> Voice:
        """The voice of that name, or the best for the language, or the default one.

        Raises Unprocessable (unknown_voice).
        """
        voices = self.voices()
        if name not in (None, "", "default"):
            found = next((voice for voice in voices if voice.name == name), None)
            if found is None:
                raise Unprocessable(self._missing(name, voices), code="unknown_voice")
            return found
        return next((voice for voice in voices if voice.language == language), voices[0])

    def _missing(self, name: str, voices: Sequence[Voice]) -> str:
        if name in self._fetchable:
            return (
                f"the voice {name!r} is not installed; fetch it with: chatapi models fetch {name}, "
                "then start chatapi again"
            )
        return f"there is no voice {name!r}; there are: {', '.join(voice.name for voice in voices)}"

    async def pieces(
        self, pieces: AsyncIterator[str], voice: Voice, priority: Priority = Priority.REQUEST, speed: float = 1.0
    ) -> AsyncGenerator[Speech, None]:
        """Speech for every piece of text, in order, each as soon as it is spoken; the first begins with its sound."""
        begun = False
        async for piece in pieces:
            text = spoken(piece, voice.language)
            if not text:
                continue
            since, seconds = time.monotonic(), 0.0
            async with self._tts.stream(
                lambda engine, stop, text=text: engine.synthesize(text, voice.name, stop, speed),  # type: ignore[misc]
                priority,
                YieldPolicy.RESTART,
            ) as chunks:
                async for chunk in chunks:
                    seconds += chunk.seconds
                    yield Speech(chunk if begun else sounding(chunk), text)
                    begun = True
            if seconds:
                self._metrics.factors.labels("tts").observe((time.monotonic() - since) / seconds)

    async def say(
        self, text: str, voice_name: str | None = None, speed: float = 1.0, priority: Priority = Priority.REQUEST
    ) -> AsyncGenerator[Audio, None]:
        """A whole text, a piece at a time. Raises Unprocessable when there is nothing to say (empty_text)."""
        voice = self.voice(voice_name)
        cut = self.cut(text, voice)
        async with aclosing(self.pieces(_each(cut), voice, priority, speed)) as said:
            async for speech in said:
                yield speech.audio

    def cut(self, text: str, voice: Voice) -> list[str]:
        """The text in pieces to be spoken. Raises Unprocessable when there is nothing to say (empty_text)."""
        cutter = SentenceSplitter()
        cut = [*cutter.feed(text), *cutter.finish()]
        if not any(spoken(piece, voice.language) for piece in cut):
            raise Unprocessable("there is nothing to say in the text", code="empty_text")
        return cut

    async def follow(self, deltas: AsyncIterator[str], voice: Voice) -> AsyncGenerator[Audio, None]:
        """A text while it is still being written, each sentence as soon as it is whole."""
        async with aclosing(_cut(deltas)) as cut, aclosing(self.pieces(cut, voice)) as said:
            async for speech in said:
                yield speech.audio


async def _cut(deltas: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    cutter = SentenceSplitter()
    async for delta in deltas:
        for piece in cutter.feed(delta):
            yield piece
    for piece in cutter.finish():
        yield piece


async def _each(items: list[str]) -> AsyncIterator[str]:
    for item in items:
        yield item
