"""OrcaHello's front end against formulas that are written out here, and the cutting of clips into windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from chatapi.engines.sound_detector import front_end, orcahello
from chatapi.engines.sound_detector.polyphase import resampled

Numbers = npt.NDArray[np.float64]


def noise(count: int, level: float = 0.1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(count).normal(0, level, count).astype(np.float32)


def resampled_by_definition(samples: Numbers, have: int, want: int) -> Numbers:
    """Zeros between the samples, one long convolution, and every down-th value of it."""
    up, down = want // math.gcd(have, want), have // math.gcd(have, want)
    half = 10 * max(up, down)
    x = np.arange(-half, half + 1)
    taps = np.sinc(x / max(up, down)) * np.i0(5 * np.sqrt(np.maximum(0, 1 - (x / half) ** 2))) / np.i0(5)
    stuffed = np.zeros(len(samples) * up)
    stuffed[::up] = samples
    full = np.convolve(stuffed, taps / taps.sum() * up)
    return full[half : half + len(stuffed) : down]


def mel_by_definition(samples: Numbers) -> Numbers:
    """Frame by frame and band by band, in double precision."""
    mirrored = np.concatenate([samples[1280:0:-1], samples, samples[-2:-1282:-1]])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2560) / 2560)
    top = 2595 * math.log10(1 + 10_000 / 700)
    edges = [700 * (10 ** (top * place / 257 / 2595) - 1) for place in range(258)]
    bins = np.arange(1281) * (16_000 / 2560)
    rows = []
    for first in range(0, len(mirrored) - 2560 + 1, 256):
        power = np.abs(np.fft.fft(mirrored[first : first + 2560] * hann)[:1281]) ** 2
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            weights = np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None)
            bands.append(float(weights @ power))
        rows.append(bands)
    decibels = 10 * np.log10(np.maximum(np.array(rows).T, 1e-10))
    return np.maximum(decibels, decibels.max() - 100)


@pytest.mark.parametrize("have", [48_000, 44_100, 16_000, 20_000, 96_000])
@pytest.mark.parametrize("count", [1, 7, 4801])
def test_resampling_equals_its_definition(have: int, count: int) -> None:
    samples = noise(count)
    found, expected = resampled(samples, have, 20_000), resampled_by_definition(samples.astype(float), have, 20_000)
    if have == 20_000:
        assert found is samples
    else:
        assert len(found) == len(expected) == math.ceil(count * 20_000 / have)
        assert np.abs(found - expected).max() < 1e-6


def tone(count: int) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 3000 * np.arange(count) / 20_000)).astype(np.float32)


@pytest.mark.parametrize("seconds", [2, 3])
@pytest.mark.parametrize("sound", [noise, tone, np.zeros], ids=["noise", "tone", "silence"])
def test_spectrogram_equals_its_definition(seconds: int, sound: Callable[[int], Numbers]) -> None:
    samples = np.asarray(sound(seconds * 20_000), np.float32)
    found, expected = front_end.spectrogram(samples), mel_by_definition(samples.astype(float))
    assert found.shape == expected.shape == (256, 1 + seconds * 20_000 // 256)
    # Far below a loud tone single precision differs most.
    assert np.abs(found - expected).max() < 2e-3
    assert np.abs(found - expected).mean() < 1e-5


def test_tone_appears_below_its_frequency_because_the_filters_are_those_of_16_khz() -> None:
    loudest = int(front_end.spectrogram(tone(40_000)).mean(axis=1).argmax())
    hertz = 700 * (10 ** ((loudest + 1) * 2595 * math.log10(1 + 10_000 / 700) / 257 / 2595) - 1)
    assert hertz == pytest.approx(3000 * 16 / 20, rel=0.02)


def test_input_has_312_frames_with_zeros_behind_the_window() -> None:
    quiet = front_end.network_input(noise(40_000, 1e-4))
    assert quiet.shape == (256, 312)
    assert quiet[:, :157].max() < -10
    assert (quiet[:, 157:] == 0).all()
    assert front_end.network_input(noise(100_000)).shape == (256, 312)


def test_old_windows_are_cut_first_and_v1_clips_are_resampled_and_normalized_first() -> None:
    clip = 0.25 * noise(48_000 * 10)
    old = list(front_end.windows(clip, 48_000, orcahello.FRONT_ENDS[orcahello.OLD]))
    assert [start for start, _ in old] == list(range(9))
    cut = resampled(clip[48_000 : 48_000 * 3], 48_000, 20_000)
    assert np.array_equal(old[1][1], cut)
    v1 = list(front_end.windows(clip, 48_000, orcahello.FRONT_ENDS[orcahello.V1]))
    assert [start for start, _ in v1] == [0, 2, 4, 6]
    whole = resampled(clip, 48_000, 20_000)
    expected = whole / np.abs(whole).max()
    assert np.abs(v1[1][1] - expected[40_000:100_000]).max() < 2 / 32768
    assert np.array_equal(v1[1][1] * 32768, np.rint(v1[1][1] * 32768))
    assert np.abs(np.concatenate([each for _, each in v1])).max() <= 32767 / 32768


@pytest.mark.parametrize(
    ("seconds", "old", "v1"), [(60, 59, 29), (59.9, 58, 29), (3, 2, 1), (2.99, 1, 0), (1.99, 0, 0), (0, 0, 0)]
)
def test_only_whole_windows_are_analysed(seconds: float, old: int, v1: int) -> None:
    count = round(seconds * 48_000)
    assert len(front_end.window_starts(count, 48_000, 2, 1)) == old
    assert len(front_end.window_starts(count, 48_000, 3, 2)) == v1
    if seconds < 10:
        found = list(front_end.windows(np.zeros(count, np.float32), 48_000, orcahello.FRONT_ENDS[orcahello.V1]))
        assert len(found) == v1
        assert all(not samples.any() for _, samples in found)
