"""Sound that is still being said: cut into the same stretches as a whole recording, whatever blocks it comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.appliance import Appliance
from chatapi.audio import RATE, Pcm, Samples
from chatapi.errors import BadInput, Unprocessable
from chatapi.events import Transcript
from chatapi.services.transcription.segmenter import SegmentationRules, SpeechRegionFinder, regions
from chatapi.services.transcription.streaming import StreamingTranscriber
from conftest import Running, tone
from wyoming_peer import pcm

CLIP = np.concatenate([part for length in (0.4, 2.0, 0.7) for part in (np.zeros(RATE, np.float32), tone(length))])


async def given_in(blocks: list[Samples]) -> AsyncIterator[Samples]:
    for block in blocks:
        yield block


async def dictated(appliance: Appliance, samples: Samples, size: int) -> list[Transcript]:
    blocks = [samples[at : at + size] for at in range(0, len(samples), size)]
    return [found async for found in appliance.dictation.hear(given_in(blocks))]


@pytest.mark.anyio
async def test_the_stretches_do_not_depend_on_the_blocks(echo: Running) -> None:
    async with echo() as appliance:
        whole = await dictated(appliance, CLIP, len(CLIP))
        assert [(round(each.start, 1), round(each.end, 1)) for each in whole] == [(0.8, 1.4), (2.2, 4.4), (5.2, 6.1)]
        for size in (160, 1000, 4097):
            assert await dictated(appliance, CLIP, size) == whole


@pytest.mark.anyio
async def test_silence_has_no_words(echo: Running) -> None:
    async with echo() as appliance:
        assert await dictated(appliance, np.zeros(3 * RATE, np.float32), 1000) == []
        assert await dictated(appliance, CLIP[:0], 1000) == []


@pytest.mark.anyio
async def test_an_hour_of_speech_without_a_pause_is_held_in_no_memory(echo: Running) -> None:
    async with echo() as appliance:
        minutes = [tone(10.0)] * 12
        found = [each async for each in appliance.dictation.hear(given_in(minutes))]
        assert all(each.end - each.start < 29 for each in found) and found[-1].end == pytest.approx(120, abs=0.1)


@pytest.mark.anyio
async def test_a_language_that_is_not_understood_is_said_before_any_sound(echo: Running) -> None:
    async with echo() as appliance:
        ability: StreamingTranscriber = appliance.dictation
        with pytest.raises(Unprocessable, match="xx"):
            async for _ in ability.hear(given_in([]), "xx"):
                raise AssertionError


@given(st.lists(st.sampled_from([0.1, 0.4, 0.6, 0.9]), max_size=300), st.integers(1, 4))
def test_what_is_needed_is_never_forgotten(probabilities: list[float], longest: int) -> None:
    rules = SegmentationRules(longest=float(longest))
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


@pytest.mark.parametrize(("width", "least"), [(1, 1 / 80), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("size", [1, 7, 999])
def test_raw_sound_is_the_same_however_it_is_split(width: int, least: float, channels: int, size: int) -> None:
    samples = tone(0.02, level=0.9)
    data, decoder = pcm(samples, width, channels), Pcm(RATE, width, channels)
    parts = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
    assert np.abs(np.concatenate([*parts, decoder.finish()]) - samples).max() < least


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_raw_sound_of_another_rate_keeps_its_pitch_and_length(rate: int) -> None:
    pcm = Pcm(rate, 2, 1)
    data = pcm(tone(1.0, rate=rate), 2, 1)
    found = np.concatenate([*(pcm.feed(data[at : at + 777]) for at in range(0, len(data), 777)), pcm.finish()])
    assert abs(len(found) - RATE) < 20
    assert np.abs(found - tone(1.0)[: len(found)])[200:-200].max() < 0.02


def test_raw_sound_that_ends_within_a_frame_is_damaged() -> None:
    pcm = Pcm(RATE, 2, 2)
    assert len(pcm.feed(b"12345")) == 1
    with pytest.raises(BadInput, match="1 bytes of a frame of 4"):
        pcm.finish()
