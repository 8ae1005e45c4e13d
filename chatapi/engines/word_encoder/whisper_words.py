"""Word encoding by the first layers of a Whisper encoder, in ONNX, and a projection that tells words apart.

The projection is a linear discriminant analysis of words by many voices (`training/commands/word_projection.py`): what
differs between speakers of the same word counts little in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chatapi.audio import Samples
from chatapi.audio.mel import log_mel, mel_filters
from chatapi.engines import COMMAND_SAMPLES, CommandReplay, Stop, never, onnx_providers
from chatapi.engines.word_encoder.pooling import centred, pooled
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

FOLDER = Path(__file__).parent
"""Has a file for each model: its projection, and its embeddings of known clips."""


class WhisperWords:
    """A clip takes about 30 ms on one core. ModelError when it cannot be loaded."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the whisper_words engine needs a model and was given none; `chatapi models` lists them")
        onnx, self._file = models[0].files["encoder.onnx"], FOLDER / f"{models[0].name}.npz"
        if not self._file.is_file():
            message = f"there is no projection for the model {models[0].name}"
            raise ModelError(f"{message}; `training/commands/word_projection.py` makes it")
        try:
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings)
            with np.load(self._file, allow_pickle=False) as found:
                self._mean, self._projection = found["mean"], found["projection"].astype(np.float32)
                self._beside_mean, self.beside = found["beside_mean"], str(found["beside"])
                self.features = f"{models[0].name}-{found['revision']}"
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        self._bands = mel_filters(80)

    def encode(self, samples: Samples, other: Samples, stop: Stop = never) -> Iterator[Samples]:
        if stop():
            return
        clip, speech = centred(samples[:COMMAND_SAMPLES])
        try:
            [[frames]] = self._session.run(None, {"mel": log_mel(clip, self._bands)[None]})
        except Exception as error:
            raise EngineFailed("the word encoder failed; the log says why") from error
        own = _unit((pooled(frames[speech]) - self._mean) @ self._projection)
        yield np.concatenate([own, _unit(other - self._beside_mean)]) if len(other) else own

    def known(self, labels: tuple[str, ...], stop: Stop = never) -> Iterator[CommandReplay]:
        with np.load(self._file, allow_pickle=False) as found:
            if stop() or tuple(found["names"].tolist()) != tuple(labels):
                return
            embeddings = found["embeddings"].astype(np.float32) * found["scale"]
            yield CommandReplay(embeddings, tuple(found["labels"].tolist()), tuple(found["parts"].tolist()),
                                tuple(found["words"].tolist()))  # fmt: skip


def _unit(vector: Samples) -> Samples:
    """The vector with the length 1."""
    found: Samples = (vector / (np.linalg.norm(vector) + 1e-6)).astype(np.float32)
    return found
