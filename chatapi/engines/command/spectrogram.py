"""The input of the command classifier: normalized log-mel spectrograms of a second."""

from __future__ import annotations

import functools

import numpy as np

from chatapi.audio import Samples
from chatapi.audio.mel import FFT, HOP, mel_filters, power

BANDS = 40
FLOOR, RANGE = 1e-10, 6.0
"""Least power, and the range below the loudest of a clip, in decades: 60 dB."""


@functools.cache
def _filters() -> Samples:
    return mel_filters(BANDS)


def spectrograms(clips: Samples) -> Samples:
    """Of clips of shape (clips, samples) of 16 kHz mono: (clips, samples / 160, BANDS), each with mean 0.

    The level of a clip makes no difference: decimal logarithms of the power in each band, at most RANGE below the
    loudest, less their mean.
    """
    padded = np.pad(clips.astype(np.float32), ((0, 0), (FFT // 2, FFT // 2)), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT, axis=1)[:, ::HOP][:, :-1]
    bell = np.hanning(FFT + 1)[:-1].astype(np.float32)
    logs = np.log10(np.maximum(FLOOR, power(frames * bell) @ _filters().T))
    logs = np.maximum(logs, logs.max(axis=(1, 2), keepdims=True) - RANGE)
    normalized: Samples = (logs - logs.mean(axis=(1, 2), keepdims=True)).astype(np.float32)
    return normalized
