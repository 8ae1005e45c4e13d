"""Understanding speech: a short utterance at once, or a file of any length as it is worked through."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
from anyio.streams.memory import MemoryObjectSendStream

from chatapi.audio import RATE, Audio, Samples, Source, blocks, decode, duration
from chatapi.engines import PLAIN, Segment, SpeechStream, Stop, TranscriptionOptions, VoiceActivityDetector, never
from chatapi.errors import TooLarge, Unprocessable, collapse_exception_group
from chatapi.events import Event, JobProgress, Transcript
from chatapi.observability.metrics import Metrics
from chatapi.runtime.admission import Priority
from chatapi.runtime.workers import Engines, Worker, YieldPolicy
from chatapi.services.transcription import segmenter
from chatapi.services.transcription.segmenter import Trimmed
from chatapi.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 30.0
"""Seconds of the longest file that is heard as one utterance: what Whisper hears at once."""
AHEAD = 1
"""Parts of a file that are cut while the one before them is heard."""


@dataclass(frozen=True)
class UtteranceTranscript:
    """What was understood of an utterance."""

    text: str
    language: str
    start: float
    """Seconds from the start of the audio to the first speech, a little before it."""
    end: float
    """Seconds from the start of the audio to the end of speech."""


@dataclass(frozen=True)
class TranscriptText:
    """What is said in an utterance; empty where there are no words."""

    text: str = ""
    language: str = ""
    certainty: float = 0.0
    """Mean log-probability of what was understood."""


@dataclass(frozen=True)
class TranscriptionRequest:
    """What is to be made of a file."""

    language: str | None = None
    """ISO 639-1 code, or auto; None: as the settings have it."""
    hearing: TranscriptionOptions = PLAIN
    rules: segmenter.SegmentationRules | None = None
    """Each stretch of speech by these rules is heard by itself; None: as much at once as the recogniser hears."""
    longest: float | None = None
    """Seconds of the longest file that is taken; None: any."""


@dataclass(frozen=True)
class TranscribedPart:
    """A part of a file, heard at once."""

    segments: tuple[Segment, ...]
    """What was understood of it; their times count from the file's start."""
    start: float
    """Seconds from the file's start to its first speech."""
    probability: float
    """That there is speech in it, as the detector judges."""
    done: float
    """Seconds of the file that are worked through; of the last passage, all."""


Tell = Callable[[TranscribedPart], Awaitable[None]]


