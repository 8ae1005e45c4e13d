"""Pieces of streams: what is missing of a segment, and clips that never reach across a gap."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.engines import SOUND_RATE
from chatapi.services.stream_monitoring.pieces import ClipCutter, Missing, Piece, checked


def sound(seconds: float, level: float = 0.1) -> np.ndarray:
    return np.full(round(seconds * SOUND_RATE), level, np.float32)


def piece(start: float, seconds: float, level: float = 0.1, folder: str = "") -> Piece:
    return Piece(start, seconds, sound(seconds, level), folder)


def test_clips_have_one_length_and_the_times_of_their_first_samples() -> None:
    cutter = ClipCutter(60)
    clips = [clip for number in range(13) for clip in cutter.add(piece(number * 10, 10, number / 100 + 0.01))]
    assert [(clip.start, clip.seconds) for clip in clips] == [(0, 60), (60, 60)]
    assert clips[1].samples[0] == np.float32(0.07)
    assert [(clip.start, clip.seconds) for clip in cutter.gap()] == [(120, 10)]
    assert cutter.gap() == []


def test_a_long_piece_gives_several_clips() -> None:
    cutter = ClipCutter(2)
    assert [clip.start for clip in cutter.add(piece(5, 7))] == [5, 7, 9]
    assert [(clip.start, clip.seconds) for clip in cutter.gap()] == [(11, 1)]


@pytest.mark.parametrize("gap", [0.5, -0.5, 3600])
def test_a_jump_of_time_ends_a_clip(gap: float) -> None:
    cutter = ClipCutter(60)
    cutter.add(piece(0, 10))
    assert [(clip.start, clip.seconds) for clip in cutter.add(piece(10 + gap, 10))] == [(0, 10)]
    assert [(clip.start, clip.seconds) for clip in cutter.gap()] == [(10 + gap, 10)]


def test_another_folder_ends_a_clip_even_without_a_jump() -> None:
    cutter = ClipCutter(60)
    cutter.add(piece(0, 10, folder="1"))
    assert [clip.seconds for clip in cutter.add(piece(10, 10, folder="2"))] == [10]


@pytest.mark.parametrize("decoded", [9.98, 10.005])
def test_times_stay_right_when_segments_are_longer_or_shorter_than_stated(decoded: float) -> None:
    cutter, clips = ClipCutter(60), []
    for number in range(600):
        clips += cutter.add(Piece(number * 10, 10, sound(decoded, number / 1000)))
    assert len(clips) in (99, 100)
    # The value of a sample is the number of its segment.
    assert all(abs(clip.samples[0] * 10_000 + 5 - clip.start) < 5.1 for clip in clips)


def test_what_is_missing_of_a_segment_is_said() -> None:
    [whole] = checked(100, 10, sound(9.98))
    assert isinstance(whole, Piece) and whole.seconds == 10
    heard, missing = checked(100, 10, sound(0.085))
    assert isinstance(heard, Piece) and heard.end == pytest.approx(100.085)
    assert missing == Missing(100.085, pytest.approx(9.915), "short")  # type: ignore[arg-type]
    assert checked(100, 10, sound(10, 1 / 32768)) == [Missing(100, 10, "silent")]
    assert checked(100, 10, sound(0)) == [Missing(100, 10, "short")]
    [trimmed] = checked(100, 10, sound(15))
    assert isinstance(trimmed, Piece) and len(trimmed.samples) == 10 * SOUND_RATE
