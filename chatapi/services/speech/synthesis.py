"""Speech synthesis: from text, whole or as it arrives, to audio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import numpy as np

from chatapi.audio import Audio, Resampled, is_silent, trim_leading_silence
from chatapi.audio.provenance import converted_comment
from chatapi.engines import Synthesizer, Voice
from chatapi.engines.call import EngineCall
from chatapi.errors import Unprocessable
from chatapi.events import Speech
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines, LateCall, YieldPolicy
from chatapi.services.voice_conversion.cloned_voices import ClonedVoices, joined_speech
from chatapi.text.language_codes import language_code
from chatapi.text.normalization import normalize
from chatapi.text.speech_parts import SpeechPart, SpeechSplitter, split_text

SLOWEST, FASTEST = 0.25, 4.0
"""Bounds of the speaking rate, as a multiple of the usual one, whatever rates of a text multiply to."""
SILENCE_SECONDS = 0.2
"""Length of the audio of a text without words, such as an emoji: clients take an error for a fault."""


class SpeechSynthesis:
    """Chooses a voice, normalizes text and runs the TTS engine."""

    def __init__(
        self, engines: Engines, metrics: Metrics, cloned: ClonedVoices, downloadable: Collection[str] = ()
    ) -> None:
        """`cloned`: the stored voices; `downloadable`: the voices of the catalog, installed or not."""
        self._tts, self._cloned = engines.tts, cloned
        self._metrics = metrics
        self.downloadable = downloadable

    def voices(self) -> tuple[Voice, ...]:
        """The installed voices, the first being the default, then the stored voices that the client may use."""
        own = self._tts.engine.voices
        return (*own, *self._cloned.voices(own[0], [each.name for each in own]))

    def preload(self) -> None:
        """Load the TTS engine in the background if it was unloaded."""
        self._tts.preload()

    def voice(self, name: str | None, language: str = "") -> Voice:
        """The voice of that name, else the first one of the language (as `en-GB` or `English`), else the default voice.
        A stored voice speaks with the TTS engine's voice for the language.

        Raises Unprocessable (unknown_voice; converter_missing for a stored voice without the model).
        """
        own = self._tts.engine.voices
        code = language_code(language, {voice.language for voice in own})
        base = next((voice for voice in own if voice.language == code), own[0])
        if name in (None, "", "default"):
            return base
        voices = (*own, *self._cloned.voices(base, [each.name for each in own]))
        found = next((voice for voice in voices if voice.name == name), None)
        if found is None:
            raise Unprocessable(self._unknown_voice(name, voices), code="unknown_voice")
        if found.base:
            self._cloned.check(found)
        return found

    def voice_now(self, name: str | None, language: str = "") -> Voice:
        """What `voice` returns for a name that was known when it was chosen: where the engine was exchanged and has no
        such voice, the one that it has for the language."""
        return self.voice(name if any(voice.name == name for voice in self.voices()) else None, language)

    def comment(self, name: str | None) -> str:
        """The comment of files with this voice's speech: where it is converted speech, the file says so; else empty."""
        own = {voice.name for voice in self._tts.engine.voices}
        cloned = name is not None and name not in own and any(voice.name == name for voice in self.voices())
        return converted_comment(name or "") if cloned else ""

    def _unknown_voice(self, name: str, voices: Sequence[Voice]) -> str:
        if name in self.downloadable:
            return (
                f"the voice {name!r} is not installed; fetch it with: chatapi models fetch {name}, "
                "then start chatapi again"
            )
        return f"there is no voice {name!r}; there are: {', '.join(voice.name for voice in voices)}"

    async def synthesize_sentences(
        self,
        sentences: AsyncIterator[str | SpeechPart],
        voice: Voice,
        priority: Priority = Priority.REQUEST,
        speed: float = 1.0,
    ) -> AsyncGenerator[Speech, None]:
        """Speech for every sentence, in order, each chunk as soon as it is synthesized; without leading silence, with
        the pauses between them."""
        has_begun = False
        async for sentence in sentences:
            part = SpeechPart(sentence) if isinstance(sentence, str) else sentence
            async with aclosing(self._speech(part, voice, priority, speed)) as speech:
                async for each in speech:
                    if not has_begun and is_silent(each.audio):
                        continue
                    yield each if has_begun else replace(each, audio=trim_leading_silence(each.audio))
                    has_begun = True
            if part.pause:
                yield Speech(silence(part.pause, voice), "")

    async def _speech(
        self, part: SpeechPart, voice: Voice, priority: Priority, speed: float
    ) -> AsyncGenerator[Speech, None]:
        """The speech of one part; none where it has no words."""
        text = normalize(part.text, voice.locale)
        if not text:
            return
        since, seconds = time.monotonic(), 0.0
        speed = min(FASTEST, max(SLOWEST, speed * part.rate))
        async with aclosing(self._synthesized(text, voice, priority, speed)) as chunks:
            if voice.base:
                async with aclosing(self._converted(chunks, voice, priority)) as converted:
                    async for chunk in converted:
                        yield Speech(chunk, text)
                return
            async for chunk in chunks:
                seconds += chunk.seconds
                yield Speech(chunk, text)
        if seconds:
            self._metrics.factors.labels("tts").observe((time.monotonic() - since) / seconds)

    async def _synthesized(
        self, text: str, voice: Voice, priority: Priority, speed: float
    ) -> AsyncGenerator[Audio, None]:
        """What the TTS engine says for a sentence, at the rate of the voice."""
        call = LateCall(partial(_synthesis, text=text, voice=voice, speed=speed))
        async with (
            self._tts.stream(call, priority, YieldPolicy.RESTART) as chunks,
            aclosing(_at_rate(chunks, voice.rate)) as resampled,
        ):
            async for chunk in resampled:
                yield chunk

    async def _converted(
        self, chunks: AsyncIterator[Audio], voice: Voice, priority: Priority
    ) -> AsyncGenerator[Audio, None]:
        """A sentence in a stored voice. The sentence is complete before the conversion begins, so that the TTS engine
        is free for others meanwhile."""
        speech = joined_speech([each async for each in chunks])
        async with (
            aclosing(self._cloned.converted(speech, voice, priority)) as converted,
            aclosing(_at_rate(converted, voice.rate)) as resampled,
        ):
            async for chunk in resampled:
                yield chunk

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
        normalized = (normalize(part.text, voice.locale) for part in split_text(text))
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
        self,
        sentences: AsyncIterator[SpeechPart],
        voice: Voice,
        priority: Priority = Priority.REQUEST,
        speed: float = 1.0,
    ) -> AsyncGenerator[Audio, None]:
        has_words = False

        async def watched() -> AsyncGenerator[SpeechPart, None]:
            nonlocal has_words
            async for part in sentences:
                has_words = has_words or bool(normalize(part.text, voice.locale))
                yield part

        async with (
            aclosing(watched()) as given,
            aclosing(self.synthesize_sentences(given, voice, priority, speed)) as chunks,
        ):
            async for speech in chunks:
                yield speech.audio
        if not has_words:
            yield silence(SILENCE_SECONDS, voice)


