"""Transcription of short utterances as a whole, and of files of any length in chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
from anyio.streams.memory import MemoryObjectSendStream

from chatapi.audio import RATE, Audio, Samples, skipped
from chatapi.audio.decode import Source, decode, duration
from chatapi.engines import (
    DEFAULT_OPTIONS,
    Segment,
    Transcriber,
    TranscriptionOptions,
)
from chatapi.engines.call import EngineCall
from chatapi.errors import Unprocessable, collapse_exception_group
from chatapi.events import Event, JobProgress, Token, Transcript
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines, YieldPolicy
from chatapi.services.transcription import missed_speech, pauses, segmenter
from chatapi.services.transcription.decoded_file import DecodedFile
from chatapi.services.transcription.division import divide
from chatapi.services.transcription.segmenter import TrimmedAudio
from chatapi.services.transcription.shared_detector import SharedDetector
from chatapi.services.transcription.speaker_turns import SpeakerLabels
from chatapi.settings import Settings
from chatapi.text.language_codes import language_code

AHEAD = 1
"""Chunks of a file that are cut while the one before them is transcribed."""


@dataclass(frozen=True)
class UtteranceTranscript:
    """The transcript of an utterance with its place in the audio."""

    text: str
    language: str
    """ISO 639-1 code."""
    start: float
    """Start of the speech, its padding included, in seconds from the start of the audio."""
    end: float
    """End of the speech, in seconds from the start of the audio."""


@dataclass(frozen=True)
class TranscriptText:
    """The transcript of an utterance as text alone; empty where it has no words."""

    text: str = ""
    language: str = ""
    """ISO 639-1 code."""
    logprob: float = 0.0
    """Mean log-probability of its segments."""
    tokens: tuple[Token, ...] = ()
    """Its tokens, where they were requested."""


@dataclass(frozen=True)
class TranscriptionRequest:
    """How to transcribe a file."""

    language: str | None = None
    """ISO 639-1 code, or auto; None: the one of the settings."""
    options: TranscriptionOptions = DEFAULT_OPTIONS
    timed: bool = False
    """Whether the times of segments matter: then none spans a pause."""
    rules: segmenter.SegmentationRules | None = None
    """Transcribe each speech region found by these rules by itself; None: as much at once as fits the engine."""
    max_seconds: float | None = None
    """Longest file that is accepted, in seconds; None: any."""


@dataclass(frozen=True)
class TranscribedChunk:
    """A chunk of a file that was transcribed at once."""

    segments: tuple[Segment, ...]
    """Its segments; their times count from the start of the file."""
    start: float
    """Start of its first speech, in seconds from the start of the file."""
    speech_probability: float
    """Mean speech probability of the voice activity detector, 0 to 1."""
    processed: float
    """Seconds of the file processed so far; the whole file with the last chunk."""
    labels: SpeakerLabels | None = None
    """Speaker labels of the whole file, with the last chunk, where they were requested."""
    gaps: tuple[tuple[float, float], ...] = ()
    """Start and end of speech beside its segments in which no words were recognized, in seconds of the file."""


Send = Callable[[TranscribedChunk], Awaitable[None]]


class FileTranscriber:
    """Runs voice activity detection and speech recognition on audio files."""

    def __init__(self, engines: Engines, settings: Settings, metrics: Metrics) -> None:
        self._vad = engines.vad
        self._asr = engines.asr
        self.settings = settings
        self._metrics = metrics
        self._rules = segmenter.SegmentationRules.of(settings.vad)

    @property
    def rules(self) -> segmenter.SegmentationRules:
        """The segmentation rules of the settings."""
        return self._rules

    def language(self, requested: str | None) -> str | None:
        """The language to transcribe, which may be requested as `en-US` or `English`; None: detect it.

        Raises Unprocessable (unknown_language).
        """
        supported = self._asr.engine.languages
        language = language_code(requested or self.settings.asr.language, supported)
        if language.lower() == "auto":
            return supported[0] if len(supported) == 1 else None
        if language not in supported:
            raise Unprocessable(
                f"the language {language!r} is not supported; supported languages: {', '.join(supported)}",
                code="unknown_language",
                details={"param": "language"},
            )
        return language

    def check(self, request: TranscriptionRequest) -> None:
        """Check a request before any work. Raises Unprocessable (unknown_language, no_translation)."""
        self.language(request.language)
        if request.options.translate and not self._asr.engine.translates:
            raise Unprocessable(
                "the speech recognition model cannot translate; use a multilingual Whisper: asr.model=whisper-base",
                code="no_translation",
                details={"param": "model"},
            )

    async def decode_file(self, file: Source) -> Audio:
        """A file as 16 kHz mono, within the limits. Raises the errors of `audio.decode`."""
        audio = await anyio.to_thread.run_sync(decode, file, self.settings.limits.audio_seconds)
        skipped.report(audio.skipped)
        return audio

    async def transcribe_utterance(
        self, audio: Audio, language: str | None = None, priority: Priority = Priority.REQUEST
    ) -> UtteranceTranscript:
        """The transcript of an utterance without its pauses. Raises Unprocessable (no_speech) where it has no words."""
        parts = await self._trim(audio, TranscriptionRequest(language), priority)
        found: list[list[Segment]] = [[] for _ in parts]

        async def transcribe(number: int, part: TrimmedAudio) -> None:
            found[number] = await self._transcribe(part.samples, language, priority)

        await _at_once(transcribe, parts)
        segments = [segment for each in found for segment in each]
        if not segments:
            raise Unprocessable(f"the {audio.seconds:.1f} seconds of audio contain no speech", code="no_speech")
        text = " ".join(segment.text.strip() for segment in segments)
        start = parts[0].regions[0].start / RATE
        return UtteranceTranscript(text, segments[0].language, start, parts[-1].speech_end)

    async def transcribe_samples(
        self,
        samples: Samples,
        language: str | None,
        priority: Priority,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> TranscriptText:
        """The transcript of 16 kHz mono samples, which are transcribed as they are."""
        segments = await self._transcribe(samples, language, priority, options) if len(samples) else []
        if not segments:
            return TranscriptText()
        text = " ".join(segment.text.strip() for segment in segments)
        logprob = sum(segment.logprob for segment in segments) / len(segments)
        return TranscriptText(text, segments[0].language, logprob, tuple(_tokens(segments)))

    @asynccontextmanager
    async def stream_file(
        self, file: Path, language: str | None = None, priority: Priority = Priority.BULK
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """A file of any length as events: a Transcript for each segment as it is ready, and the progress."""
        total = await anyio.to_thread.run_sync(duration, file)
        send, receive = anyio.create_memory_object_stream[TranscribedChunk](AHEAD)

        async def produce() -> None:
            async with send:
                await self.transcribe_file(file, TranscriptionRequest(language, timed=True), send.send, priority)

        async def events() -> AsyncIterator[Event]:
            async for chunk in receive:
                for segment in chunk.segments:
                    yield Transcript(segment.text.strip(), True, segment.start, segment.end, segment.language)
                yield JobProgress(chunk.processed, max(total, chunk.processed))

        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(produce)
                yield events()
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def transcribe_file(
        self, source: Source, request: TranscriptionRequest, send: Send, priority: Priority = Priority.REQUEST
    ) -> None:
        """Transcribe a file of any length and send every chunk, in order, as soon as it is ready.

        Raises the errors of `audio.decode` and `check`, TooLarge (audio_too_long), and those of the engines, all of
        them possibly within an ExceptionGroup.
        """
        self.check(request)
        audio = DecodedFile(source, request.max_seconds)
        try:
            short = None if request.rules else await anyio.to_thread.run_sync(audio.short)
            if short is not None:
                await send(await self._transcribe_whole(short, request, priority))
            else:
                await self._transcribe_parts(audio, request, send, priority)
        finally:
            audio.close()

    async def _transcribe_parts(
        self, audio: DecodedFile, request: TranscriptionRequest, send: Send, priority: Priority
    ) -> None:
        parts_in, parts_out = anyio.create_memory_object_stream[tuple[TrimmedAudio, float]](AHEAD)
        slots = anyio.Semaphore(self._asr.admission.slots)

        async def transcribe(part: TrimmedAudio, seconds: float, previous: anyio.Event, sent: anyio.Event) -> None:
            try:
                chunk = await self._transcribe_chunk(part, seconds, request, priority)
            finally:
                # Chunks transcribed at the same time are sent in order, and of their errors only the first is raised.
                await previous.wait()
            await send(chunk)
            sent.set()
            slots.release()

        async with anyio.create_task_group() as group, parts_out:
            group.start_soon(self._cut, audio, request, parts_in, priority)
            previous = anyio.Event()
            previous.set()
            async for part, seconds in parts_out:
                await slots.acquire()
                sent = anyio.Event()
                group.start_soon(transcribe, part, seconds, previous, sent)
                previous = sent

    async def _transcribe_whole(
        self, audio: Audio, request: TranscriptionRequest, priority: Priority
    ) -> TranscribedChunk:
        parts = await self._trim(audio, request, priority)
        found = [TranscribedChunk((), audio.seconds, 0.0, audio.seconds)] * len(parts)

        async def transcribe(number: int, part: TrimmedAudio) -> None:
            found[number] = await self._transcribe_chunk(part, audio.seconds, request, priority)

        await _at_once(transcribe, parts)
        return _one_chunk(found, [len(part.samples) for part in parts])

    async def _transcribe_chunk(
        self, part: TrimmedAudio, seconds: float, request: TranscriptionRequest, priority: Priority
    ) -> TranscribedChunk:
        """The transcript of a part, after which `seconds` of the file are processed."""
        if not part.regions:
            return TranscribedChunk((), seconds, 0.0, seconds)
        # Only words tell where a segment of several regions is to be split, and they take another pass of the decoder.
        words = request.options.words or (request.timed and len(part.regions) > 1)
        options = replace(request.options, words=words)
        found = await self._transcribe(part.samples, request.language, priority, options)
        frames = sum(region.end - region.start for region in part.regions)
        speech = sum(region.probability * (region.end - region.start) for region in part.regions) / frames
        segments = tuple(pauses.placed(found, part))
        chunk = TranscribedChunk(segments, part.regions[0].start / RATE, speech, seconds)
        if options.translate:
            return chunk
        if not segments:
            # What is no speech to the recognizer as a whole is not tried in parts, in which it would invent words.
            return replace(chunk, gaps=_gaps(segments, part))
        return await self._complete(chunk, part, options, priority)

    async def _complete(
        self, chunk: TranscribedChunk, part: TrimmedAudio, options: TranscriptionOptions, priority: Priority
    ) -> TranscribedChunk:
        """The chunk with the speech of its part that it leaves out, or with gaps where that has no words either."""
        more: list[Segment] = []
        gaps: list[tuple[float, float]] = []
        for each in missed_speech.missed(chunk.segments, part):
            found = await self._transcribe(each.samples, chunk.segments[0].language, priority, options)
            placed = list(pauses.placed(found, each))
            more += placed
            gaps += _gaps(placed, each)
        return replace(chunk, segments=missed_speech.merged(chunk.segments, more), gaps=tuple(gaps))

    async def _cut(
        self,
        audio: DecodedFile,
        request: TranscriptionRequest,
        send: MemoryObjectSendStream[tuple[TrimmedAudio, float]],
        priority: Priority,
    ) -> None:
        """Send a file's speech in parts that fit the engine, each with the seconds of the file processed after it."""
        rules = request.rules or self._rules
        regions = segmenter.stream_regions(audio.blocks(), SharedDetector(self._vad, priority), rules)
        parts = segmenter.pack(regions, 0 if request.rules else segmenter.MAX_SECONDS)
        async with send:
            try:
                while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
                    await send.send((part, part.regions[-1].end / RATE))
                await send.send((TrimmedAudio(np.zeros(0, np.float32), ()), audio.seconds))
            finally:
                parts.close()
                regions.close()

    async def _trim(self, audio: Audio, request: TranscriptionRequest, priority: Priority) -> list[TrimmedAudio]:
        """The speech of an utterance, in as many parts as the engine has free slots."""
        probabilities = await SharedDetector(self._vad, priority).judge(audio.samples)
        trimmed = await anyio.to_thread.run_sync(segmenter.trim, audio.samples, iter(probabilities), self._rules)
        # A part alone may be too short to detect its language, and accuracy was not measured on translation.
        whole = self.language(request.language) is None or request.options.translate
        free = 1 if whole or not trimmed.regions else self._asr.admission.free(priority)
        return divide(trimmed, probabilities, free, self._rules) if free > 1 else [trimmed]

    async def _transcribe(
        self,
        samples: Samples,
        language: str | None,
        priority: Priority,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> list[Segment]:
        """The segments that have words."""
        since, chosen = time.monotonic(), self.language(language)
        async with self._asr.stream(
            EngineCall.of(Transcriber.transcribe, samples, chosen, options=options), priority, YieldPolicy.RESTART
        ) as found:
            segments = [segment async for segment in found if segment.text.strip()]
        self._metrics.factors.labels("asr").observe((time.monotonic() - since) / (len(samples) / RATE))
        return segments


def _gaps(segments: Sequence[Segment], part: TrimmedAudio) -> tuple[tuple[float, float], ...]:
    """Start and end, in seconds of the file, of the speech of a part in which no word is."""
    found = missed_speech.without_words(segments, part)
    return tuple((region.speech_start / RATE, region.speech_end / RATE) for region in found)


async def _at_once(
    transcribe: Callable[[int, TrimmedAudio], Coroutine[Any, Any, None]], parts: Sequence[TrimmedAudio]
) -> None:
    """Transcribe the parts that have speech at the same time; raises the first error."""
    try:
        async with anyio.create_task_group() as group:
            for number, part in enumerate(parts):
                if part.regions:
                    group.start_soon(transcribe, number, part)
    except Exception as error:
        raise collapse_exception_group(error) from None


def _one_chunk(chunks: Sequence[TranscribedChunk], lengths: Sequence[int]) -> TranscribedChunk:
    """The chunks of one utterance, whose parts have these lengths in samples, as one."""
    segments = tuple(segment for chunk in chunks for segment in chunk.segments)
    weighted = sum(chunk.speech_probability * length for chunk, length in zip(chunks, lengths, strict=True))
    gaps = tuple(gap for chunk in chunks for gap in chunk.gaps)
    return replace(chunks[0], segments=segments, gaps=gaps, speech_probability=weighted / max(1, sum(lengths)))


def prompt_text(prompt: str, keywords: Iterable[str]) -> str:
    """The text that precedes the audio: a prompt and then keywords. An engine keeps the end of one that is too long."""
    listed = ", ".join(keywords)
    return " ".join(filter(None, (prompt, f"{listed}." if listed else "")))


def _tokens(segments: Iterable[Segment]) -> Iterator[Token]:
    for segment in segments:
        for each in segment.tokens:
            yield Token(each.utf8.decode("utf-8", "replace"), each.logprob, each.utf8)
