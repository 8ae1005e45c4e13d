import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.audio import RATE
from chatapi.engines import Segment, Word
from chatapi.services.transcription.segmenter import (
    DEFAULT,
    FRAME,
    SegmentationRules,
    SpeechRegion,
    packed,
    regions,
    stretches,
    trim,
)
from chatapi.settings import VadSettings

PAD = 7
"""Frames in the 200 ms kept by default."""


def frames(region: SpeechRegion) -> tuple[int, int, int]:
    return region.start // FRAME, region.end // FRAME, region.speech_end // FRAME


def found(*parts: tuple[float, int], rules: SegmentationRules = DEFAULT) -> list[tuple[int, int, int]]:
    """Regions in frames of stretches given as (probability, frames)."""
    return [frames(region) for region in regions(itertools.chain(*([p] * n for p, n in parts)), rules)]


def test_silence_has_no_speech():
    assert found((0.02, 500)) == []
    assert found() == []


def test_speech_is_kept_with_a_margin_before_and_after_it():
    assert found((0, 50), (0.9, 20), (0, 50)) == [(50 - PAD, 70 + PAD, 70)]


def test_speech_that_starts_with_the_first_sample_is_kept_whole():
    assert found((0.9, 20), (0, 50)) == [(0, 20 + PAD, 20)]


def test_speech_that_lasts_to_the_end_is_kept_whole():
    assert found((0, 50), (0.9, 20)) == [(50 - PAD, 70, 70)]


def test_a_click_is_not_speech():
    assert found((0, 50), (0.95, 2), (0, 50)) == []


def test_a_click_long_after_speech_does_not_make_it_longer():
    assert found((0, 50), (0.9, 20), (0, 30), (0.9, 2), (0, 50)) == [(50 - PAD, 70 + PAD, 70)]


def test_speech_that_has_begun_goes_on_a_little_below_the_threshold():
    assert found((0, 50), (0.9, 10), (0.4, 30), (0, 50)) == [(50 - PAD, 90 + PAD, 90)]
    assert found((0, 50), (0.4, 40), (0, 50)) == []


def test_a_short_pause_is_part_of_the_speech_and_a_long_one_is_not():
    assert len(found((0.9, 20), (0, 13), (0.9, 20))) == 1
    assert found((0.9, 20), (0, 14), (0.9, 20)) == [(0, 27, 20), (27, 54, 54)]


def test_a_region_is_told_as_soon_as_its_pause_is_long_enough():
    asked = itertools.count()
    source = (0.9 if next(asked) < 20 else 0.0 for _ in itertools.count())
    assert frames(next(regions(source))) == (0, 27, 20)
    assert next(asked) == 20 + 14


def test_speech_without_a_pause_is_cut_where_it_is_least_likely():
    one, two = found((0.9, 600), (0.6, 6), (0.9, 600))
    assert one[0] == 0
    assert 600 <= one[1] <= 606
    assert two[0] == one[1]
    assert two[1] == 1206


def test_a_pause_is_preferred_for_the_cut_and_nothing_is_lost():
    one, two = found((0.9, 600), (0, 10), (0.9, 600))
    assert 600 <= one[1] <= 610
    assert one[2] <= one[1]
    assert two == (one[1], 1210, 1210)


def test_settings_are_followed():
    rules = SegmentationRules.of(VadSettings(threshold=0.8, min_speech_ms=320, pad_ms=0))
    assert found((0.7, 100), rules=rules) == []
    assert found((0.9, 9), (0, 20), rules=rules) == []
    assert found((0, 20), (0.9, 10), (0, 20), rules=rules) == [(20, 30, 30)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300)), max_size=12),
    st.builds(
        SegmentationRules,
        threshold=st.floats(0.2, 0.9),
        min_speech_ms=st.integers(0, 400),
        pad_ms=st.integers(0, 500),
        longest=st.floats(3, 28),
    ),
)
def test_regions_are_in_order_within_bounds_and_hold_all_sure_speech(parts, rules):
    sure = np.repeat([p for p, _ in parts], [n for _, n in parts]) if parts else np.zeros(0)
    spans = [frames(region) for region in regions(sure.tolist(), rules)]
    edges = [edge for start, end, _ in spans for edge in (start, end)]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(sure) and start <= speech <= end for start, end, speech in spans)
    assert all((end - start) * FRAME <= rules.longest * RATE for start, end, _ in spans)
    kept = np.zeros(len(sure), bool)
    for start, end, _ in spans:
        kept[start:end] = True
    loud = np.flatnonzero(sure >= rules.threshold)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > 1) + 1) if len(loud) else []
    assert all(kept[run].all() for run in runs if len(run) >= rules.shortest)


