"""Understanding speech: a short utterance at once, or a file of any length as it is worked through."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from chatapi import segmenter
from chatapi.audio import RATE, Audio, Samples, blocks, decode, duration
from chatapi.engines import Segment
from chatapi.errors import Unprocessable
from chatapi.events import Event, JobProgress, Transcript
from chatapi.gate import Priority
from chatapi.metrics import Metrics
from chatapi.settings import Settings
from chatapi.workers import Engines, Yields


@dataclass(frozen=True)
class Heard:
    """What was understood of an utterance."""

    text: str
    language: str
    start: float
    """Seconds from the start of the audio to the first speech, a little before it."""
    end: float
    """Seconds from the start of the audio to the end of speech."""


@dataclass(frozen=True)
class Words:
    """What is said in an utterance; empty where there are no words."""

    text: str = ""
    language: str = ""
    certainty: float = 0.0
    """Mean log-probability of what was understood."""


class Transcription:
    """The box's ears."""

    def __init__(self, engines: Engines, settings: Settings, metrics: Metrics) -> None:
        self._vad = engines.vad
        self._asr = engines.asr
        self._settings = settings
        self._metrics = metrics
        vad = settings.vad
        self._rules = segmenter.Rules(vad.threshold, vad.min_speech_ms, vad.pad_ms)

    def language(self, asked: str | None) -> str | None:
        """The language to listen for; None: to be detected. Raises Unprocessable (unknown_language)."""
        chosen = asked or self._settings.asr.language
        known = self._asr.engine.languages
        if chosen == "auto":
            return known[0] if len(known) == 1 else None
        if chosen not in known:
            raise Unprocessable(
                f"the language {chosen!r} is not understood; these are: {', '.join(known)}", code="unknown_language"
            )
        return chosen

    async def decoded(self, file: bytes) -> Audio:
        """A file as 16 kHz mono, within the limits. Raises what `audio.decode` raises."""
        return await anyio.to_thread.run_sync(decode, file, self._settings.limits.audio_seconds)

    async def hear(self, audio: Audio, language: str | None = None, priority: Priority = Priority.REQUEST) -> Heard:
        """An utterance, its pauses left out. Raises Unprocessable (no_speech), never guesses."""
        rules = self._rules
        trimmed = await self._vad.call(
            lambda engine: segmenter.trim(audio.samples, engine.probabilities(audio.samples), rules), priority
        )
        segments = await self._understood(trimmed.samples, language, priority) if trimmed.regions else []
        if not segments:
            raise Unprocessable(f"no speech was heard in the {audio.seconds:.1f} seconds of audio", code="no_speech")
        text = " ".join(segment.text.strip() for segment in segments)
        start = trimmed.regions[0].start / RATE
        return Heard(text, segments[0].language, start, trimmed.speech_end)

    async def words(self, samples: Samples, language: str | None, priority: Priority) -> Words:
        """What is said in an utterance."""
        segments = await self._understood(samples, language, priority) if len(samples) else []
        if not segments:
            return Words()
        text = " ".join(segment.text.strip() for segment in segments)
        return Words(text, segments[0].language, sum(each.logprob for each in segments) / len(segments))

    async def follow(
        self, file: Path, language: str | None = None, priority: Priority = Priority.BULK
    ) -> AsyncGenerator[Event, None]:
        """A file of any length: a Transcript for each stretch of speech as it is understood, and how far it is."""
        total = await anyio.to_thread.run_sync(duration, file)
        rules = self._rules
        async with self._vad.stream(
            lambda engine, stop: segmenter.stretches(blocks(file), engine, rules, stop), priority
        ) as stretches:
            async for region, samples in stretches:
                offset = region.start / RATE
                for segment in await self._understood(samples, language, priority):
                    start, end = offset + segment.start, offset + min(segment.end, region.seconds)
                    yield Transcript(segment.text.strip(), True, start, end, segment.language)
                yield JobProgress(region.end / RATE, max(total, region.end / RATE))
        yield JobProgress(total, total)

    async def _understood(self, samples: Samples, language: str | None, priority: Priority) -> list[Segment]:
        """The segments with words in them."""
        since, spoken = time.monotonic(), self.language(language)
        async with self._asr.stream(
            lambda engine, stop: engine.transcribe(samples, spoken, stop), priority, Yields.AGAIN
        ) as found:
            segments = [segment async for segment in found if segment.text.strip()]
        self._metrics.factors.labels("asr").observe((time.monotonic() - since) / (len(samples) / RATE))
        return segments
