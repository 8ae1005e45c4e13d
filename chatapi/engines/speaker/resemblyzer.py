"""Speaker embeddings by Resemblyzer's voice encoder, in ONNX.

Wan et al., Generalized End-to-End Loss for Speaker Verification (2018). The input is computed as by Resemblyzer 0.1.4
(resemblyzer/audio.py, Apache-2.0): quiet audio is amplified to -30 dBFS; the power in 40 mel bands, without logarithm,
of windows of 25 ms around every 10 ms; before and after the audio there is silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatapi.audio import Samples
from chatapi.audio.mel import FFT, HOP, mel_filters, power
from chatapi.engines import SPEAKER_WINDOW, Stop, never, onnx_providers, speaker_windows
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings
from chatapi.system import malloc_trim

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

MELS = 40
LEAST_RMS = 10 ** (-30 / 20)
"""-30 dBFS."""
FRAMES = SPEAKER_WINDOW // HOP
"""Frames of a window."""
BATCH = 8
"""Windows computed at once, about 0.2 s on one core."""


class Resemblyzer:
    """A window of 1.6 s takes about 20 ms on one core. ModelError when it cannot be loaded."""

    threshold = 0.65

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the resemblyzer engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        self._filters = mel_filters(MELS)
        try:
            # A GPU would not help: the network takes its 160 frames one after the other.
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings, suited=("cpu",))
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error

    def embeddings(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        windows = self._windows(samples)
        for first in range(0, len(windows), BATCH):
            if stop():
                return
            try:
                [found] = self._session.run(None, {"mels": windows[first : first + BATCH]})
            except Exception as error:
                raise EngineFailed("Resemblyzer failed; the log says why") from error
            for embedding in found:
                if stop():
                    return
                yield embedding

    def _windows(self, samples: Samples) -> Samples:
        """The mel spectrograms of all windows, of shape (windows, frames, bands)."""
        loud = amplified(samples)
        if len(loud) < SPEAKER_WINDOW:
            # Of 0.8 s repeated, 98.5 % are nearest to their own voice among 17; with silence behind them 84 %.
            loud = np.resize(loud if len(loud) else np.zeros(1, np.float32), SPEAKER_WINDOW)
        frames = mel(loud, self._filters)
        views = np.lib.stride_tricks.sliding_window_view(frames, FRAMES, axis=0)
        return views[[start // HOP for start in speaker_windows(len(loud))]].transpose(0, 2, 1)

    def release_memory(self, _stop: Stop = never) -> None:
        """Returns the memory of the last run, which the C library keeps, to the system."""
        malloc_trim.trim()


def amplified(samples: Samples) -> Samples:
    """The samples, at least as loud as the recordings of which the network learnt."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return samples.astype(np.float32) * np.float32(max(1.0, LEAST_RMS / rms) if rms > 0 else 1.0)


def mel(samples: Samples, filters: Samples) -> Samples:
    """The power in each mel band, of shape (1 + samples / 160, bands)."""
    padded = np.pad(samples, FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
    bell = np.hanning(FFT + 1)[:-1].astype(np.float32)
    found: Samples = (power(frames * bell) @ filters.T).astype(np.float32)
    return found
