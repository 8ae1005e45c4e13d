"""Streaming transcription: a stream has the speech regions of the whole recording, whatever its block size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Samples
from chatapi.audio.pcm import Pcm
from chatapi.errors import BadInput, Unprocessable
from chatapi.events import Transcript
from chatapi.services.transcription.segmenter import SegmentationRules, SpeechRegionFinder, regions
from chatapi.services.transcription.streaming import StreamingTranscriber
from conftest import RunAppliance, tone
from wyoming_peer import pcm as pcm_bytes

CLIP = np.concatenate([part for length in (0.4, 2.0, 0.7) for part in (np.zeros(RATE, np.float32), tone(length))])


async def stream(blocks: list[Samples]) -> AsyncIterator[Samples]:
    for block in blocks:
        yield block


async def transcribed(appliance: Appliance, samples: Samples, size: int) -> list[Transcript]:
    blocks = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [transcript async for transcript in appliance.streaming_transcriber.transcribe(stream(blocks))]


@pytest.mark.anyio
async def test_transcripts_do_not_depend_on_the_block_size(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        whole = await transcribed(appliance, CLIP, len(CLIP))
        assert [(round(each.start, 1), round(each.end, 1)) for each in whole] == [(0.8, 1.4), (2.2, 4.4), (5.2, 6.1)]
        for size in (160, 1000, 4097):
            assert await transcribed(appliance, CLIP, size) == whole


@pytest.mark.anyio
async def test_silence_has_no_transcript(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        assert await transcribed(appliance, np.zeros(3 * RATE, np.float32), 1000) == []
        assert await transcribed(appliance, CLIP[:0], 1000) == []


@pytest.mark.anyio
async def test_speech_without_a_pause_is_cut_into_regions(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        minutes = [tone(10.0)] * 12
        found = [each async for each in appliance.streaming_transcriber.transcribe(stream(minutes))]
        assert all(each.end - each.start < 29 for each in found) and found[-1].end == pytest.approx(120, abs=0.1)


@pytest.mark.anyio
async def test_unsupported_language_is_rejected_before_any_audio(fake_appliance: RunAppliance) -> None:
    async with fake_appliance() as appliance:
        transcriber: StreamingTranscriber = appliance.streaming_transcriber
        with pytest.raises(Unprocessable, match="xx"):
            async for _ in transcriber.transcribe(stream([]), "xx"):
                raise AssertionError


@given(st.lists(st.sampled_from([0.1, 0.4, 0.6, 0.9]), max_size=300), st.integers(1, 4))
def test_samples_of_open_regions_are_never_discarded(probabilities: list[float], max_seconds: int) -> None:
    rules = SegmentationRules(max_seconds=float(max_seconds))
    finder, found, needed = SpeechRegionFinder(rules), [], 0
    for probability in probabilities:
        for region in finder.feed(probability):
            assert region.start >= needed
            found.append(region)
        assert finder.needed >= needed
        needed = finder.needed
    for region in finder.finish():
        assert region.start >= needed
        found.append(region)
    assert found == list(regions(probabilities, rules))


@pytest.mark.parametrize(("width", "tolerance"), [(1, 1 / 80), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 7, 999])
def test_raw_audio_does_not_depend_on_the_block_size(width: int, tolerance: float, channels: int, size: int) -> None:
    samples = tone(0.02, level=0.9)
    data, pcm = pcm_bytes(samples, width, channels), Pcm(RATE, width, channels)
    parts = [pcm.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert np.abs(np.concatenate([*parts, pcm.finish()]) - samples).max() < tolerance


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_resampled_raw_audio_keeps_its_pitch_and_length(rate: int) -> None:
    pcm = Pcm(rate, 2, 1)
    data = pcm_bytes(tone(1.0, rate=rate), 2, 1)
    found = np.concatenate([*(pcm.feed(data[at : at + 777]) for at in range(0, len(data), 777)), pcm.finish()])
    assert abs(len(found) - RATE) < 20
    assert np.abs(found - tone(1.0)[: len(found)])[200:-200].max() < 0.02


def test_raw_audio_that_ends_within_a_frame_is_rejected() -> None:
    pcm = Pcm(RATE, 2, 2)
    assert len(pcm.feed(b"12345")) == 1
    with pytest.raises(BadInput, match="1 bytes of a frame of 4"):
        pcm.finish()
