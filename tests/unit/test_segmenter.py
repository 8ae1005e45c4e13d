"""Segmentation of audio into speech regions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.audio import RATE
from chatapi.engines import Segment, Word
from chatapi.services.transcription.segmenter import (
    DEFAULT,
    FRAME,
    MOST_GAIN,
    SegmentationRules,
    SpeechRegion,
    pack,
    regions,
    stream_regions,
    trim,
)
from chatapi.settings import VadSettings
from conftest import tone

PAD = 7
"""Frames of the default padding of 200 ms."""


def frames(region: SpeechRegion) -> tuple[int, int, int]:
    return region.start // FRAME, region.end // FRAME, region.speech_end // FRAME


def find(*parts: tuple[float, int], rules: SegmentationRules = DEFAULT) -> list[tuple[int, int, int]]:
    """The regions, in frames, of parts of (probability, frames)."""
    return [frames(region) for region in regions(itertools.chain(*([p] * n for p, n in parts)), rules)]


def test_silence_has_no_speech():
    assert find((0.02, 500)) == []
    assert find() == []


def test_region_is_padded_before_and_after_the_speech():
    assert find((0, 50), (0.9, 20), (0, 50)) == [(50 - PAD, 70 + PAD, 70)]


def test_speech_from_the_first_sample_is_kept_whole():
    assert find((0.9, 20), (0, 50)) == [(0, 20 + PAD, 20)]


def test_speech_up_to_the_last_sample_is_kept_whole():
    assert find((0, 50), (0.9, 20)) == [(50 - PAD, 70, 70)]


def test_click_is_not_speech():
    assert find((0, 50), (0.95, 2), (0, 50)) == []


def test_click_after_speech_does_not_extend_the_region():
    assert find((0, 50), (0.9, 20), (0, 30), (0.9, 2), (0, 50)) == [(50 - PAD, 70 + PAD, 70)]


def test_speech_continues_slightly_below_the_threshold():
    assert find((0, 50), (0.9, 10), (0.4, 30), (0, 50)) == [(50 - PAD, 90 + PAD, 90)]
    assert find((0, 50), (0.4, 40), (0, 50)) == []


def test_only_a_long_pause_ends_a_region():
    assert len(find((0.9, 20), (0, 13), (0.9, 20))) == 1
    assert find((0.9, 20), (0, 14), (0.9, 20)) == [(0, 27, 20), (27, 54, 54)]


def test_region_is_yielded_as_soon_as_its_pause_is_long_enough():
    frame = itertools.count()
    source = (0.9 if next(frame) < 20 else 0.0 for _ in itertools.count())
    assert frames(next(regions(source))) == (0, 27, 20)
    assert next(frame) == 20 + 14


def test_long_speech_is_cut_where_speech_is_least_likely():
    one, two = find((0.9, 600), (0.6, 6), (0.9, 600))
    assert one[0] == 0
    assert 600 <= one[1] <= 606
    assert two[0] == one[1]
    assert two[1] == 1206


def test_long_speech_is_cut_at_a_pause_without_loss():
    one, two = find((0.9, 600), (0, 10), (0.9, 600))
    assert 600 <= one[1] <= 610
    assert one[2] <= one[1]
    assert two == (one[1], 1210, 1210)


def test_rules_follow_the_settings():
    rules = SegmentationRules.of(VadSettings(threshold=0.8, min_speech_ms=320, pad_ms=0))
    assert find((0.7, 100), rules=rules) == []
    assert find((0.9, 9), (0, 20), rules=rules) == []
    assert find((0, 20), (0.9, 10), (0, 20), rules=rules) == [(20, 30, 30)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300)), max_size=12),
    st.builds(
        SegmentationRules,
        threshold=st.floats(0.2, 0.9),
        min_speech_ms=st.integers(0, 400),
        pad_ms=st.integers(0, 500),
        max_seconds=st.floats(3, 28),
    ),
)
def test_regions_are_ordered_bounded_and_contain_all_clear_speech(parts, rules):
    probabilities = np.repeat([p for p, _ in parts], [n for _, n in parts]) if parts else np.zeros(0)
    spans = [frames(region) for region in regions(probabilities.tolist(), rules)]
    edges = [edge for start, end, _ in spans for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(probabilities) and start <= speech <= end for start, end, speech in spans)
    assert all((end - start) * FRAME <= rules.max_seconds * RATE for start, end, _ in spans)
    covered = np.zeros(len(probabilities), bool)
    for start, end, _ in spans:
        covered[start:end] = True
    loud = np.flatnonzero(probabilities >= rules.threshold)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1) + 1) if len(loud) else []
    assert all(covered[run].all() for run in runs if len(run) >= rules.min_speech_frames)


def numbered(seconds: float) -> np.ndarray:
    """Samples whose value is the number of their frame."""
    return (np.arange(int(seconds * RATE)) // FRAME).astype(np.float32)


def test_trim_joins_the_regions_and_maps_times_back():
    samples = numbered(20)
    trimmed = trim(samples, [0.9 if 300 <= f < 350 or 400 <= f < 450 else 0.0 for f in range(625)])
    assert len(trimmed.samples) == (64 + 64) * FRAME
    assert trimmed.samples[0] == 293
    assert trimmed.samples[64 * FRAME] == 393
    assert trimmed.speech_end == 450 * FRAME / RATE
    assert trimmed.original(0) == 293 * FRAME / RATE
    assert trimmed.original(70 * FRAME / RATE) == pytest.approx(399 * FRAME / RATE)


@pytest.mark.parametrize(("below", "joined"), [(6, 6), (27, 10), (39, 10), (50, 50 - 20 * math.log10(MOST_GAIN))])
def test_quiet_speech_beside_loud_speech_is_amplified(below: float, joined: float) -> None:
    loud = tone(2, 300, level=0.5)
    quiet = loud * np.float32(10 ** (-below / 20))
    pause = np.zeros(RATE, np.float32)
    trimmed = trim(np.concatenate([loud, pause, quiet]), [0.9] * 62 + [0.0] * 32 + [0.9] * 62)
    assert len(trimmed.regions) == 2
    ends = [np.sqrt(np.mean(part**2)) for part in (trimmed.samples[:RATE], trimmed.samples[-RATE:])]
    assert 20 * np.log10(ends[0] / ends[1]) == pytest.approx(joined, abs=0.3)


def test_quiet_speech_alone_stays_as_it_is() -> None:
    quiet = tone(2, 300, level=0.01)
    assert np.array_equal(trim(quiet, [0.9] * 63).samples, quiet)


def test_start_at_a_joint_maps_after_the_pause_and_end_before_it():
    trimmed = trim(numbered(20), [0.9 if 100 <= f < 150 or 400 <= f < 450 else 0.0 for f in range(625)])
    joint, last = 64 * FRAME / RATE, 128 * FRAME / RATE
    assert trimmed.original(joint) == 393 * FRAME / RATE
    assert trimmed.original(joint, ends=True) == 157 * FRAME / RATE
    assert trimmed.original(last) == trimmed.original(last, ends=True) == 457 * FRAME / RATE
    segment = Segment("two", joint, last, words=(Word("one", joint, joint), Word("two", joint, last)))
    timed = segment.retimed(trimmed.original)
    assert (timed.start, timed.end) == (393 * FRAME / RATE, 457 * FRAME / RATE)
    assert [word.end - word.start for word in timed.words] == [0, 64 * FRAME / RATE]


def test_trimmed_silence_is_empty():
    trimmed = trim(numbered(3), [0.0] * 94)
    assert len(trimmed.samples) == 0
    assert trimmed.regions == ()
    assert trimmed.speech_end == 0


def test_speech_end_is_within_the_recording():
    trimmed = trim(numbered(1.01), [0.9] * 32)
    assert trimmed.speech_end == pytest.approx(1.01)
    assert len(trimmed.samples) == int(1.01 * RATE)


class LoudnessDetector:
    """A fake VAD that reports loud frames as speech; records the largest number of samples of a call."""

    def __init__(self):
        self.max_samples = 0

    def probabilities(self, samples, stop=lambda: False):
        self.max_samples = max(self.max_samples, len(samples))
        for start in range(0, len(samples), FRAME):
            if stop():
                return
            yield float(np.abs(samples[start : start + FRAME]).max() > 0.5)


def hour(minutes: int = 60):
    """Blocks of an odd size: three loud seconds at the start of each minute, their value its number."""
    for minute in range(minutes):
        whole = np.zeros(60 * RATE, np.float32)
        whole[: 3 * RATE] = minute + 1
        yield from np.array_split(whole, 7)


def test_hour_is_segmented_as_it_arrives_and_never_held_whole():
    detector = LoudnessDetector()
    found = [(region, samples) for region, samples in stream_regions(hour(), detector)]
    assert len(found) == 60
    for minute, (region, samples) in enumerate(found):
        assert abs(region.speech_end / RATE - (minute * 60 + 3)) < 0.05
        assert len(samples) == region.end - region.start
        assert samples.max() == minute + 1
        assert (samples == minute + 1).sum() == 3 * RATE
    assert detector.max_samples < 40 * RATE


def test_first_region_comes_before_the_rest_is_read():
    blocks = hour()
    next(stream_regions(blocks, LoudnessDetector()))
    assert sum(1 for _ in blocks) > 59 * 7 - 7


def test_regions_are_packed_to_full_parts_and_the_first_is_short():
    audio = np.zeros(200 * RATE, np.float32)
    for start in range(0, 200, 5):
        audio[start * RATE : (start + 3) * RATE] = 100 + start
    parts = list(pack(stream_regions(np.array_split(audio, 40), LoudnessDetector())))
    assert len(parts[0].samples) < 8 * RATE
    assert all(20 * RATE < len(part.samples) <= 28 * RATE for part in parts[1:-1])
    assert sum(len(part.regions) for part in parts) == 40
    for part in parts:
        for second in np.arange(0.5, len(part.samples) / RATE):
            assert part.samples[int(second * RATE)] == audio[int(part.original(second) * RATE)]


def test_region_has_its_mean_speech_probability():
    [one, other] = regions([0.0] * 20 + [0.8] * 20 + [0.0] * 40 + [0.6] * 10 + [0.9] * 10 + [0.1] * 3)
    assert (one.probability, other.probability) == (pytest.approx(0.8), pytest.approx(0.75, abs=0.06))


def test_segmentation_stops_on_request():
    found = stream_regions(hour(), LoudnessDetector(), stop=iter([False] * 3000 + [True] * 10**6).__next__)
    assert len(list(found)) <= 2


def test_cut_speech_is_complete():
    samples = np.ones(100 * RATE, np.float32)
    parts = [part for _, part in stream_regions(np.array_split(samples, 33), LoudnessDetector())]
    assert all(len(part) <= 28 * RATE for part in parts)
    assert sum(len(part) for part in parts) == len(samples)
