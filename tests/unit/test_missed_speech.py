"""Speech that a transcript of joined audio leaves out: which regions count, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chatapi.audio import RATE, Samples
from chatapi.engines import DEFAULT_OPTIONS, Segment, Stop, TranscriptionOptions, Word, never
from chatapi.engines.fake import FakeVoiceActivityDetector
from chatapi.observability.metrics import Metrics
from chatapi.runtime.workers import Worker
from chatapi.services.transcription.missed_speech import merged, missed
from chatapi.services.transcription.parts import RecordingPart
from chatapi.services.transcription.segmenter import SpeechRegion, TrimmedAudio
from chatapi.services.transcription.transcriber import FileTranscriber, TranscribedChunk, TranscriptionRequest
from chatapi.services.transcription.transcript_documents import part_document
from chatapi.settings import Settings
from conftest import encode_audio, tone

PAD = RATE // 5
PAUSE = np.zeros(RATE, np.float32)
FILE = encode_audio(np.concatenate([tone(3), PAUSE, tone(2), PAUSE, tone(4)]), RATE, "pcm_s16le")
"""Three stretches of speech: from 0, 4 and 7 s on."""


def region(start: float, seconds: float, probability: float = 0.9) -> SpeechRegion:
    first, last = round(start * RATE), round((start + seconds) * RATE)
    return SpeechRegion(first - PAD, last + PAD, last, probability, first)


def part(*regions: SpeechRegion) -> TrimmedAudio:
    samples = [np.full(each.end - each.start, number, np.float32) for number, each in enumerate(regions)]
    return TrimmedAudio(np.concatenate(samples), regions)


def test_a_region_without_a_word_is_missed_and_has_its_own_audio() -> None:
    audio = part(region(1, 2), region(5, 1), region(8, 1))
    words = (Word("one", 1.0, 1.4), Word("three", 8.2, 8.9))
    [found] = missed([Segment("one three", 1.0, 8.9, words=words)], audio)
    assert found.regions == audio.regions[1:2]
    assert set(found.samples) == {1.0} and len(found.samples) == RATE + 2 * PAD
    # Without words, the segment itself reaches over the region.
    assert list(missed([Segment("one three", 1.0, 8.9)], audio)) == []


@pytest.mark.parametrize("second", [region(5, 0.4), region(5, 1, 0.7)])
def test_short_and_unlikely_speech_is_not_missed(second: SpeechRegion) -> None:
    assert list(missed([Segment("one", 1.0, 2.0)], part(region(1, 2), second))) == []


def test_a_part_of_one_region_and_many_regions_are_bounded() -> None:
    assert missed([], part(region(1, 2))) == []
    audio = part(*(region(5 * number, 1) for number in range(9)))
    found = missed([], audio)
    # Each is in one of them, with its own audio.
    assert [len(each.regions) for each in found] == [3, 3, 3]
    assert sum((each.regions for each in found), ()) == audio.regions
    assert [set(each.samples) for each in found] == [{0.0, 1.0, 2.0}, {3.0, 4.0, 5.0}, {6.0, 7.0, 8.0}]


def test_segments_are_merged_by_time() -> None:
    first, second, third = (Segment(str(at), at, at + 0.5) for at in (1.0, 2.0, 3.0))
    assert merged((first, third), (second,)) == (first, second, third)


class SkippingTranscriber:
    """Transcribes the first and the last of three joined stretches, and one by itself as `alone`."""

    languages = ("en",)
    is_warm = True
    translates, slots = True, 1

    def __init__(self, alone: str) -> None:
        self._alone = alone
        self.asked: list[float] = []

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        del stop, options
        seconds = len(samples) / RATE
        self.asked.append(seconds)
        assert language == "en"
        if seconds < 4:
            yield Segment(self._alone, 0.2, seconds - 0.2, language="en")
        else:
            words = (Word("first", 0.3, 0.9), Word("last", seconds - 1.5, seconds - 0.5))
            yield Segment("first last", 0.3, seconds - 0.5, language="en", words=words)


async def transcribed(
    alone: str, kind: type[SkippingTranscriber] = SkippingTranscriber, **options: Any
) -> tuple[TranscribedChunk, SkippingTranscriber]:
    engine, chunks = kind(alone), list[TranscribedChunk]()
    asr = Worker("asr", lambda: engine)
    vad = Worker("vad", lambda: FakeVoiceActivityDetector(Settings(), []))
    transcriber = FileTranscriber(SimpleNamespace(vad=vad, asr=asr), Settings(), Metrics())  # type: ignore[arg-type]

    async def collect(chunk: TranscribedChunk) -> None:
        chunks.append(chunk)

    try:
        await vad.open()
        await asr.open()
        request = TranscriptionRequest("en", TranscriptionOptions(**options), timed=True)
        await transcriber.transcribe_file(FILE, request, collect)
    finally:
        await vad.aclose()
        await asr.aclose()
    [chunk] = chunks
    return chunk, engine


@pytest.mark.anyio
async def test_missed_speech_is_transcribed_by_itself() -> None:
    chunk, engine = await transcribed("second")
    assert [each.text for each in chunk.segments] == ["first", "second", "last"] and chunk.gaps == ()
    assert 4.0 <= chunk.segments[1].start < chunk.segments[1].end <= 6.1
    assert len(engine.asked) == 2


@pytest.mark.anyio
async def test_missed_speech_without_words_is_a_gap() -> None:
    chunk, _ = await transcribed(" ")
    assert [each.text for each in chunk.segments] == ["first", "last"]
    [(start, end)] = chunk.gaps
    assert start == pytest.approx(4, abs=0.2) and end == pytest.approx(6, abs=0.2)
    document = part_document([chunk], RecordingPart(np.zeros(1, np.float32), 10 * RATE, last=True))
    [gap] = document["gaps"]
    assert gap == {"start": pytest.approx(start + 10, abs=0.01), "end": pytest.approx(end + 10, abs=0.01),
                   "reason": "no_words"}  # fmt: skip


@pytest.mark.anyio
async def test_translations_are_not_completed() -> None:
    chunk, engine = await transcribed("second", translate=True)
    assert [each.text for each in chunk.segments] == ["first", "last"] and len(engine.asked) == 1


class SilentTranscriber(SkippingTranscriber):
    """Finds no words in anything."""

    def transcribe(
        self,
        samples: Samples,
        language: str | None = None,
        stop: Stop = never,
        options: TranscriptionOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Segment]:
        del language, stop, options
        self.asked.append(len(samples) / RATE)
        return iter(())


@pytest.mark.anyio
async def test_speech_without_any_word_is_a_gap_and_is_not_tried_again() -> None:
    chunk, engine = await transcribed("", SilentTranscriber)
    assert chunk.segments == () and len(engine.asked) == 1
    assert [round(start) for start, _ in chunk.gaps] == [0, 4, 7]
