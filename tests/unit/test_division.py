"""Division of an utterance at its pauses into parts that are transcribed at the same time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.audio import RATE
from chatapi.services.transcription.division import PAUSE_FRAMES, SHORTEST_SECONDS, divide
from chatapi.services.transcription.segmenter import DEFAULT, FRAME, TrimmedAudio, trim

SECOND = RATE // FRAME
"""Frames in a second, rounded down."""


def recording(*parts: tuple[float, int]) -> tuple[TrimmedAudio, list[float]]:
    """The speech of a recording of parts of (probability, frames), and the probabilities; its samples are numbered."""
    probabilities = [probability for probability, count in parts for _ in range(count)]
    samples = np.arange(1, len(probabilities) * FRAME + 1, dtype=np.float32)
    regions = trim(samples, probabilities).regions
    # Without the gain that `trim` gives to quiet regions.
    return TrimmedAudio(np.concatenate([samples[each.start : each.end] for each in regions]), regions), probabilities


def divided(parts: int, *speech: tuple[float, int]) -> tuple[TrimmedAudio, list[TrimmedAudio]]:
    audio, probabilities = recording(*speech)
    return audio, divide(audio, probabilities, parts, DEFAULT)


def numbers(audio: TrimmedAudio) -> Sequence[int]:
    """The samples of the recording that the regions name."""
    return np.concatenate([np.arange(each.start + 1, each.end + 1) for each in audio.regions])


def test_utterance_is_divided_in_the_pause_nearest_to_its_middle():
    _, parts = divided(2, (0.9, 100), (0.1, 8), (0.9, 200), (0.1, 8), (0.9, 100), (0.1, 8), (0.9, 150))
    first, second = parts
    assert first.regions[-1].speech_end == 308 * FRAME
    assert first.regions[-1].end == second.regions[0].start == 312 * FRAME
    assert second.regions[0].speech_start == 316 * FRAME


def test_longer_pause_is_better_than_one_nearer_to_the_middle():
    _, (first, _) = divided(2, (0.9, 150), (0.1, 5), (0.9, 60), (0.1, 12), (0.9, 120))
    assert first.regions[-1].speech_end == 215 * FRAME


def test_utterance_is_divided_between_regions_without_the_silence():
    audio, (first, second) = divided(2, (0.9, 200), (0, 100), (0.9, 200))
    assert len(audio.regions) == 2
    assert (first.regions, second.regions) == (audio.regions[:1], audio.regions[1:])


@pytest.mark.parametrize("pause", [PAUSE_FRAMES - 1, 0])
def test_speech_without_a_pause_stays_whole(pause: int):
    audio, parts = divided(2, (0.9, 200), (0.1, pause), (0.9, 200))
    assert [part.regions for part in parts] == [audio.regions]


def test_short_utterance_stays_whole():
    frames = int(SHORTEST_SECONDS * SECOND) - 10
    audio, parts = divided(4, (0.9, frames), (0.1, 8), (0.9, frames))
    assert [part.regions for part in parts] == [audio.regions]


def test_pause_near_an_end_does_not_make_a_part():
    audio, parts = divided(2, (0.9, 40), (0.1, 10), (0.9, 360))
    assert [part.regions for part in parts] == [audio.regions]


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 60)), min_size=1, max_size=12),
    st.integers(1, 8),
)
def test_parts_are_in_order_and_lose_no_speech(speech: list[tuple[int, int]], count: int):
    flat = [part for voiced, silent in speech for part in ((0.9, voiced), (0.05, silent))]
    probabilities = [probability for probability, frames in flat for _ in range(frames)]
    if not trim(np.zeros(len(probabilities) * FRAME, np.float32), probabilities).regions:
        return
    audio, parts = divided(count, *flat)
    assert 1 <= len(parts) <= count
    for part in parts:
        assert part.regions and np.array_equal(part.samples, numbers(part))
    joined = np.concatenate([part.samples for part in parts])
    assert np.all(np.diff(joined) > 0)
    lost = sorted(set(audio.samples.astype(int)) - set(joined.astype(int)))
    # Only silence may be left out, where a region has no speech on one side of a cut.
    assert all(probabilities[(number - 1) // FRAME] < DEFAULT.threshold for number in lost)