class FileTranscriber:
    """The box's ears."""

    def __init__(self, engines: Engines, settings: Settings, metrics: Metrics) -> None:
        self._vad = engines.vad
        self._asr = engines.asr
        self._settings = settings
        self._metrics = metrics
        self._rules = segmenter.SegmentationRules.of(settings.vad)

    @property
    def rules(self) -> segmenter.SegmentationRules:
        """What counts as speech, as the settings have it."""
        return self._rules

    def language(self, asked: str | None) -> str | None:
        """The language to listen for; None: to be detected. Raises Unprocessable (unknown_language)."""
        chosen = asked or self._settings.asr.language
        known = self._asr.engine.languages
        if chosen == "auto":
            return known[0] if len(known) == 1 else None
        if chosen not in known:
            raise Unprocessable(
                f"the language {chosen!r} is not understood; these are: {', '.join(known)}",
                code="unknown_language",
                details={"param": "language"},
            )
        return chosen

    def check(self, options: TranscriptionRequest) -> None:
        """What can be told before any work. Raises Unprocessable (unknown_language, no_translation)."""
        self.language(options.language)
        if options.hearing.translate and not self._asr.engine.translates:
            raise Unprocessable(
                "the speech recogniser in use cannot translate; a multilingual Whisper does: asr.model=whisper-base",
                code="no_translation",
                details={"param": "model"},
            )

    async def decoded(self, file: Source) -> Audio:
        """A file as 16 kHz mono, within the limits. Raises what `audio.decode` raises."""
        audio = await anyio.to_thread.run_sync(decode, file, self._settings.limits.audio_seconds)
        if audio.damaged:
            log.info("damaged audio packets skipped", extra={"packets": audio.damaged})
        return audio

    async def hear(
        self, audio: Audio, language: str | None = None, priority: Priority = Priority.REQUEST
    ) -> UtteranceTranscript:
        """An utterance, its pauses left out. Raises Unprocessable (no_speech), never guesses."""
        trimmed = await self._trimmed(audio, priority)
        segments = await self._understood(trimmed.samples, language, priority) if trimmed.regions else []
        if not segments:
            raise Unprocessable(f"no speech was heard in the {audio.seconds:.1f} seconds of audio", code="no_speech")
        text = " ".join(segment.text.strip() for segment in segments)
        start = trimmed.regions[0].start / RATE
        return UtteranceTranscript(text, segments[0].language, start, trimmed.speech_end)

    async def words(self, samples: Samples, language: str | None, priority: Priority) -> TranscriptText:
        """What is said in an utterance."""
        segments = await self._understood(samples, language, priority) if len(samples) else []
        if not segments:
            return TranscriptText()
        text = " ".join(segment.text.strip() for segment in segments)
        return TranscriptText(text, segments[0].language, sum(each.logprob for each in segments) / len(segments))

    @asynccontextmanager
    async def follow(
        self, file: Path, language: str | None = None, priority: Priority = Priority.BULK
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """A file of any length: a Transcript for each stretch of speech as it is understood, and how far it is."""
        total = await anyio.to_thread.run_sync(duration, file)
        send, receive = anyio.create_memory_object_stream[TranscribedPart](AHEAD)

        async def produce() -> None:
            async with send:
                await self.work_through(file, TranscriptionRequest(language), send.send, priority)

        async def events() -> AsyncIterator[Event]:
            async for transcribed_part in receive:
                for each in transcribed_part.segments:
                    yield Transcript(each.text.strip(), True, each.start, each.end, each.language)
                yield JobProgress(transcribed_part.done, max(total, transcribed_part.done))

        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(produce)
                yield events()
                group.cancel_scope.cancel()
        except Exception as error:
            raise collapse_exception_group(error) from None

    async def work_through(
        self, source: Source, options: TranscriptionRequest, tell: Tell, priority: Priority = Priority.REQUEST
    ) -> None:
        """Tell every passage of a file of any length as it is understood, the last one with all of it done.

        Raises what `audio.decode` and `check` raise, TooLarge (audio_too_long), and what engines raise, all of it
        perhaps within an ExceptionGroup.
        """
        self.check(options)
        short = None if options.rules else await anyio.to_thread.run_sync(_short, source)
        if short is not None:
            await tell(await self._whole(short, options, priority))
            return
        send, receive = anyio.create_memory_object_stream[tuple[Trimmed, float]](AHEAD)
        room = anyio.Semaphore(self._asr.admission.slots)

        async def hear(part: Trimmed, seconds: float, before: anyio.Event, told: anyio.Event) -> None:
            try:
                transcribed_part = await self._passage(part, seconds, options, priority)
            finally:
                # Those heard at the same time are told in their order, and of their errors only the first.
                await before.wait()
            await tell(transcribed_part)
            told.set()
            room.release()

        async with anyio.create_task_group() as group, receive:
            group.start_soon(self._cut, source, options, send, priority)
            before = anyio.Event()
            before.set()
            async for part, seconds in receive:
                await room.acquire()
                told = anyio.Event()
                group.start_soon(hear, part, seconds, before, told)
                before = told

    async def _whole(self, audio: Audio, options: TranscriptionRequest, priority: Priority) -> TranscribedPart:
        return await self._passage(await self._trimmed(audio, priority), audio.seconds, options, priority)

    async def _passage(
        self, part: Trimmed, seconds: float, options: TranscriptionRequest, priority: Priority
    ) -> TranscribedPart:
        """What was understood of a part, after which `seconds` of the file are done."""
        if not part.regions:
            return TranscribedPart((), seconds, 0.0, seconds)
        found = await self._understood(part.samples, options.language, priority, options.hearing)
        frames = sum(region.end - region.start for region in part.regions)
        speech = sum(region.probability * (region.end - region.start) for region in part.regions) / frames
        segments = tuple(segment.timed(part.original) for segment in found)
        return TranscribedPart(segments, part.regions[0].start / RATE, speech, seconds)

    async def _cut(
        self,
        source: Source,
        options: TranscriptionRequest,
        send: MemoryObjectSendStream[tuple[Trimmed, float]],
        priority: Priority,
    ) -> None:
        """A file's speech in parts as large as are heard at once, each with the seconds done after it."""
        sound = _CountedAudio(source, options.longest)
        rules = options.rules or self._rules
        told = segmenter.stretches(sound.blocks(), _SharedDetector(self._vad, priority), rules)
        parts = segmenter.packed(told, 0 if options.rules else segmenter.LONGEST)
        async with send:
            try:
                while (part := await anyio.to_thread.run_sync(next, parts, None)) is not None:
                    await send.send((part, part.regions[-1].end / RATE))
                await send.send((Trimmed(np.zeros(0, np.float32), ()), sound.seconds))
            finally:
                parts.close()
                told.close()

    async def _trimmed(self, audio: Audio, priority: Priority) -> Trimmed:
        rules = self._rules
        return await self._vad.call(
            lambda engine: segmenter.trim(audio.samples, engine.probabilities(audio.samples), rules), priority
        )

    async def _understood(
        self, samples: Samples, language: str | None, priority: Priority, hearing: TranscriptionOptions = PLAIN
    ) -> list[Segment]:
        """The segments with words in them."""
        since, spoken = time.monotonic(), self.language(language)
        async with self._asr.stream(
            lambda engine, stop: engine.transcribe(samples, spoken, stop, hearing), priority, YieldPolicy.RESTART
        ) as found:
            segments = [segment async for segment in found if segment.text.strip()]
        self._metrics.factors.labels("asr").observe((time.monotonic() - since) / (len(samples) / RATE))
        return segments


class _CountedAudio:
    """A file's blocks, counted. Raises TooLarge (audio_too_long) past `longest` seconds."""

    def __init__(self, source: Source, longest: float | None) -> None:
        self._source = source
        self._longest = longest
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Of the file, so far."""
        return self._samples / RATE

    def blocks(self) -> Iterator[Samples]:
        for block in blocks(self._source):
            # What is thrown away here is the thread's own generator, once nobody wants the rest.
            anyio.from_thread.check_cancelled()
            self._samples += len(block)
            if self._longest is not None and self.seconds > self._longest:
                raise too_long(self._longest)
            yield block


def too_long(longest: float) -> TooLarge:
    """What a file is refused with that lasts longer than so many seconds."""
    return TooLarge(
        f"the audio is longer than {longest:g} seconds; `chatapi transcribe` takes files of any length",
        code="audio_too_long",
        details={"limit_seconds": longest, "param": "file"},
    )


class _SharedDetector:
    """A detector that is held for no longer than a part of a file takes; for threads of the event loop."""

    def __init__(self, worker: Worker[VoiceActivityDetector], priority: Priority) -> None:
        self._worker = worker
        self._priority = priority

    def listener(self) -> SpeechStream:
        return self._worker.engine.listener()

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        return iter(anyio.from_thread.run(self._judged, samples))

    async def _judged(self, samples: Samples) -> list[float]:
        return await self._worker.call(lambda engine: list(engine.probabilities(samples)), self._priority)


def _short(source: Source) -> Audio | None:
    """All of a file that is short enough to be heard at once."""
    try:
        return decode(source, AT_ONCE)
    except TooLarge:
        return None
