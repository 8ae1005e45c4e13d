"""Voice conversion with a Whisper encoder's first layers, nearest neighbours and a HiFi-GAN vocoder, in ONNX.

The output is at 22,050 Hz. The vocoder's input is computed as it was trained (jik876/hifi-gan, meldataset.py, MIT):
magnitudes of windows of 1024 samples every 256, 80 mel bands up to 8000 Hz, natural logarithm, at least 1e-5.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.loudness import loudness_normalized
from chatapi.audio.mel import log_mel, mel_filters, power
from chatapi.engines import Stop, never, onnx_providers
from chatapi.engines.voice_converter import matching
from chatapi.errors import EngineFailed, ModelError, Unprocessable
from chatapi.settings import Settings
from chatapi.system import malloc_trim

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

OUTPUT_RATE, FFT, HOP, BANDS, TOP_HZ, FLOOR = 22_050, 1024, 256, 80, 8000.0, 1e-5
"""Of the vocoder's spectrogram."""
FRAME = 320
"""Samples of a frame of features at 16 kHz: 20 ms."""
WINDOW = 30 * RATE
"""Samples that the encoder takes at once; it knows no later positions."""
CHUNK, CONTEXT = 60, 16
"""Frames of the vocoder in a chunk, 0.7 s, and frames before and after it that it sees: its receptive field is 13
frames, so that the joints of the chunks cannot be heard, and nothing has to be cross-faded."""
SILENT = 1e-3
"""RMS of a frame, relative to full scale, below which the output is silent: -60 dBFS."""