def _synthesis(engine: Synthesizer, text: str, voice: Voice, speed: float) -> EngineCall[Audio]:
    """The call for one sentence. Where the engine was swapped during the answer and has no such voice, another one of
    the language speaks."""
    names, name = [each.name for each in engine.voices], voice.base or voice.name
    if name not in names:
        name = next((each.name for each in engine.voices if each.language == voice.language), names[0])
    return EngineCall.of(Synthesizer.synthesize, text, name, speed=speed)


async def _at_rate(chunks: AsyncIterator[Audio], rate: int) -> AsyncGenerator[Audio, None]:
    """The audio of a sentence at the sample rate that was announced; a voice that took over may have another one."""
    resampled: Resampled | None = None
    async for chunk in chunks:
        if chunk.rate == rate:
            yield chunk
            continue
        resampled = resampled or Resampled(chunk.rate, rate)
        yield Audio(resampled.feed(chunk.samples), rate)
    if resampled is not None:
        yield Audio(resampled.finish(), rate)


def silence(seconds: float, voice: Voice) -> Audio:
    return Audio(np.zeros(round(seconds * voice.rate), np.float32), voice.rate)


def empty_text() -> Unprocessable:
    """The error for a text that the voice cannot speak, such as one in another script."""
    return Unprocessable("the voice has no sound for any word of the text", code="empty_text")


async def _split_deltas(deltas: AsyncIterator[str]) -> AsyncGenerator[SpeechPart, None]:
    splitter = SpeechSplitter()
    async for delta in deltas:
        for sentence in splitter.feed(delta):
            yield sentence
    for sentence in splitter.finish():
        yield sentence


async def _iterate(sentences: list[SpeechPart]) -> AsyncIterator[SpeechPart]:
    for sentence in sentences:
        yield sentence
