"""Voice conversion with a Whisper encoder's first layers, nearest neighbours and a HiFi-GAN vocoder, in ONNX.

The output is at 22,050 Hz.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chatapi.audio import RATE, Audio, Samples
from chatapi.audio.loudness import loudness_normalized
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.engines import ConversionWindow, Stop, never, onnx_providers
from chatapi.engines.prepared_graphs import GraphSource
from chatapi.engines.voice_converter import matching, vocoder
from chatapi.engines.voice_converter.matching import TargetPools
from chatapi.engines.voice_converter.source_memory import SourceMemories, SourceMemory
from chatapi.engines.voice_converter.vocoder import BANDS, HOP, OUTPUT_RATE, Spectrograms, Vocoder
from chatapi.errors import EngineFailed, ModelError, Unprocessable
from chatapi.settings import Settings
from chatapi.system import malloc_trim

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

FRAME = 320
"""Samples of a frame of features at 16 kHz: 20 ms."""
WINDOW = 30 * RATE
"""Samples that the encoder takes at once; it knows no later positions."""
AROUND = 9
"""Frames before and after a window that the vocoder sees: 13 of its own, and one for interpolation."""
EDGE = 3
"""Frames beside those whose bands are computed, so that windows of the spectrogram are whole."""
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
        self._spectrograms, self._whisper_bands = Spectrograms(), mel_filters(80)
        self._encoder = _session(files["encoder.onnx"], settings)
        self._vocoder = Vocoder(self._opened(models[0], settings))
        self.on_gpu = self._encoder.get_providers()[0] != onnx_providers.NAMES["cpu"]
        self._width = int(self._encoder.get_outputs()[0].shape[-1])
        self._sources, self._pools = SourceMemories(), TargetPools(self._width)

    def _opened(self, model: InstalledModel, settings: Settings) -> list[vocoder.Run]:
        """The parts of the vocoder."""
        onnx, options = model.files["vocoder.onnx"], partial(_options, settings)
        source = GraphSource(onnx, model.digests["vocoder.onnx"], vocoder.PARTS, lambda: vocoder.parts(onnx))
        try:
            sessions = onnx_providers.sessions(source, options, settings)
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        return [partial(self._run, each, each.get_inputs()[0].name) for each in sessions]

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
            bands = matching.at_times(self._spectrograms.of(part), HOP / OUTPUT_RATE, FRAME / RATE, len(features))
            # Half precision: ten minutes then take 36 MB.
            yield np.concatenate([features, bands], axis=1).astype(np.float16)

    def convert(
        self,
        samples: Samples,
        reference: Samples,
        stop: Stop = never,
        source: str = "",
        window: ConversionWindow | None = None,
    ) -> Iterator[Audio]:
        if reference.ndim != 2 or reference.shape[1] != self._width + BANDS:
            raise Unprocessable("the reference was made by another voice converter", code="unknown_reference")
        if not len(reference):
            raise Unprocessable("the reference has no speech", code="empty_reference")
        window = window or ConversionWindow(0, len(samples))
        first, last = (_converted(window.position + each) for each in (window.start, window.end))
        audible = _audible(samples)
        if not audible[window.start // FRAME : -(-window.end // FRAME)].any():
            if last > first:
                yield Audio(np.zeros(last - first, np.float32), OUTPUT_RATE)
            return
        found = self._matched(samples, reference, audible, window, self._sources.of(source), stop)
        if found is not None:
            rows, low = found
            position = window.position + low * FRAME
            yield from self._spoken(rows, audible[low : low + len(rows)], position, (first, last), stop)

    def _matched(
        self, samples: Samples, reference: Samples, audible: Samples, window: ConversionWindow, memory: SourceMemory,
        stop: Stop,
    ) -> tuple[Samples, int] | None:  # fmt: skip
        """The vocoder's bands for the frames of the window and AROUND more, of shape (frames, 80), and the place of the
        first one; None: stopped."""
        levelled = memory.levelled(samples, window.start, window.end)
        parts = []
        for first in range(0, len(levelled), WINDOW):
            if stop():
                return None
            parts.append(self._features(levelled[first : first + WINDOW]))
        features, pool = np.concatenate(parts), self._pools.of(reference)
        first, last = window.start // FRAME, -(-window.end // FRAME)
        low, high = max(0, first - AROUND), min(len(features), last + AROUND)
        own = self._bands(levelled, low, high)
        known = np.concatenate([features[first:last], own[first - low : last - low]], axis=1)
        heard = audible[first:last]
        memory.features.add(known[heard])
        mean, spread = memory.features.statistics(pool.mean, pool.spread)
        query = matching.normalized(features[low:high], mean[: self._width], spread[: self._width])
        found, nearness = list[Samples](), list[Samples]()
        for begin in range(0, len(query), matching.BLOCK):
            if stop():
                return None
            # With the frames beside the block, which decide with its own.
            around = slice(max(0, begin - matching.SMOOTHED), begin + matching.BLOCK + matching.SMOOTHED)
            rows, near = matching.matched(query[around], pool.features, pool.bands)
            inside = slice(begin - around.start, begin - around.start + matching.BLOCK)
            found.append(rows[inside])
            nearness.append(near[inside])
        bands = slice(self._width, None)
        shares = _shares(np.concatenate(nearness), memory, slice(first - low, last - low), heard)
        return matching.articulated(np.concatenate(found), own, (mean[bands], spread[bands]), pool, shares), low

    def _bands(self, samples: Samples, low: int, high: int) -> Samples:
        """The vocoder's bands of the frames from `low` to before `high`."""
        begin = max(0, low - EDGE)
        rows = self._spectrograms.of(samples[begin * FRAME : (high + EDGE) * FRAME])
        return matching.at_times(rows, HOP / OUTPUT_RATE, FRAME / RATE, high - begin)[low - begin :]

    def _spoken(
        self, found: Samples, audible: Samples, position: int, samples: tuple[int, int], stop: Stop
    ) -> Iterator[Audio]:
        """The audio from one sample of the stream to another one. `found`: bands of frames of 20 ms, the first of which
        begins `position` samples of 16 kHz after the stream's beginning."""
        # The vocoder's frames have their places in the stream, so that windows of a stream fit together.
        offset = position / RATE * OUTPUT_RATE / HOP
        frames = np.arange(int(np.ceil(offset)), int(np.ceil(offset + len(found) * FRAME / RATE * OUTPUT_RATE / HOP)))
        places = (frames - offset + 0.5) * (HOP / OUTPUT_RATE) / (FRAME / RATE) - 0.5
        spectrogram = matching.at_places(found, places)
        gains = np.ceil(matching.at_places(_widened(audible)[:, None].astype(np.float32), places)[:, 0])
        first, last = samples[0] // HOP - frames[0], -(-samples[1] // HOP) - frames[0]
        begun = (int(first) + int(frames[0])) * HOP
        for part in vocoder.spoken(self._vocoder, spectrogram, max(0, int(first)), min(int(last), len(frames)), stop):
            times = (np.arange(begun, begun + len(part)) - frames[0] * HOP + 0.5) / HOP - 0.5
            faded = part * np.interp(times, np.arange(len(gains)), gains).astype(np.float32)
            yield Audio(faded[max(0, samples[0] - begun) : max(0, samples[1] - begun)], OUTPUT_RATE)
            begun += len(part)

    def _features(self, samples: Samples) -> Samples:
        """Of shape (frames of 20 ms, width)."""
        # The spectrogram mirrors 200 samples at both ends, and the last frame may be incomplete.
        whole = max(2 * FRAME, -(-len(samples) // FRAME) * FRAME)
        padded = np.pad(samples, (0, whole - len(samples)))
        found: Samples = self._run(self._encoder, "mel", log_mel(padded, self._whisper_bands)[None])[0]
        return found[: max(1, -(-len(samples) // FRAME))]

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


def _shares(nearness: Samples, memory: SourceMemory, within: slice, heard: Samples) -> Samples:
    """The share of the source's own envelope in each frame; `within`: those of the window, `heard` which of them are
    audible, and say what is usual."""
    memory.nearness.add(nearness[within][heard, None])
    usual = (np.full(1, each, np.float32) for each in matching.USUAL_NEARNESS)
    mean, spread = memory.nearness.statistics(*usual)
    return matching.articulation(nearness, float(mean[0]), float(spread[0]))


def _options(settings: Settings) -> Any:
    options = onnx_providers.background_options()
    options.intra_op_num_threads = settings.voice_converter.threads or max(1, _cores() // 2)
    return options


def _session(onnx: Path, settings: Settings) -> Any:
    try:
        return onnx_providers.session(onnx, _options(settings), settings)
    except Exception as error:
        raise ModelError(f"{onnx} cannot be loaded: {error}") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _converted(samples: int) -> int:
    """The place in the output of a sample of 16 kHz."""
    return round(samples * OUTPUT_RATE / RATE)


def _audible(samples: Samples) -> Samples:
    """Whether the source is audible, for each frame of 20 ms."""
    padded = np.pad(samples.astype(np.float32), (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    found: Samples = np.sqrt(np.mean(np.square(padded), axis=1)) >= SILENT
    return found


def _widened(audible: Samples) -> Samples:
    """With the frames beside speech, which have its beginning or its end."""
    found: Samples = audible | np.append(audible[1:], False) | np.insert(audible[:-1], 0, False)
    return found
