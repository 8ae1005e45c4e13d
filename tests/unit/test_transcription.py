"""Transcription of long recordings, whose chunks are transcribed in parallel."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, Segment, Stop, TranscriptionOptions, never
from chatapi.engines.fake import FakeVoiceActivityDetector
from chatapi.errors import EngineFailed, TooLarge, collapse_exception_group
from chatapi.observability.metrics import Metrics
from chatapi.runtime.workers import Worker
from chatapi.services.transcription.transcriber import FileTranscriber, TranscribedChunk, TranscriptionRequest
from chatapi.settings import Settings
from conftest import encode_audio, tone

pytestmark = pytest.mark.anyio
PAUSE = np.zeros(2 * RATE, np.float32)
LENGTHS = (9, 12, 20, 15)
"""Seconds of speech between two pauses; any two of them exceed the longest chunk."""
FILE = encode_audio(np.concatenate([part for each in LENGTHS for part in (tone(each), PAUSE)]), RATE, "pcm_s16le")


class OutOfOrderTranscriber:
    """With two slots, finishes the first chunk only after the second one."""

    languages = ("en",)
    is_warm = True
    translates = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.second = threading.Event()
        self.max_running, self._running = 0, 0

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        del language, stop, options
        self._running += 1
        self.max_running = max(self.max_running, self._running)
        seconds = len(samples) / RATE
        if int(seconds) != LENGTHS[0]:
            self.second.set()
        elif self.slots > 1 and not self.second.wait(20):
            raise EngineFailed("the second chunk never came")
        self._running -= 1
        yield Segment(f"{seconds:.0f}", 0.0, seconds, language="en")


class FailingTranscriber(OutOfOrderTranscriber):
    """Fails with two chunks at the same time."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._both = threading.Barrier(slots, timeout=20)

    def transcribe(self, samples: Samples, *unused: Any, **options: Any) -> Iterator[Segment]:
        self._both.wait()
        raise EngineFailed(f"{len(samples) // RATE} seconds are too much")


@asynccontextmanager
async def transcriber(engine: OutOfOrderTranscriber) -> AsyncIterator[FileTranscriber]:
    settings = Settings()
    vad: Worker[Any] = Worker("vad", lambda: FakeVoiceActivityDetector(settings, []))
    asr: Worker[Any] = Worker("asr", lambda: engine, engine.slots)
    await vad.open()
    await asr.open()
    try:
        engines: Any = SimpleNamespace(vad=vad, asr=asr)
        yield FileTranscriber(engines, settings, Metrics())
    finally:
        await asr.aclose()
        await vad.aclose()


async def transcribed(engine: OutOfOrderTranscriber, file: bytes = FILE) -> list[TranscribedChunk]:
    chunks: list[TranscribedChunk] = []

    async def send(chunk: TranscribedChunk) -> None:
        chunks.append(chunk)

    async with transcriber(engine) as service:
        await service.transcribe_file(file, TranscriptionRequest(), send)
    return chunks


@pytest.mark.parametrize("slots", [1, 2])
async def test_chunks_run_in_parallel_up_to_the_slots_and_are_sent_in_order(slots: int) -> None:
    engine = OutOfOrderTranscriber(slots)
    chunks = await transcribed(engine)
    assert engine.max_running == slots
    starts = [segment.start for chunk in chunks for segment in chunk.segments]
    assert len(starts) == len(LENGTHS) and starts == sorted(starts)
    processed = [chunk.processed for chunk in chunks]
    assert processed == sorted(processed)
    assert processed[-1] == sum(LENGTHS) + 2 * len(LENGTHS)


async def test_first_error_is_raised_when_two_chunks_fail_together() -> None:
    with pytest.raises(BaseException) as caught:
        await transcribed(FailingTranscriber(2))
    error = collapse_exception_group(caught.value)
    assert isinstance(error, EngineFailed) and str(LENGTHS[0]) in error.message


class CountedFile(io.BytesIO):
    """Counts how often it is read as a whole."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


@pytest.mark.parametrize("seconds", [5, 40])
async def test_recording_of_any_length_is_decoded_once(seconds: int) -> None:
    file = CountedFile(encode_audio(tone(seconds), RATE, "pcm_s16le"))
    chunks: list[TranscribedChunk] = []

    async def send(chunk: TranscribedChunk) -> None:
        chunks.append(chunk)

    async with transcriber(OutOfOrderTranscriber(1)) as service:
        await service.transcribe_file(file, TranscriptionRequest(), send)
    assert file.reads == 1
    assert chunks[-1].processed == pytest.approx(seconds, abs=0.01)


async def test_recording_beyond_its_limit_is_rejected_though_it_is_short() -> None:
    file = encode_audio(tone(5), RATE, "pcm_s16le")

    async def send(chunk: TranscribedChunk) -> None:
        raise AssertionError(chunk)

    async with transcriber(OutOfOrderTranscriber(1)) as service:
        with pytest.raises(TooLarge) as caught:
            await service.transcribe_file(file, TranscriptionRequest(max_seconds=4), send)
    assert caught.value.code == "audio_too_long"


class PartsTranscriber(OutOfOrderTranscriber):
    """Transcribes an utterance of two parts; with two slots, the first part only after the second one has begun."""

    def __init__(self, slots: int, languages: tuple[str, ...] = ("en",)) -> None:
        super().__init__(slots)
        self.languages = languages  # type: ignore[assignment]
        self.lengths: list[float] = []

    def transcribe(self, samples: Samples, *unused: Any, **options: Any) -> Iterator[Segment]:
        self.lengths.append(len(samples) / RATE)
        if len(self.lengths) == 2:
            self.second.set()
        elif self.slots > 1 and self.languages == ("en",) and not self.second.wait(60):
            raise EngineFailed("the second part never came")
        yield Segment(f"{len(samples) / RATE:.1f}", 0.0, len(samples) / RATE, language="en")


UTTERANCE = encode_audio(np.concatenate([tone(7), np.zeros(3 * RATE // 10, np.float32), tone(8)]), RATE, "pcm_s16le")
"""An utterance with a pause of 0.3 s, which is one speech region."""


@pytest.mark.parametrize("slots", [1, 2])
async def test_utterance_is_transcribed_in_parts_at_once_where_slots_are_free(slots: int) -> None:
    engine = PartsTranscriber(slots)
    chunks = await transcribed(engine, UTTERANCE)
    segments = [segment for chunk in chunks for segment in chunk.segments]
    assert len(chunks) == 1
    assert len(segments) == len(engine.lengths) == slots
    assert sum(engine.lengths) == pytest.approx(15.3, abs=0.1)
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts) and starts[-1] == pytest.approx(7.2 if slots > 1 else 0, abs=0.2)


async def test_utterance_in_an_unknown_language_is_transcribed_whole() -> None:
    engine = PartsTranscriber(2, ("en", "de"))
    await transcribed(engine, UTTERANCE)
    assert len(engine.lengths) == 1


async def test_question_is_transcribed_in_parts_and_keeps_the_order_of_its_words() -> None:
    async with transcriber(PartsTranscriber(2)) as service:
        found = await service.transcribe_utterance(await service.decode_file(io.BytesIO(UTTERANCE)))
    first, second = map(float, found.text.split())
    assert (first, second) == (pytest.approx(7.15, abs=0.2), pytest.approx(8.15, abs=0.2))
    assert found.start == 0 and found.end == pytest.approx(15.3, abs=0.1)
