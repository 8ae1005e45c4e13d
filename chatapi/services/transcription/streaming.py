"""Understanding speech while it is still being said: each stretch is made out as soon as it is over."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import VoiceActivityDetector
from chatapi.events import Transcript
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines
from chatapi.services.transcription.segmenter import FRAME, SegmentationRules, SpeechRegion, SpeechRegionFinder
from chatapi.services.transcription.transcriber import FileTranscriber
from chatapi.settings import VadSettings

STEP = 4 * FRAME
"""Samples judged at a time, so that a stretch which comes in tiny blocks is not copied for each of them."""
NOTHING: Samples = np.zeros(0, np.float32)


class StreamingTranscriber:
    """The ability. When the sound ends, only its last stretch is left to be made out."""

    def __init__(self, engines: Engines, transcription: FileTranscriber, vad: VadSettings) -> None:
        self._engines = engines
        self.transcription = transcription
        self._rules = SegmentationRules.of(vad)

    async def hear(
        self, blocks: AsyncIterator[Samples], language: str | None = None, priority: Priority = Priority.LIVE
    ) -> AsyncGenerator[Transcript, None]:
        """A Transcript for each stretch with words in it; nothing where there are none.

        `blocks`: 16 kHz mono. A language that was detected is kept for what follows. Blocks are not taken while a
        stretch is being made out, so whoever gives them must let them wait. Raises Unprocessable (unknown_language).
        """
        self.transcription.language(language)
        self._engines.asr.preload()
        stretches = _SpeechStretches(self._engines.vad.engine, self._rules)
        async for block in blocks:
            for region, samples in stretches.feed(block):
                if (found := await self._understood(region, samples, language, priority)) is not None:
                    language = found.language
                    yield found
        for region, samples in stretches.finish():
            if (found := await self._understood(region, samples, language, priority)) is not None:
                yield found

    async def _understood(
        self, region: SpeechRegion, samples: Samples, language: str | None, priority: Priority
    ) -> Transcript | None:
        words = await self.transcription.words(samples, language, priority)
        if not words.text:
            return None
        return Transcript(words.text, True, region.start / RATE, region.speech_end / RATE, words.language)


class _SpeechStretches:
    """The speech of one stream; holds no more sound than the longest stretch has."""

    def __init__(self, detector: VoiceActivityDetector, rules: SegmentationRules) -> None:
        self._listener = detector.listener()
        self._finder = SpeechRegionFinder(rules)
        self._held: Samples = NOTHING
        self._first = 0
        """The first sample that is held."""
        self._new: list[Samples] = []
        """What came after it."""
        self._judged = 0
        """Samples whose probability is known."""

    def feed(self, block: Samples) -> Iterator[tuple[SpeechRegion, Samples]]:
        """The stretches that are over, each with its sound."""
        self._new.append(block)
        if sum(map(len, self._new)) < STEP:
            return
        yield from self._heard()

    def _heard(self) -> Iterator[tuple[SpeechRegion, Samples]]:
        self._held, self._new = np.concatenate([self._held, *self._new]), []
        while self._first + len(self._held) - self._judged >= FRAME:
            yield from self._judge(self._between(self._judged, self._judged + FRAME))
        self._forget()

    def finish(self) -> Iterator[tuple[SpeechRegion, Samples]]:
        yield from self._heard()
        rest = self._between(self._judged, self._judged + FRAME)
        if len(rest):
            yield from self._judge(np.pad(rest, (0, FRAME - len(rest))))
        for region in self._finder.finish():
            yield region, self._between(region.start, region.end)

    def _judge(self, frame: Samples) -> Iterator[tuple[SpeechRegion, Samples]]:
        self._judged += FRAME
        for region in self._finder.feed(self._listener.probability(frame)):
            yield region, self._between(region.start, region.end)

    def _between(self, start: int, end: int) -> Samples:
        return self._held[start - self._first : end - self._first]

    def _forget(self) -> None:
        needed = min(self._finder.needed, self._judged)
        self._held = self._held[needed - self._first :].copy()
        self._first = needed
