"""Levels of frequency bands over time: what the page shows of a place, and what fingerprints of sounds are made of."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples
from chatapi.engines import SOUND_RATE

FFT = 4096
"""Samples of a Fourier window: rows of 12 Hz."""
BANDS = 64
BOTTOM_HZ, TOP_HZ = 60.0, 12_000.0
FLOOR = 1e-10
"""Least power: digital silence is -100 dB."""
QUIETEST, LOUDEST = -110.0, -20.0
"""Levels in dB of the bytes 0 and 255."""

Levels = npt.NDArray[np.float32]


def band_levels(samples: Samples, hop: int) -> Levels:
    """Levels in dB of shape (frames, BANDS), the lowest band first, of mono samples at SOUND_RATE.

    One frame every `hop` samples around its middle; the bands are equally wide on the mel scale.
    """
    padded = np.pad(samples.astype(np.float32), FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[: max(1, len(samples)) : hop]
    spectrum = np.abs(np.fft.rfft(frames * _window(), axis=1)).astype(np.float32)
    power = np.square(spectrum) @ _filters()
    found: Levels = (10 * np.log10(np.maximum(FLOOR, power))).astype(np.float32)
    return found


def as_bytes(levels: Levels) -> bytes:
    """One byte a level, frame by frame: 0 is QUIETEST, 255 is LOUDEST."""
    scaled = (levels - QUIETEST) / (LOUDEST - QUIETEST) * 255
    found: bytes = np.clip(np.rint(scaled), 0, 255).astype(np.uint8).tobytes()
    return found


def band_hertz() -> list[float]:
    """The middle of each band, in Hz."""
    return [round(float(each), 1) for each in _edges()[1:-1]]


@functools.cache
def _window() -> npt.NDArray[np.float32]:
    window = np.hanning(FFT + 1)[:-1].astype(np.float32)
    # A sine of amplitude 1 has the level 0 dB.
    return window * np.float32(2 / window.sum())


@functools.cache
def _edges() -> npt.NDArray[np.float64]:
    mels = np.linspace(_mel(BOTTOM_HZ), _mel(TOP_HZ), BANDS + 2)
    return np.asarray(700 * (10 ** (mels / 2595) - 1))


@functools.cache
def _filters() -> npt.NDArray[np.float32]:
    """Triangles over the bins of a spectrum, of shape (FFT / 2 + 1, BANDS); each has at least its own middle bin."""
    hertz, edges = np.fft.rfftfreq(FFT, 1 / SOUND_RATE), _edges()
    rising = (hertz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz[:, None]) / (edges[2:] - edges[1:-1])
    filters: npt.NDArray[np.float32] = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters[np.abs(hertz[:, None] - edges[1:-1]).argmin(axis=0), np.arange(BANDS)] = 1
    return filters


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