class KnnVc:
    """ModelError when it cannot be loaded."""

    rate = OUTPUT_RATE

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the knn_vc engine needs a model and was given none; `chatapi models` lists them")
        files = models[0].files
        self.reference_format = models[0].name
        self._bands, self._whisper_bands = mel_filters(BANDS, OUTPUT_RATE, FFT, TOP_HZ), mel_filters(80)
        self._encoder = _session(files["encoder.onnx"], settings)
        self._vocoder = _session(files["vocoder.onnx"], settings)
        self._width = int(self._encoder.get_outputs()[0].shape[-1])

    def reference(self, samples: Samples, stop: Stop = never) -> Iterator[Samples]:
        # Whisper's features and the vocoder's spectrogram both depend on the level.
        samples = loudness_normalized(samples)
        for first in range(0, len(samples), WINDOW):
            if stop():
                return
            part = samples[first : first + WINDOW]
            if len(part) < FRAME:
                return
            features = self._features(part)
            bands = matching.at_times(self._spectrogram(part), HOP / OUTPUT_RATE, FRAME / RATE, len(features))
            # Half precision: ten minutes then take 36 MB.
            yield np.concatenate([features, bands], axis=1).astype(np.float16)

    def convert(self, samples: Samples, reference: Samples, stop: Stop = never) -> Iterator[Audio]:
        if reference.ndim != 2 or reference.shape[1] != self._width + BANDS:
            raise Unprocessable("the reference was made by another voice converter", code="unknown_reference")
        if not len(reference):
            raise Unprocessable("the reference has no speech", code="empty_reference")
        if not len(samples):
            return
        count = -(-len(samples) * OUTPUT_RATE // (RATE * HOP))
        gains = _gains(samples, count)
        if not gains.any():
            yield Audio(np.zeros(round(len(samples) * OUTPUT_RATE / RATE), np.float32), OUTPUT_RATE)
            return
        found = self._matched(loudness_normalized(samples), reference.astype(np.float32), stop)
        if found is not None:
            spectrogram = matching.at_times(found, FRAME / RATE, HOP / OUTPUT_RATE, count)
            yield from self._spoken(spectrogram, gains, round(len(samples) * OUTPUT_RATE / RATE), stop)

    def _matched(self, samples: Samples, reference: Samples, stop: Stop) -> Samples | None:
        """The vocoder's bands for each frame of the source, of shape (frames, 80); None: stopped."""
        parts = []
        for first in range(0, len(samples), WINDOW):
            if stop():
                return None
            parts.append(self._features(samples[first : first + WINDOW]))
        query = matching.normalized(np.concatenate(parts))
        pool, bands = matching.normalized(reference[:, : self._width]), reference[:, self._width :]
        found = []
        for first in range(0, len(query), matching.BLOCK):
            if stop():
                return None
            found.append(matching.matched(query[first : first + matching.BLOCK], pool, bands))
        return np.concatenate(found)

    def _spoken(self, spectrogram: Samples, gains: Samples, length: int, stop: Stop) -> Iterator[Audio]:
        """The audio of the frames, chunk by chunk, of `length` samples together."""
        for first in range(0, len(spectrogram), CHUNK):
            if stop():
                return
            start, end = max(0, first - CONTEXT), min(len(spectrogram), first + CHUNK + CONTEXT)
            whole = self._run(self._vocoder, "features", spectrogram[start:end].T[None])[0, 0]
            last = min(first + CHUNK, len(spectrogram))
            places = (np.arange(first * HOP, last * HOP) + 0.5) / HOP - 0.5
            samples = whole[(first - start) * HOP : (last - start) * HOP] * np.interp(
                places, np.arange(len(gains)), gains
            ).astype(np.float32)
            yield Audio(samples[: max(0, length - first * HOP)], OUTPUT_RATE)

    def _features(self, samples: Samples) -> Samples:
        """Of shape (frames of 20 ms, width)."""
        # The spectrogram mirrors 200 samples at both ends, and the last frame may be incomplete.
        whole = max(2 * FRAME, -(-len(samples) // FRAME) * FRAME)
        padded = np.pad(samples, (0, whole - len(samples)))
        found: Samples = self._run(self._encoder, "mel", log_mel(padded, self._whisper_bands)[None])[0]
        return found[: max(1, -(-len(samples) // FRAME))]

    def _spectrogram(self, samples: Samples) -> Samples:
        """The vocoder's input, of shape (frames, 80)."""
        at_rate = Audio(samples, RATE).at(OUTPUT_RATE).samples
        edge = (FFT - HOP) // 2
        padded = np.pad(at_rate, (edge, edge + FFT), mode="constant")
        frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[: max(1, len(at_rate) // HOP) * HOP : HOP]
        bell = np.hanning(FFT + 1)[:-1].astype(np.float32)
        magnitude = np.sqrt(power(frames * bell) + np.float32(1e-9))
        found: Samples = np.log(np.maximum(magnitude @ self._bands.T, FLOOR)).astype(np.float32)
        return found

    def _run(self, session: Any, name: str, given: Samples) -> Samples:
        try:
            [found] = session.run(None, {name: np.ascontiguousarray(given, np.float32)})
        except Exception as error:
            raise EngineFailed("the voice converter failed; the log says why") from error
        result: Samples = found
        return result

    def release_memory(self, _stop: Stop = never) -> None:
        """Returns the memory of the last run, which the C library keeps, to the system."""
        malloc_trim.trim()


def _session(onnx: Path, settings: Settings) -> Any:
    options = onnx_providers.background_options()
    options.intra_op_num_threads = settings.voice_converter.threads or max(1, _cores() // 2)
    try:
        return onnx_providers.session(onnx, options, settings)
    except Exception as error:
        raise ModelError(f"{onnx} cannot be loaded: {error}") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gains(samples: Samples, count: int) -> Samples:
    """1 for each frame of the vocoder in which the source is audible, 0 where it is silent."""
    padded = np.pad(samples.astype(np.float32), (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    audible = np.sqrt(np.mean(np.square(padded), axis=1)) >= SILENT
    # A frame beside speech has its beginning or its end.
    wide = audible | np.append(audible[1:], False) | np.insert(audible[:-1], 0, False)
    return np.ceil(matching.at_times(wide[:, None].astype(np.float32), FRAME / RATE, HOP / OUTPUT_RATE, count)[:, 0])
