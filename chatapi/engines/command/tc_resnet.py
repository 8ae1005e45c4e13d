"""Command classification by a small convolutional network, in ONNX (`training/commands`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chatapi.audio import Samples
from chatapi.engines import COMMAND_SAMPLES, CommandFeatures, CommandReplay, Stop, never, onnx_providers
from chatapi.engines.command.replay_file import read
from chatapi.engines.command.spectrogram import spectrograms
from chatapi.errors import EngineFailed, ModelError
from chatapi.settings import Settings

if TYPE_CHECKING:
    from chatapi.catalog import InstalledModel

LABELS = "labels"
"""Key of the graph's metadata that has the labels, separated by commas; the last one is that of other sounds."""


class TcResNet:
    """A clip takes about 1 ms on one core. ModelError when it cannot be loaded."""

    def __init__(self, settings: Settings, models: Sequence[InstalledModel]) -> None:
        if not models:
            raise ModelError("the tc_resnet engine needs a model and was given none; `chatapi models` lists them")
        onnx = next(path for path in models[0].files.values() if path.suffix == ".onnx")
        try:
            # On a GPU, copying the clip would take longer than the network.
            self._session = onnx_providers.session(onnx, onnx_providers.background_options(), settings, suited=("cpu",))
            found = self._session.get_modelmeta().custom_metadata_map[LABELS]
        except Exception as error:
            raise ModelError(f"{onnx} cannot be loaded: {error}") from error
        self.labels = tuple(found.split(","))
        self.features = f"tc_resnet-{hashlib.sha256(onnx.read_bytes()).hexdigest()[:12]}"

    def classify(self, samples: Samples, stop: Stop = never) -> Iterator[CommandFeatures]:
        if stop():
            return
        clip = np.zeros((1, COMMAND_SAMPLES), np.float32)
        given = samples[:COMMAND_SAMPLES]
        start = (COMMAND_SAMPLES - len(given)) // 2
        clip[0, start : start + len(given)] = given
        try:
            logits, embeddings = self._session.run(["logits", "embeddings"], {"mels": spectrograms(clip)})
        except Exception as error:
            raise EngineFailed("the command classifier failed; the log says why") from error
        odds = np.exp(logits[0] - logits[0].max())
        yield CommandFeatures(tuple(float(each) for each in odds / odds.sum()), embeddings[0])

    def replay(self, stop: Stop = never) -> Iterator[CommandReplay]:
        found = read(self.features, self.labels)
        if found is not None and not stop():
            yield found
