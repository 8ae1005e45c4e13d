"""Wake word detection with microWakeWord: small streaming networks in TensorFlow Lite, through pymicro-wakeword."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pymicro_wakeword
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures

from chatapi.audio import Samples
from chatapi.engines import WAKE_WORD_FRAME, Stop, never
from chatapi.errors import ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

MAGIC = b"TFL3"
"""Bytes 4 to 7 of every TensorFlow Lite file; the library would end the process on another file."""


class PymicroWakeword:
    """Detects one wake word in any number of streams: each has its own network, and so its own state.

    A network takes 0.2 MB and half a millisecond to load, and 2 to 4 ms of one core for a second of audio. The
    manifest's options are those of the model's own description: `words`, `threshold`, and `window`, the number of
    probabilities that are averaged.
    """

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        """Raises ModelError when there is no model or it cannot be loaded."""
        if not models:
            raise ModelError(
                "the pymicro_wakeword engine needs a model, and there is none; `chatapi models` lists them"
            )
        self._model = models[0]
        self._file = next(path for path in self._model.files.values() if path.suffix == ".tflite")
        with self._file.open("rb") as file:
            if file.read(8)[4:] != MAGIC:
                raise ModelError(f"{self._file} cannot be loaded: it is not a TensorFlow Lite file")
        options = self._model.options
        try:
            self.words, self._window = str(options["words"]), int(options["window"])
            self.threshold = settings.wake_word.threshold or float(options["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the wake word {self._model.name} needs words, threshold and window: {error}") from error
        folder = Path(pymicro_wakeword.__file__).parent / "lib"
        libraries = list(folder.glob("*tensorflowlite_c.*"))
        if not libraries:
            raise ModelError(f"pymicro-wakeword is incomplete: {folder} has no TensorFlow Lite library")
        self._library = libraries[0]
        self.stream()

    def stream(self) -> _PymicroStream:
        try:
            network = MicroWakeWord(
                id=self._model.name,
                wake_word=self.words,
                tflite_model=self._file,
                probability_cutoff=self.threshold,
                sliding_window_size=self._window,
                trained_languages=list(self._model.languages),
                libtensorflowlite_c_path=self._library,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"{self._file} cannot be loaded: {error}") from error
        return _PymicroStream(network)

    def probabilities(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        stream = self.stream()
        for start in range(0, len(samples), WAKE_WORD_FRAME):
            if stop():
                return
            yield stream.probability(samples[start : start + WAKE_WORD_FRAME])


class _PymicroStream:
    def __init__(self, network: MicroWakeWord) -> None:
        self._network = network
        self._features = MicroWakeWordFeatures()
        self._count = 0
        self._last = 0.0

    def probability(self, samples: Samples) -> float:
        data = (np.clip(samples, -1.0, 1.0) * np.float32(32767)).astype("<i2").tobytes()
        found = [self._probability(features) for features in self._features.process_streaming(data)]
        return max(found, default=self._last)

    def _probability(self, features: Any) -> float:
        probability = self._network.process_streaming_prob(features)
        self._count += 1
        # Between its probabilities the library returns 0.
        if self._count % self._network.stride == 0:
            self._last = float(probability or 0.0)
        return self._last
