"""Transcription of long recordings, whose chunks are transcribed in parallel."""

from __future__ import annotations

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
from chatapi.errors import EngineFailed, collapse_exception_group
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


async def transcribed(engine: OutOfOrderTranscriber) -> list[TranscribedChunk]:
    chunks: list[TranscribedChunk] = []

    async def send(chunk: TranscribedChunk) -> None:
        chunks.append(chunk)

    async with transcriber(engine) as service:
        await service.transcribe_file(FILE, TranscriptionRequest(), send)
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
