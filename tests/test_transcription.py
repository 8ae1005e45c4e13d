"""Long recordings, of which parts are heard at the same time."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.engines import PLAIN, Segment, Stop, TranscriptionOptions, never
from chatapi.engines.fake import FakeVoiceActivityDetector
from chatapi.errors import EngineFailed, collapse_exception_group
from chatapi.observability.metrics import Metrics
from chatapi.runtime.workers import Worker
from chatapi.services.transcription.transcriber import FileTranscriber, TranscribedPart, TranscriptionRequest
from chatapi.settings import Settings
from conftest import tone, written

pytestmark = pytest.mark.anyio
PAUSE = np.zeros(2 * RATE, np.float32)
LENGTHS = (9, 12, 20, 15)
"""Seconds of what is said between two pauses; each is too much to be heard together with the next."""
FILE = written(np.concatenate([part for each in LENGTHS for part in (tone(each), PAUSE)]), RATE, "pcm_s16le")


class Late:
    """Understands the first of two sounds only once the second was understood, where it has two slots."""

    languages = ("en",)
    translates = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.second = threading.Event()
        self.most, self._now = 0, 0

    def transcribe(
        self, samples: Samples, language: str | None = None, stop: Stop = never, hearing: TranscriptionOptions = PLAIN
    ) -> Iterator[Segment]:
        del language, stop, hearing
        self._now += 1
        self.most = max(self.most, self._now)
        seconds = len(samples) / RATE
        if int(seconds) != LENGTHS[0]:
            self.second.set()
        elif self.slots > 1 and not self.second.wait(20):
            raise EngineFailed("the second sound never came")
        self._now -= 1
        yield Segment(f"{seconds:.0f}", 0.0, seconds, language="en")


class Failing(Late):
    """Fails with two sounds at the same time."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._both = threading.Barrier(slots, timeout=20)

    def transcribe(self, samples: Samples, *unused: Any) -> Iterator[Segment]:
        self._both.wait()
        raise EngineFailed(f"{len(samples) // RATE} seconds are too much")


@asynccontextmanager
async def ears(engine: Late) -> AsyncIterator[FileTranscriber]:
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


async def heard(engine: Late) -> list[TranscribedPart]:
    found: list[TranscribedPart] = []

    async def tell(transcribed_part: TranscribedPart) -> None:
        found.append(transcribed_part)

    async with ears(engine) as transcription:
        await transcription.work_through(FILE, TranscriptionRequest(), tell)
    return found


@pytest.mark.parametrize("slots", [1, 2])
async def test_parts_are_heard_at_once_as_far_as_there_are_slots_and_told_in_their_order(slots: int) -> None:
    engine = Late(slots)
    found = await heard(engine)
    assert engine.most == slots
    starts = [segment.start for transcribed_part in found for segment in transcribed_part.segments]
    assert len(starts) == len(LENGTHS) and starts == sorted(starts)
    assert [transcribed_part.done for transcribed_part in found] == sorted(
        transcribed_part.done for transcribed_part in found
    )
    assert found[-1].done == sum(LENGTHS) + 2 * len(LENGTHS)


async def test_of_two_parts_that_fail_at_once_the_first_is_told() -> None:
    with pytest.raises(BaseException) as caught:
        await heard(Failing(2))
    error = collapse_exception_group(caught.value)
    assert isinstance(error, EngineFailed) and str(LENGTHS[0]) in error.message