def marked(seconds: float) -> np.ndarray:
    """Samples that know where they are: each holds its frame's number."""
    return (np.arange(int(seconds * RATE)) // FRAME).astype(np.float32)


def test_trimming_joins_the_speech_and_remembers_where_it_was():
    samples = marked(20)
    trimmed = trim(samples, [0.9 if 100 <= f < 150 or 400 <= f < 450 else 0.0 for f in range(625)])
    assert len(trimmed.samples) == (64 + 64) * FRAME
    assert trimmed.samples[0] == 93
    assert trimmed.samples[64 * FRAME] == 393
    assert trimmed.speech_end == 450 * FRAME / RATE
    assert trimmed.original(0) == 93 * FRAME / RATE
    assert trimmed.original(70 * FRAME / RATE) == pytest.approx(399 * FRAME / RATE)


def test_what_begins_on_a_joint_begins_after_the_pause_and_what_ends_there_ends_before_it():
    trimmed = trim(marked(20), [0.9 if 100 <= f < 150 or 400 <= f < 450 else 0.0 for f in range(625)])
    joint, last = 64 * FRAME / RATE, 128 * FRAME / RATE
    assert trimmed.original(joint) == 393 * FRAME / RATE
    assert trimmed.original(joint, ends=True) == 157 * FRAME / RATE
    assert trimmed.original(last) == trimmed.original(last, ends=True) == 457 * FRAME / RATE
    heard = Segment("two", joint, last, words=(Word("one", joint, joint), Word("two", joint, last)))
    timed = heard.timed(trimmed.original)
    assert (timed.start, timed.end) == (393 * FRAME / RATE, 457 * FRAME / RATE)
    assert [word.end - word.start for word in timed.words] == [0, 64 * FRAME / RATE]


def test_where_nobody_speaks_nothing_is_left():
    trimmed = trim(marked(3), [0.0] * 94)
    assert len(trimmed.samples) == 0
    assert trimmed.regions == ()
    assert trimmed.speech_end == 0


def test_the_end_of_speech_is_never_after_the_recording():
    trimmed = trim(marked(1.01), [0.9] * 32)
    assert trimmed.speech_end == pytest.approx(1.01)
    assert len(trimmed.samples) == int(1.01 * RATE)


class Loudness:
    """A detector that takes loud frames for speech, and remembers how much it was given at once."""

    def __init__(self):
        self.most = 0

    def probabilities(self, samples, stop=lambda: False):
        self.most = max(self.most, len(samples))
        for start in range(0, len(samples), FRAME):
            if stop():
                return
            yield float(np.abs(samples[start : start + FRAME]).max() > 0.5)


def hour(minutes: int = 60):
    """Blocks of an odd size: three seconds of sound at the start of every minute, each sample its minute's number."""
    for minute in range(minutes):
        whole = np.zeros(60 * RATE, np.float32)
        whole[: 3 * RATE] = minute + 1
        yield from np.array_split(whole, 7)


def test_an_hour_is_split_as_it_arrives_and_never_held_whole():
    detector = Loudness()
    told = [(region, samples) for region, samples in stretches(hour(), detector)]
    assert len(told) == 60
    for minute, (region, samples) in enumerate(told):
        assert abs(region.speech_end / RATE - (minute * 60 + 3)) < 0.05
        assert len(samples) == region.end - region.start
        assert samples.max() == minute + 1
        assert (samples == minute + 1).sum() == 3 * RATE
    assert detector.most < 40 * RATE


def test_the_first_stretch_comes_before_the_rest_has_been_read():
    blocks = hour()
    next(stretches(blocks, Loudness()))
    assert sum(1 for _ in blocks) > 59 * 7 - 7


def test_stretches_are_joined_to_as_much_as_is_heard_at_once_and_the_first_comes_soon():
    sound = np.zeros(200 * RATE, np.float32)
    for start in range(0, 200, 5):
        sound[start * RATE : (start + 3) * RATE] = start + 1
    parts = list(packed(stretches(np.array_split(sound, 40), Loudness())))
    assert len(parts[0].samples) < 8 * RATE
    assert all(20 * RATE < len(part.samples) <= 28 * RATE for part in parts[1:-1])
    assert sum(len(part.regions) for part in parts) == 40
    for part in parts:
        for second in np.arange(0.5, len(part.samples) / RATE):
            assert part.samples[int(second * RATE)] == sound[int(part.original(second) * RATE)]


def test_a_stretch_says_how_likely_it_is_speech():
    [one, other] = regions([0.0] * 20 + [0.8] * 20 + [0.0] * 40 + [0.6] * 10 + [0.9] * 10 + [0.1] * 3)
    assert (one.probability, other.probability) == (pytest.approx(0.8), pytest.approx(0.75, abs=0.06))


def test_splitting_stops_when_asked():
    told = stretches(hour(), Loudness(), stop=iter([False] * 3000 + [True] * 10**6).__next__)
    assert len(list(told)) <= 2


def test_long_speech_in_pieces_is_the_same_speech():
    samples = np.ones(100 * RATE, np.float32)
    pieces = [piece for _, piece in stretches(np.array_split(samples, 33), Loudness())]
    assert all(len(piece) <= 28 * RATE for piece in pieces)
    assert sum(len(piece) for piece in pieces) == len(samples)
