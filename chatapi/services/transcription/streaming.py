"""Streaming transcription: each speech region of a stream is transcribed as soon as it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, TranscriptionOptions, VoiceActivityDetector
from chatapi.events import Transcript
from chatapi.runtime.admission import Priority
from chatapi.runtime.detector_thread import DetectorStream
from chatapi.runtime.workers import Engines
from chatapi.services.transcription.segmenter import FRAME, SegmentationRules, SpeechRegion, SpeechRegionFinder
from chatapi.services.transcription.transcriber import FileTranscriber, TranscriptText
from chatapi.settings import VadSettings

STEP = 4 * FRAME
"""Samples processed at a time, so that a region that arrives in tiny blocks is not copied for each of them."""
NOTHING: Samples = np.zeros(0, np.float32)


class StreamingTranscriber:
    """Transcribes audio while it arrives; when it ends, only its last speech region is left to transcribe."""

    def __init__(self, engines: Engines, transcriber: FileTranscriber, vad: VadSettings) -> None:
        self._engines = engines
        self.transcriber = transcriber
        self._rules = SegmentationRules.of(vad)

    async def transcribe(
        self,
        blocks: AsyncIterator[Samples],
        language: str | None = None,
        priority: Priority = Priority.LIVE,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> AsyncGenerator[Transcript, None]:
        """A Transcript for each speech region that has words.

        `blocks` are 16 kHz mono. A detected language is kept for the regions that follow. No block is read while a
        region is transcribed, so the source must buffer them. Raises Unprocessable (unknown_language).
        """
        self.transcriber.language(language)
        self._engines.asr.preload()
        regions = _RegionBuffer(self._engines.vad.engine, self._rules)
        async for block in blocks:
            for region, samples in await regions.feed(block):
                found = await self.transcriber.transcribe_samples(samples, language, priority, options)
                if (transcript := _transcript(region, found)) is not None:
                    language = transcript.language
                    yield transcript
        for region, samples in await regions.finish():
            found = await self.transcriber.transcribe_samples(samples, language, priority, options)
            if (transcript := _transcript(region, found)) is not None:
                yield transcript


def _transcript(region: SpeechRegion, found: TranscriptText) -> Transcript | None:
    """The transcript of a region; None: it has no words."""
    if not found.text:
        return None
    return Transcript(found.text, True, region.start / RATE, region.speech_end / RATE, found.language)


class _RegionBuffer:
    """Finds the speech regions of one stream; holds no more audio than the longest region has."""

    def __init__(self, detector: VoiceActivityDetector, rules: SegmentationRules) -> None:
        self._detector = DetectorStream(detector.stream())
        self._finder = SpeechRegionFinder(rules)
        self._held: Samples = NOTHING
        self._first = 0
        """Position of the first held sample in the stream."""
        self._new: list[Samples] = []
        """Blocks that follow the held samples."""
        self._processed = 0
        """Samples whose speech probability is known."""

    async def feed(self, block: Samples) -> list[tuple[SpeechRegion, Samples]]:
        """The regions that end with this block, each with its audio."""
        self._new.append(block)
        if sum(map(len, self._new)) < STEP:
            return []
        return await self._process_new()

    async def finish(self) -> list[tuple[SpeechRegion, Samples]]:
        """The regions that end with the stream, each with its audio."""
        found = await self._process_new()
        rest = self._between(self._processed, self._processed + FRAME)
        if len(rest):
            found += await self._process([np.pad(rest, (0, FRAME - len(rest)))])
        return found + [(region, self._between(region.start, region.end)) for region in self._finder.finish()]

    async def _process_new(self) -> list[tuple[SpeechRegion, Samples]]:
        self._held, self._new = np.concatenate([self._held, *self._new]), []
        last = self._first + len(self._held) - FRAME
        frames = [self._between(start, start + FRAME) for start in range(self._processed, last + 1, FRAME)]
        found = await self._process(frames)
        self._discard()
        return found

    async def _process(self, frames: Sequence[Samples]) -> list[tuple[SpeechRegion, Samples]]:
        found = []
        for probability in await self._detector.probabilities(frames):
            self._processed += FRAME
            found += [(region, self._between(region.start, region.end)) for region in self._finder.feed(probability)]
        return found

    def _between(self, start: int, end: int) -> Samples:
        return self._held[start - self._first : end - self._first]

    def _discard(self) -> None:
        """Drop the samples that no open region needs."""
        needed = min(self._finder.needed, self._processed)
        self._held = self._held[needed - self._first :].copy()
        self._first = needed
