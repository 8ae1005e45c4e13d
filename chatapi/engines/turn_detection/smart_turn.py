"""End-of-turn detection with Smart Turn v3: Whisper's encoder with one probability as output, in ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatapi.audio import RATE, Samples
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.engines import Stop, never, onnx_providers
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings
from chatapi.system import malloc_trim

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

WINDOW = 8 * RATE
"""Samples of the input: the last 8 s of the utterance, padded with silence at the front where it is shorter."""
MELS = 80


class SmartTurn:
    """Judges the audio, not the words: 8 s in about 60 ms on one core. ModelError when it cannot be loaded."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the smart_turn engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        self._filters = mel_filters(MELS)
        try:
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings)
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        if self._session.get_providers()[0] != onnx_providers.NAMES["cpu"]:
            # TensorRT builds its engine in the first run, which takes minutes the first time; no turn may wait for it.
            list(self.end_of_turn_probability(np.zeros(0, np.float32)))

    def end_of_turn_probability(self, samples: Samples, stop: Stop = never) -> Iterator[float]:
        if stop():
            return
        audio = samples[-WINDOW:].astype(np.float32)
        audio = np.pad(audio, (WINDOW - len(audio), 0))
        audio = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
        try:
            [found] = self._session.run(None, {"input_features": log_mel(audio, self._filters)[np.newaxis]})
        except Exception as error:
            raise EngineFailed("Smart Turn failed; the log says why") from error
        yield float(found.reshape(-1)[0])

    def release_memory(self, _stop: Stop = never) -> None:
        """Returns the memory of the last run, which the C library keeps, to the system."""
        malloc_trim.trim()
