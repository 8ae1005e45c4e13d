"""The vocoder of kNN-VC: HiFi-GAN, from a spectrogram to samples at 22,050 Hz, and the spectrogram of its training.

The input is computed as it was trained (jik876/hifi-gan, meldataset.py, MIT): magnitudes of windows of 1024 samples
every 256, 80 mel bands up to 8000 Hz, natural logarithm, at least 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.mel import mel_filters, power
from chatapi.engines import Stop

OUTPUT_RATE, FFT, HOP, BANDS, TOP_HZ, FLOOR = 22_050, 1024, 256, 80, 8000.0, 1e-5
CHUNK, LARGE_CHUNK, CONTEXT = 60, 240, 16
"""Frames of the vocoder in the first chunk, 0.7 s, and in the others, and frames before and after a chunk that it sees:
its receptive field is 13 frames, so that the joints of the chunks cannot be heard, and nothing is cross-faded."""


class Spectrograms:
    """The vocoder's input, of recordings."""

    def __init__(self) -> None:
        self._bands = mel_filters(BANDS, OUTPUT_RATE, FFT, TOP_HZ)

    def of(self, samples: Samples) -> Samples:
        """16 kHz mono as rows of shape (frames of 256 samples at 22,050 Hz, 80)."""
        at_rate = Audio(samples, RATE).at(OUTPUT_RATE).samples
        edge = (FFT - HOP) // 2
        padded = np.pad(at_rate, (edge, edge + FFT), mode="constant")
        frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[: max(1, len(at_rate) // HOP) * HOP : HOP]
        bell = np.hanning(FFT + 1)[:-1].astype(np.float32)
        magnitude = np.sqrt(power(frames * bell) + np.float32(1e-9))
        found: Samples = np.log(np.maximum(magnitude @ self._bands.T, FLOOR)).astype(np.float32)
        return found


def spoken(
    run: Callable[[Samples], Samples], spectrogram: Samples, first: int, last: int, stop: Stop
) -> Iterator[Samples]:
    """The samples of the frames from `first` to before `last`, chunk by chunk; the frames around them are context.
    `run`: from (1, 80, frames) to frames * 256 samples."""
    size = CHUNK
    while first < last:
        if stop():
            return
        end = min(first + size, last)
        start = max(0, first - CONTEXT)
        whole = run(np.ascontiguousarray(spectrogram[start : min(len(spectrogram), end + CONTEXT)].T[None]))
        yield whole[(first - start) * HOP : (end - start) * HOP]
        first, size = end, LARGE_CHUNK
