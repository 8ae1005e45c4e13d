"""OrcaHello's front end: from a clip to the mel spectrograms of its windows, for both generations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples
from chatapi.engines.sound_detector import orcahello
from chatapi.engines.sound_detector.orcahello import FFT, FRAMES, HOP, MEL_RATE, MELS, RATE, FrontEnd
from chatapi.engines.sound_detector.polyphase import resampled

Spectrogram = npt.NDArray[np.float32]
"""Shape (MELS, frames), in dB."""


def window_starts(samples: int, rate: int, window: float, hop: float) -> list[int]:
    """The first samples of the windows that lie wholly in so many samples. `window` and `hop` in seconds."""
    length, step = round(window * rate), round(hop * rate)
    return list(range(0, samples - length + 1, step))


def windows(clip: Samples, rate: int, how: FrontEnd) -> Iterator[tuple[float, Samples]]:
    """Start in seconds and samples at RATE of each window of a clip of mono samples at `rate`."""
    if how.whole:
        clip, rate = sixteen_bits(normalized(resampled(clip, rate, RATE), how.normalized)), RATE
    elif how.normalized:
        clip = normalized(clip, True)
    length = round(how.window * rate)
    for first in window_starts(len(clip), rate, how.window, how.hop):
        yield first / rate, resampled(clip[first : first + length], rate, RATE)


def normalized(clip: Samples, wanted: bool) -> Samples:
    """The clip with its peak at 1; silence as it is."""
    peak = np.abs(clip).max() if wanted and len(clip) else 0
    scaled: Samples = clip / np.float32(peak) if peak > 0 else clip
    return scaled


def sixteen_bits(clip: Samples) -> Samples:
    """The clip as it is after a WAV file of 16 bits: libsndfile writes 32767 for 1 and reads it as 32767/32768."""
    whole = np.clip(np.rint(clip * np.float32(32767)), -32768, 32767)
    found: Samples = (whole / np.float32(32768)).astype(np.float32)
    return found


def spectrogram(samples: Samples) -> Spectrogram:
    """The mel spectrogram of mono samples at RATE in dB, as many frames as there are: 1 + n // HOP.

    Hann windows around every HOP-th sample, mirrored at both ends; power; triangular filters on the HTK mel scale,
    not scaled by their area; 10 log10, at most TOP_DB below the largest.
    """
    padded = np.pad(samples.astype(np.float32), FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    spectrum = np.fft.rfft(frames * _hann(), axis=1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    decibels = 10 * np.log10(np.maximum(orcahello.POWER_FLOOR, power.astype(np.float32) @ mel_filters().T))
    found: Spectrogram = np.maximum(decibels, decibels.max() - orcahello.TOP_DB).T.astype(np.float32)
    return found


def network_input(samples: Samples) -> Spectrogram:
    """The spectrogram of a window, cut or padded at its end to FRAMES frames: shape (MELS, FRAMES)."""
    given = spectrogram(samples)[:, :FRAMES]
    found = np.full((MELS, FRAMES), orcahello.PADDING, np.float32)
    found[:, : given.shape[1]] = given
    return found


@functools.cache
def _hann() -> Samples:
    window: Samples = np.hanning(FFT + 1)[:-1].astype(np.float32)
    return window


@functools.cache
def mel_filters() -> npt.NDArray[np.float32]:
    """The filters, of shape (MELS, FFT / 2 + 1), for bins that are MEL_RATE / FFT apart although the audio's are RATE /
    FFT apart; those above MEL_RATE / 2 are empty."""
    frequencies = np.linspace(0, MEL_RATE // 2, FFT // 2 + 1)
    edges = _hertz(np.linspace(_mel(orcahello.MEL_BOTTOM_HZ), _mel(orcahello.MEL_TOP_HZ), MELS + 2))
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters: npt.NDArray[np.float32] = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(700 * (10 ** (mels / 2595) - 1))
