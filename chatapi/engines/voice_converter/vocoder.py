"""The vocoder of kNN-VC: HiFi-GAN, from a spectrogram to samples at 22,050 Hz, and the spectrogram of its training.

The input is computed as it was trained (jik876/hifi-gan, meldataset.py, MIT): magnitudes of windows of 1024 samples
every 256, 80 mel bands up to 8000 Hz, natural logarithm, at least 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.mel import mel_filters, power
from chatapi.engines import Stop, onnx_graph

OUTPUT_RATE, FFT, HOP, BANDS, TOP_HZ, FLOOR = 22_050, 1024, 256, 80, 8000.0, 1e-5
CHUNK, LARGE_CHUNK = 28, 240
"""Frames of the vocoder in the first chunk, 0.3 s, which is soon there, and in the largest; each is at most twice as
long as the one before it, which plays meanwhile."""
LATE_WEIGHT = "ups.1.weight"
"""The weight of the second upsampling. The layers before it see far, but take a fifth of the time; those from it on see
little. So each part gets the context it needs: 80 ms of speech take 0.42 of the time of the whole network with the
context of its first layers."""
PARTS = f"hifigan {LATE_WEIGHT}"
"""Names what `parts` makes, for `GraphSource.recipe`."""
CONTEXT, LATE_CONTEXT = 13, 2
"""Frames before and after a chunk that the network sees, and that its layers from the second upsampling on see: its
receptive field is 12.1 and 1.8 frames, so that the joints of the chunks cannot be heard, and nothing is cross-faded."""
Run = Callable[[Samples], Samples]


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


def parts(onnx: Path) -> tuple[bytes, ...]:
    """The network until the second upsampling, and from it on; none where it has no such layer."""
    return onnx_graph.cut(onnx.read_bytes(), LATE_WEIGHT, dimensions=4) or ()


class Vocoder:
    """The network."""

    def __init__(self, networks: Sequence[Run]) -> None:
        """`networks`: its `parts`, or the whole; the first takes (1, 80, frames), the last returns (1, 1, samples)."""
        self._first, *self._late = networks

    def samples(self, spectrogram: Samples, first: int, last: int) -> Samples:
        """The samples of the frames from `first` to before `last` of a spectrogram of shape (frames, 80)."""
        begin, end = max(0, first - CONTEXT), last + CONTEXT
        seen = spectrogram[begin:end]
        # What is not known yet is taken to go on: at the end of a live chunk the network's padding would be heard.
        seen = np.concatenate([seen, np.repeat(seen[-1:], end - begin - len(seen), axis=0)])
        signal, frames = self._first(np.ascontiguousarray(seen.T[None])), len(seen)
        for late in self._late:
            begin, low = max(0, first - LATE_CONTEXT), begin
            size, frames = signal.shape[-1] // frames, last + LATE_CONTEXT - begin
            signal = late(np.ascontiguousarray(signal[..., (begin - low) * size : (begin - low + frames) * size]))
        return signal.reshape(-1)[(first - begin) * HOP : (last - begin) * HOP]


def spoken(vocoder: Vocoder, spectrogram: Samples, first: int, last: int, stop: Stop) -> Iterator[Samples]:
    """The samples of the frames from `first` to before `last`, chunk by chunk; the frames around them are context."""
    size = CHUNK
    while first < last and not stop():
        end = min(first + size, last)
        yield vocoder.samples(spectrogram, first, end)
        first, size = end, min(2 * size, LARGE_CHUNK)
