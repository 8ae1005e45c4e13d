"""Resampling by a rational factor with a polyphase filter, as scipy.signal.resample_poly does by default.

The filter is a sinc with the cutoff of the lower Nyquist frequency in a Kaiser window (beta 5), of 20 times the larger
factor and one samples; its gain at 0 Hz is 1. Networks that were trained behind that filter get the same samples.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from chatapi.audio import Samples

HALF_PERIODS, BETA = 10, 5.0


def resampled(samples: Samples, have: int, want: int) -> Samples:
    """Mono samples of shape (n,) at `have` Hz, at `want` Hz: ceil(n * want / have) samples."""
    divisor = math.gcd(have, want)
    up, down = want // divisor, have // divisor
    if up == down or not len(samples):
        return samples
    count = -(-len(samples) * up // down)
    phases = _phases(up, down)
    taps, half = phases.shape[1], HALF_PERIODS * max(up, down)
    found = np.empty(count, np.float32)
    # Output n is centred on the position n * down of the samples with up - 1 zeros behind each.
    furthest = ((count - 1) * down + half) // up
    padded = np.zeros(taps - 1 + furthest + 1, np.float32)
    padded[taps - 1 : taps - 1 + len(samples)] = samples[: furthest + 1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    for first in range(min(up, count)):
        last, phase = divmod(first * down + half, up)
        places = windows[last::down][: len(range(first, count, up))]
        found[first::up] = places @ phases[phase]
    return found


@functools.cache
def _phases(up: int, down: int) -> npt.NDArray[np.float32]:
    """The filter's taps for each phase, the last sample's tap last; shape (up, taps)."""
    larger = max(up, down)
    half = HALF_PERIODS * larger
    places = np.arange(-half, half + 1)
    taps = np.sinc(places / larger) * np.kaiser(2 * half + 1, BETA)
    taps *= up / taps.sum()
    rows = np.zeros((-(-len(taps) // up), up))
    rows.ravel()[: len(taps)] = taps
    return np.ascontiguousarray(rows.T[:, ::-1]).astype(np.float32)
