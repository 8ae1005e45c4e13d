"""The playback queue, checked sample by sample without a device."""

from __future__ import annotations

import numpy as np
import pytest

from chatapi.audio import RATE, Audio, Samples
from chatapi.interfaces.audio_device.chimes import NOTES, chime
from chatapi.interfaces.audio_device.playback import FADE, Playback
from conftest import tone

DEVICE = 48_000
FADED = int(FADE * DEVICE)


def filled(playback: Playback, blocks: int, size: int = 480, latency: float = 0.0) -> Samples:
    """The samples that a device plays in this number of blocks."""
    played = [np.empty(size, np.float32) for _ in range(blocks)]
    for block in played:
        playback.fill(block, latency)
    return np.concatenate(played)


def noise(count: int) -> Samples:
    return np.random.default_rng(3).uniform(0.1, 0.9, count).astype(np.float32)


def test_chunks_play_without_a_gap() -> None:
    playback, sound = Playback(DEVICE), noise(5000)
    for chunk in np.split(sound, [7, 480, 1234]):
        playback.add(Audio(chunk, DEVICE))
    assert np.array_equal(filled(playback, 11)[:5000], sound)
    assert not filled(playback, 2).any()


def test_pause_and_resume_lose_and_repeat_no_sample() -> None:
    playback, sound = Playback(DEVICE), noise(9600)
    playback.add(Audio(sound, DEVICE))
    before = filled(playback, 3)
    playback.pause()
    pause = filled(playback, 5)
    playback.resume()
    after = filled(playback, 20)
    assert np.array_equal(before, sound[:1440])
    assert not pause[FADED:].any() and np.all(pause[:FADED] <= sound[1440 : 1440 + FADED])
    rest = sound[1440 + FADED :]
    assert np.array_equal(after[FADED : len(rest)], rest[FADED:])
    assert np.all(after[:FADED] <= rest[:FADED]) and after[0] < 0.01 and pause[FADED - 1] < 0.01


def test_a_pause_does_not_click() -> None:
    playback = Playback(DEVICE)
    playback.add(Audio(tone(1, 100, DEVICE), DEVICE))
    steepest = np.abs(np.diff(filled(playback, 10))).max()
    playback.pause()
    paused = filled(playback, 4)
    playback.resume()
    assert np.abs(np.diff(np.concatenate([paused, filled(playback, 4)]))).max() < 2 * steepest


def test_clear_fades_out_and_resets_the_position() -> None:
    playback = Playback(DEVICE)
    playback.add(Audio(tone(1, 100, DEVICE), DEVICE))
    filled(playback, 10)
    playback.clear()
    assert (playback.played, playback.playing) == (0, False)
    rest = filled(playback, 3)
    assert rest[:FADED].any() and not rest[FADED:].any()
    playback.add(Audio(noise(480), DEVICE))
    filled(playback, 2)
    assert (playback.played, playback.playing) == (160, False)


def test_audio_queued_right_after_clear_is_complete() -> None:
    playback, sound = Playback(DEVICE), noise(960)
    playback.add(Audio(tone(1, 100, DEVICE), DEVICE))
    playback.pause()
    filled(playback, 3)
    playback.clear()
    playback.add(Audio(sound, DEVICE))
    assert np.array_equal(filled(playback, 3)[:960], sound)


def test_played_counts_samples_that_left_the_speaker() -> None:
    playback = Playback(DEVICE)
    playback.add(Audio(noise(4800), DEVICE))
    filled(playback, 3, latency=0.02)
    assert playback.played == (3 * 480 - 960) // 3
    filled(playback, 7, latency=0.02)
    assert playback.playing and playback.played == (10 * 480 - 960) // 3
    filled(playback, 2, latency=0.02)
    assert (playback.playing, playback.played) == (False, 1600)


def test_played_does_not_change_during_a_pause() -> None:
    playback = Playback(DEVICE)
    playback.add(Audio(noise(48_000), DEVICE))
    filled(playback, 10, latency=0.03)
    playback.pause()
    filled(playback, 50, latency=0.03)
    assert playback.played == (4800 + FADED) / 3
    assert playback.playing
    playback.resume()
    filled(playback, 10, latency=0.03)
    assert playback.played == (9600 + FADED - 1440) / 3


def test_longer_latency_does_not_decrease_played() -> None:
    playback = Playback(DEVICE)
    playback.add(Audio(noise(48_000), DEVICE))
    filled(playback, 20, latency=0.01)
    before = playback.played
    filled(playback, 1, latency=0.1)
    assert playback.played == before


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_next_device_continues_where_the_lost_one_stopped(rate: int) -> None:
    playback = Playback(DEVICE)
    sound = tone(1, 300)
    playback.add(Audio(sound, RATE))
    filled(playback, 40, latency=0.02)
    playback.set_rate(rate)
    assert playback.played == 6400
    rest = Audio(filled(playback, 100, size=rate // 100), rate).at(RATE).samples[: len(sound) - 6400]
    assert np.corrcoef(rest[100:-100], sound[6500:-100])[0, 1] > 0.999
    assert (playback.played, playback.playing) == (RATE, False)


def test_audio_beyond_the_longest_queue_is_dropped_and_counted() -> None:
    playback = Playback(DEVICE, max_queued_seconds=1)
    playback.add(Audio(tone(1.5), RATE))
    assert playback.dropped == 8000
    filled(playback, 100)
    assert (playback.played, playback.playing) == (16_000, False)


@pytest.mark.parametrize("name", list(NOTES))
def test_chimes_are_short_quiet_and_soft_at_both_ends(name: str) -> None:
    sound = chime(name)  # type: ignore[arg-type]
    assert 0.05 < sound.seconds < 0.3
    assert 0.02 < np.abs(sound.samples).max() < 0.2
    assert abs(sound.samples[0]) < 1e-3 and abs(sound.samples[-1]) < 1e-3


def test_no_two_chimes_sound_alike() -> None:
    assert len(set(NOTES.values())) == len(NOTES)
