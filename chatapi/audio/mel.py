"""Mel filters and log-mel spectrograms, as Whisper and models derived from it take them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples

RATE, FFT, BINS, HOP = 16_000, 400, 201, 160
"""Whisper's sample rate in Hz, its window in samples, the frequency bins of a window, and samples between windows."""


def log_mel(samples: Samples, filters: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Whisper's input: a log-mel spectrogram of shape (filters, samples / 160), about -1 to 1, over a range of 80 dB.

    Windows of 400 samples with a Hann window around every 160th sample, mirrored at both ends; power, mel filters,
    decimal logarithm, at most 8 below the largest, and (x + 4) / 4: Radford et al., Robust Speech Recognition via
    Large-Scale Weak Supervision (2022), and the code published with it.
    """
    mirrored = np.pad(samples.astype(np.float32), FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, FFT)[::HOP][:-1]
    bell = np.hanning(FFT + 1)[:-1].astype(np.float32)
    logs = np.log10(np.maximum(1e-10, filters @ power(frames * bell).T))
    found: npt.NDArray[np.float32] = ((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return found


def power(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The power spectrum of windows of samples along the last axis: shape (..., samples / 2 + 1).

    The sum of both parts' squares: where NumPy has no vector code for the magnitude (hypot), that takes longer.
    """
    spectrum = np.fft.rfft(frames)
    found: npt.NDArray[np.float32] = np.square(spectrum.real, dtype=np.float32)
    found += np.square(spectrum.imag, dtype=np.float32)
    return found


def mel_filters(count: int, rate: int = RATE, fft: int = FFT, top_hz: float = RATE / 2) -> npt.NDArray[np.float32]:
    """Triangular filters on Slaney's mel scale from 0 to `top_hz`, each scaled by 2 / width in Hz; shape (count,
    fft / 2 + 1). `rate` in Hz; `fft`: samples of a window.

    Slaney, Auditory Toolbox (1998): linear, 200/3 Hz per mel, up to 1000 Hz; above, 27 mels for a factor of 6.4.
    The scale is computed with Python's own floating point, whose exp and log are the same on every processor.
    """
    top = _mel(top_hz)
    edges = [_hertz(top * place / (count + 1)) for place in range(count + 2)]
    filters = np.zeros((count, fft // 2 + 1), np.float32)
    for row in range(count):
        low, middle, high = edges[row : row + 3]
        for column in range(fft // 2 + 1):
            frequency = column * rate / fft
            height = min((frequency - low) / (middle - low), (high - frequency) / (high - middle))
            # Rounded before scaling by the area too, as in the filters that Whisper was published with.
            filters[row, column] = float(np.float32(max(0.0, height))) * (2.0 / (high - low))
    return filters


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)
